"""Each defense keeps what docs/defenses.md says of it; the laws that all share are clients.testing's."""

import math
from math import inf

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.defenses import (
    apply,
    clip,
    laplace_noise,
    load_all,
    local_dp,
    names,
    prune,
    quantize,
    representation_perturbation,
    sign,
)
from clients.testing import check_defense, sample_update
from clients.training import Private, training_of
from clients.user import Faces
from fl_sim import models, seeds
from fl_sim.config import Config, ConfigError, Federation, dump, parse
from fl_sim.modules import logits_layer
from fl_sim.updates import flatten, norm

CLIP = {"name": "clip", "max_norm": 0.5}
CLAIMED = [
    ({"name": "clip", "max_norm": 1.0}, {"max_norm": 1.0, "random": False, "identity_when_off": {"max_norm": inf}}),
    ({**CLIP, "per_layer": True}, {"max_norm": 0.5 * 10**0.5, "identity_when_off": {"max_norm": inf}}),
    ({"name": "gaussian_noise", "std": 0.3}, {"noise_std": 0.3, "random": True, "identity_when_off": {"std": 0.0}}),
    ({"name": "laplace_noise", "scale": 0.3}, {"noise_std": 0.3 * 2**0.5, "identity_when_off": {"scale": 0.0}}),
    (
        {"name": "local_dp", "epsilon": 1.0, "delta": 1e-5, "max_norm": 1.0},
        {"random": True, "identity_when_off": {"epsilon": inf, "max_norm": inf}},
    ),
    ({"name": "prune", "keep": 0.1}, {"exactly_k": 0.1, "random": False, "identity_when_off": {"keep": 1.0}}),
    ({"name": "prune", "keep": 0.1, "per_layer": True}, {"identity_when_off": {"keep": 1.0}}),
    (
        {"name": "random_sparsify", "keep": 0.1},
        {"exactly_k": 0.1, "unbiased": True, "random": True, "identity_when_off": {"keep": 1.0}},
    ),
    ({"name": "sign"}, {"random": False}),
    ({"name": "quantize", "bits": 2}, {"unbiased": True, "random": True, "identity_when_off": {"bits": 32}}),
    ({"name": "dropout_update", "rate": 0.5}, {"random": True, "identity_when_off": {"rate": 0.0}}),
    ({"name": "dropout_update", "rate": 0.5, "per_layer": True}, {"random": True, "identity_when_off": {"rate": 0.0}}),
    ({"name": "representation_perturbation", "prune": 0.5, "probes": 2}, {"identity_when_off": {"prune": 0.0}}),
    ({"name": "mixup", "alpha": 1.0}, {"random": True, "identity_when_off": {"alpha": 0.0}}),
    (
        {"name": "augment"},
        {"random": True, "identity_when_off": {"flip": 0.0, "rotate": 0.0, "shift": 0.0, "brightness": 0.0}},
    ),
    ({"name": "batch_size", "photos": 3}, {"random": True, "identity_when_off": {"photos": 0}}),
    (
        {"name": "local_steps", "epochs": 2, "batch_size": 2},
        {"random": False, "identity_when_off": {"epochs": 1, "batch_size": 0}},
    ),
]


def defended(table, update, seed=0, before=()):
    return apply(load_all([*before, table]), update, seed, 1, 0)


@pytest.mark.parametrize(("table", "claims"), CLAIMED, ids=[str(table) for table, _ in CLAIMED])
def test_the_laws_and_what_each_claims(table, claims):
    check_defense(table, claims)


def test_every_defense_is_checked():
    assert {table["name"] for table, _ in CLAIMED} == set(names())


def test_off_survives_the_config_file_and_the_way_to_the_clients():
    config = parse(Config, {"defenses": [{"name": "clip", "max_norm": inf}]})
    assert Config.model_validate_json(config.model_dump_json()) == config
    assert "max_norm = inf" in dump(config)


