import math

import pytest
import torch
from grids import train
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_faces import model_of, tiny_config

from attacker.capture.plugin import MaliciousServer
from attacker.capture.reply_checks import ReplySchema
from attacker.capture.store import CaptureStore
from clients.defenses import apply, clip, gaussian_noise, load_all, names
from clients.defenses.mods import client_mods
from fl_sim import seeds
from fl_sim.config import ConfigError
from fl_sim.federation.strategy import FedSGD
from fl_sim.runs import RunFolder
from fl_sim.threads import one_thread
from fl_sim.updates import flatten, norm

entries = st.floats(-1e6, 1e6, width=32)


def noisy_update(size: int = 50, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = seeds.generator(seed, "update")
    return {"a": torch.randn(size, size, generator=generator), "b": torch.randn(size, generator=generator)}


def halve(factor: float):
    """A third party's defense."""
    return lambda update, generator: {name: value * factor for name, value in update.items()}


def test_the_folder_is_the_registry():
    assert {"clip", "gaussian_noise"} <= set(names())
    assert "mods" not in names()


def test_no_defense_is_the_identity():
    update = noisy_update()
    assert apply([], update, 0, 1, 2) is update
    assert client_mods([], tiny_config(), lambda message, context: None) == []


@settings(deadline=None)
@given(values=st.lists(entries, min_size=1, max_size=20), bound=st.floats(1e-3, 1e5))
def test_after_clipping_the_norm_is_at_most_the_bound_and_the_direction_is_kept(values, bound):
    update = {"w": torch.tensor(values)}
    clipped = clip.defend(update, clip.Settings(max_norm=bound), seeds.generator(0))
    size = norm(update)
    assert norm(clipped) <= bound * (1 + 1e-5)
    if size <= bound:
        assert torch.equal(clipped["w"], update["w"])
    else:
        torch.testing.assert_close(clipped["w"] * (size / bound), update["w"], rtol=1e-4, atol=1e-3)


def test_a_zero_update_survives_clipping():
    assert torch.equal(clip.defend({"w": torch.zeros(3)}, clip.Settings(1.0), seeds.generator(0))["w"], torch.zeros(3))


@pytest.mark.parametrize("std", [0.01, 2.0])
def test_noise_has_mean_zero_and_the_variance_of_the_formula(std):
    update = noisy_update(200)
    noise = flatten(gaussian_noise.defend(update, gaussian_noise.Settings(std), seeds.generator(1))) - flatten(update)
    n = len(noise)
    # Four standard errors of the mean (std / sqrt n) and of the variance (std^2 sqrt(2 / n)).
    assert abs(float(noise.mean())) < 4 * std / math.sqrt(n)
    assert abs(float(noise.double().var()) - std**2) < 4 * std**2 * math.sqrt(2 / n)


def test_noise_follows_from_seed_round_user_and_place_alone():
    (defense,), update = load_all([{"name": "gaussian_noise", "std": 1.0}]), noisy_update()
    before = torch.get_rng_state()
    first = flatten(apply([defense, defense], update, 0, 1, 2))
    assert torch.equal(first, flatten(apply([defense, defense], update, 0, 1, 2)))
    for other in [(1, 1, 2), (0, 2, 2), (0, 1, 3)]:
        assert not torch.equal(first, flatten(apply([defense, defense], update, *other)))
    single = flatten(apply([defense], update, 0, 1, 2)) - flatten(update)
    assert not torch.allclose(first - flatten(update), 2 * single)  # the second place draws its own noise
    assert torch.equal(before, torch.get_rng_state())


def test_defenses_compose_in_the_order_given():
    bound, noise = load_all([{"name": "clip", "max_norm": 1.0}, {"name": "gaussian_noise", "std": 1.0}])
    assert norm(apply([noise, bound], noisy_update(), 0, 1, 1)) <= 1 + 1e-5
    assert norm(apply([bound, noise], noisy_update(), 0, 1, 1)) > 10


def test_a_third_partys_defense_is_named_by_its_factory():
    update = noisy_update()
    halved = apply(load_all([{"name": f"{__name__}:halve", "factor": 0.5}]), update, 0, 1, 1)
    assert torch.equal(halved["a"], update["a"] * 0.5)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "clop", "max_norm": 1.0}, "unknown defense 'clop'; did you mean 'clip'?"),
        ({"name": "zzzzzz"}, "choose one of augment, "),
        ({"max_norm": 1.0}, "a defense needs a name"),
        ({"name": "clip", "max_nrm": 1.0}, "did you mean 'defenses.clip.max_norm'?"),
        ({"name": "clip", "max_norm": -1.0}, "must be above 0"),
        ({"name": "gaussian_noise", "std": "much"}, "std"),
        ({"name": "gaussian_noise", "std": -1.0}, "must be 0 or more"),
        ({"name": "no.such.package:thing"}, "cannot be imported"),
        ({"name": f"{__name__}:halve", "fraction": 0.5}, "does not take the settings"),
    ],
)
def test_mistakes_are_told_in_one_sentence(table, message):
    with pytest.raises(ConfigError) as error:
        load_all([table])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def captured(config, folder):
    store = CaptureStore(RunFolder(folder))
    parameters = [name for name, _ in model_of(config).named_parameters()]
    section = config.federation
    inner = FedSGD(section.learning_rate, section.update)
    plugin = MaliciousServer(inner, store, ReplySchema(parameters, section.update, section.learning_rate, 1e6), 60)
    train(plugin, config)
    store.wait()
    assert store.rejected() == []
    return {user: store.observation(1, user).gradient for user in store.users(1)}


def test_the_mod_defends_the_gradient_whether_users_send_it_or_weights(tmp_path):
    defenses = [{"name": "clip", "max_norm": 0.05}, {"name": "gaussian_noise", "std": 0.001}]
    runs = {}
    for update in ("gradient", "weights"):
        config = tiny_config(defenses=defenses, federation={"update": update, "learning_rate": 1.0, "rounds": 1})
        runs[update] = captured(config, tmp_path / update)
    plain = captured(tiny_config(federation={"rounds": 1}), tmp_path / "plain")
    for user, gradient in runs["gradient"].items():
        loaded = load_all(defenses)
        with one_thread():
            expected = apply(loaded, plain[user], 0, 1, user)
        assert all(torch.equal(gradient[name], expected[name]) for name in expected)
        # Float32 weights of size 1 carry the gradient to about 1e-7.
        torch.testing.assert_close(flatten(runs["weights"][user]), flatten(gradient), rtol=0, atol=1e-6)


def test_flowers_own_mods_work_on_weights(tmp_path):
    table = {
        "name": "flwr.clientapp.mod:LocalDpMod",
        "clipping_norm": 0.01,
        "sensitivity": 1e-9,
        "epsilon": 1.0,
        "delta": 1e-5,
    }
    config = tiny_config(defenses=[table], federation={"update": "weights", "learning_rate": 1.0, "rounds": 1})
    for gradient in captured(config, tmp_path).values():
        assert norm(gradient) == pytest.approx(0.01, rel=1e-2)