def test_per_layer_clipping_bounds_each_tensor_alone():
    update = sample_update()
    clipped = defended({**CLIP, "per_layer": True}, update)
    for name, value in update.items():
        assert float(clipped[name].double().norm()) <= 0.5 * (1 + 1e-6)
        torch.testing.assert_close(clipped[name] * (float(value.norm()) / 0.5), value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "key", "relative", "off"),
    [
        ("gaussian_noise", "std", {"noise_multiplier": 0.2}, {"noise_multiplier": 0.0}),
        ("laplace_noise", "scale", {"scale": 0.2, "relative": "clip_norm"}, {"scale": 0.0}),
    ],
)
def test_noise_is_relative_to_the_clip_before_it_or_to_the_update(name, key, relative, off):
    relative = {"name": name, **relative}
    draw = {"name": name, key: 1.0}
    check_defense([CLIP, relative], {"identity_when_off": off})
    noise = flatten(defended(relative, {"w": torch.zeros(1000)}, before=[CLIP]))
    absolute = flatten(defended({"name": name, key: 0.1}, {"w": torch.zeros(1000)}, before=[CLIP]))
    assert torch.equal(noise, absolute)
    # 100 entries of 1 to 100: 95 % of them are at most 95.
    ramp = {"w": torch.arange(1.0, 101.0), "v": -torch.arange(1.0, 101.0)}
    noise = flatten(defended({"name": name, key: 0.1, "relative": "percentile95"}, ramp)) - flatten(ramp)
    torch.testing.assert_close(
        noise, 9.5 * flatten(defended(draw, {k: v * 0 for k, v in ramp.items()})), atol=1e-4, rtol=0
    )


def test_laplace_noise_has_the_tails_of_its_law():
    noise = laplace_noise.defend({"w": torch.zeros(200_000)}, laplace_noise.Settings(2.0), seeds.generator(3))["w"]
    for bound in (1.0, 4.0, 10.0):
        expected = math.exp(-bound / 2.0)
        assert float((noise.abs() > bound).float().mean()) == pytest.approx(expected, abs=4 * (expected / 2e5) ** 0.5)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.5, 1e-5), (8.0, 1e-3)])
def test_local_dp_is_calibrated_as_the_library_says_to_any_other_user(epsilon, delta):
    from dp_accounting.pld.privacy_loss_mechanism import GaussianPrivacyLoss

    table = local_dp.Settings(epsilon, delta, max_norm=0.3)
    std = local_dp.std(table)
    assert GaussianPrivacyLoss(std, sensitivity=0.6).get_delta_for_epsilon(epsilon) == pytest.approx(delta, rel=1e-3)

    def delta_of(sigma):  # Balle & Wang 2018, theorem 8
        a, b = 0.6 / (2 * sigma), epsilon * sigma / 0.6
        tail = [0.5 * math.erfc(-x / math.sqrt(2)) for x in (a - b, -a - b)]
        return tail[0] - math.exp(epsilon) * tail[1]

    assert delta_of(std) == pytest.approx(delta, rel=1e-3)
    update = sample_update(100.0, torch.float64)
    noise = flatten(local_dp.defend(update, table, seeds.generator(0))) - flatten(
        clip.defend(update, clip.Settings(0.3), seeds.generator(0))
    )
    assert float(noise.var()) == pytest.approx(std**2, rel=0.05)


@settings(deadline=None)
@given(
    values=st.lists(st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0]), min_size=1, max_size=30),
    keep=st.floats(0.01, 1.0, exclude_max=True),
)
def test_prune_keeps_the_k_largest_and_of_equal_ones_the_first(values, keep):
    vector = torch.tensor(values)
    k = max(1, round(keep * len(values)))
    order = sorted(range(len(values)), key=lambda index: (-abs(values[index]), index))[:k]
    expected = torch.zeros(len(values))
    expected[order] = vector[order]
    half = len(values) // 2
    update = {"a": vector[:half], "b": vector[half:]}
    pruned = flatten(prune.defend(update, prune.Settings(keep), seeds.generator(0)))
    assert torch.equal(pruned, expected)


def test_prune_per_layer_keeps_its_part_of_each():
    update = sample_update()
    pruned = prune.defend(update, prune.Settings(0.1, per_layer=True), seeds.generator(0))
    for name, value in update.items():
        assert int(pruned[name].count_nonzero()) == max(1, round(0.1 * value.numel()))


def test_what_random_sparsify_sends_is_scaled_up():
    update = sample_update()
    total = len(flatten(update))
    sent = flatten(defended({"name": "random_sparsify", "keep": 0.25}, update))
    kept = sent != 0
    torch.testing.assert_close(sent[kept], flatten(update)[kept] * (total / round(total * 0.25)))


def test_sign_sends_one_magnitude_a_tensor_and_keeps_its_mean():
    update = {**sample_update(), "zero": torch.zeros(3)}
    signs = sign.defend(update, sign.Settings(), seeds.generator(0))
    for name, value in update.items():
        assert torch.equal(signs[name].sign(), value.sign())
        assert len(signs[name].abs().unique()) == 1
        torch.testing.assert_close(signs[name].abs().mean(), value.abs().mean())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_quantize_has_its_levels_and_is_off_by_less_than_a_step(bits):
    update = sample_update()
    rounded = quantize.defend(update, quantize.Settings(bits), seeds.generator(0))
    for name, value in update.items():
        step = float(value.abs().max()) / (2 ** (bits - 1) - 1)
        assert len(rounded[name].unique()) <= 2**bits - 1
        assert float((rounded[name] - value).abs().max()) < step * (1 + 1e-6)


def test_quantize_is_unbiased_within_three_standard_errors():
    value = torch.tensor([0.9, 0.3, -0.123, 1.0, 0.0])
    draws = torch.stack(
        [
            quantize.defend({"w": value}, quantize.Settings(3), seeds.generator(seed, "draw"))["w"]
            for seed in range(2000)
        ]
    ).double()
    error, standard = (draws.mean(0) - value).abs(), draws.std(0) / 2000**0.5
    assert bool((error <= 3 * standard + 1e-7).all())


def test_dropout_withholds_the_share_of_its_rate_and_leaves_the_rest_alone():
    update = sample_update()
    sent = flatten(defended({"name": "dropout_update", "rate": 0.3}, update))
    assert torch.equal(sent[sent != 0], flatten(update)[sent != 0])
    assert float((sent == 0).float().mean()) == pytest.approx(0.3, abs=4 * (0.21 / len(sent)) ** 0.5)
    layers = defended({"name": "dropout_update", "rate": 0.5, "per_layer": True}, update)
    whole = [torch.equal(layers[name], value) for name, value in update.items()]
    empty = [not layers[name].any() for name in update]
    assert [a != b for a, b in zip(whole, empty, strict=True)] == [True] * len(update)


@pytest.fixture(scope="module")
def victim():
    model = models.build("lenet", 3, 32, seeds.generator(0, "model"))
    photos = torch.rand(2, 3, 32, 32, generator=seeds.generator(1))
    return Private(model, training_of(Faces(photos, torch.tensor([0, 2]), {}), 3, Federation()))


@pytest.mark.slow
def test_soteria_estimates_the_sensitivity_of_the_exact_jacobian(victim):
    body, photos = victim.model[:-1], victim.training.photos
    images = photos * 2 - 1
    images.requires_grad_()
    features = body(images)  # (n, f)
    rows = [torch.autograd.grad(feature.sum(), images, retain_graph=True)[0] for feature in features.unbind(1)]
    jacobian = torch.stack(rows, 1).flatten(2)  # (n, f, pixels): photos do not see each other
    exact = (jacobian.norm(dim=2) / (features.detach().abs() + 0.1)).sum(0)
    layer = logits_layer(victim.model, photos)[1]
    errors = []
    for probes in (8, 200):
        estimate = representation_perturbation.feature_sensitivity(
            victim.model, layer, photos, probes, seeds.generator(0)
        )
        errors.append(float((estimate / exact - 1).square().mean().sqrt()))
    assert errors[1] < 0.05
    assert errors[0] < 0.25


def test_soteria_drops_columns_of_the_last_linear_layer_and_nothing_else(victim):
    update = {name: torch.ones_like(value) for name, value in models.trainable(victim.model).items()}
    (defense,) = load_all([{"name": "representation_perturbation", "prune": 0.25}])
    pruned = apply([defense], update, 0, 1, 0, victim)
    name = f"{logits_layer(victim.model, victim.training.photos)[0]}.weight"
    dropped = (pruned[name] == 0).all(0)
    assert int(dropped.sum()) == round(0.25 * len(dropped))
    assert bool((pruned[name][:, ~dropped] == 1).all())
    assert all(torch.equal(value, update[other]) for other, value in pruned.items() if other != name)


def test_clipping_first_or_last_is_not_the_same():
    noise = {"name": "gaussian_noise", "std": 0.1}
    update = sample_update()
    assert norm(apply(load_all([noise, CLIP]), update, 0, 1, 0)) <= 0.5 * (1 + 1e-6)
    assert norm(apply(load_all([CLIP, noise]), update, 0, 1, 0)) > 5


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            [{"name": "gaussian_noise", "noise_multiplier": 1.0}],
            "no clip with a finite max_norm comes before",
        ),
        (
            [{"name": "laplace_noise", "scale": 1.0, "relative": "clip_norm"}, CLIP],
            "comes before it; put one before it",
        ),
        (
            [{"name": "clip", "max_norm": inf}, {"name": "gaussian_noise", "noise_multiplier": 1.0}],
            "finite max_norm",
        ),
        ([{"name": "gaussian_noise", "std": 1.0, "relative": "norm"}], "relative"),
        ([{"name": "gaussian_noise", "std": inf}], "finite"),
        ([{"name": "gaussian_noise"}], "give std or noise_multiplier"),
        ([{"name": "gaussian_noise", "std": 1.0, "noise_multiplier": 1.0}], "std and noise_multiplier given"),
        ([CLIP, {"name": "gaussian_noise", "noise_multiplier": 1.0, "relative": "percentile95"}], "is about std"),
        ([{"name": "local_dp", "epsilon": 0.0, "delta": 1e-5, "max_norm": 1.0}], "must be above 0"),
        ([{"name": "local_dp", "epsilon": 1.0, "delta": 1.0, "max_norm": 1.0}], "between 0 and 1"),
        ([{"name": "local_dp", "epsilon": 1.0, "delta": 1e-5, "max_norm": inf}], "without a clip no noise"),
        ([{"name": "local_dp", "epsilon": 1.0, "delta": 1e-5}], "max_norm"),
        ([{"name": "prune", "keep": 0.0}], "must be above 0"),
        ([{"name": "random_sparsify", "keep": 1.5}], "at most 1"),
        ([{"name": "quantize", "bits": 1}], "1 bit is `sign`"),
        ([{"name": "sign", "scale": 1.0}], "unknown config key 'defenses.sign.scale'"),
        ([{"name": "dropout_update", "rate": 1.0}], "below 1"),
        ([{"name": "representation_perturbation", "prune": 1.0}], "in [0, 1)"),
        ([{"name": "representation_perturbation", "prune": 0.5, "probes": 0}], "at least 1 direction"),
        ([{"name": "mixup", "alpha": -1.0}], "0 or more"),
        ([{"name": "augment", "flip": 2.0}], "in [0, 1]"),
        ([{"name": "augment", "rotate": 200.0}], "in [0, 180.0]"),
        ([{"name": "batch_size", "photos": -1}], "0 for all of them"),
        ([{"name": "local_steps", "epochs": 0}], "at least once"),
        ([{"name": "local_steps", "epochs": 1, "batch_size": -1}], "0 for all of them"),
        ([CLIP, {"name": "mixup", "alpha": 1.0}], "comes after 'clip'; put 'mixup' before it"),
    ],
)
def test_impossible_settings_are_told_in_one_sentence(tables, message):
    with pytest.raises(ConfigError) as error:
        load_all(tables)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
