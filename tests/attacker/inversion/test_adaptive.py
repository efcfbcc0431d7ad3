"""Laws of matching under known defenses: whoever knows the defense finds the truth at distance zero."""

import pytest
import torch

from attacker.attack import KNOWLEDGE
from attacker.attacks import load
from attacker.inversion.defense_aware import adapt, local_training
from attacker.inversion.matching import (
    DISTANCES,
    Representatives,
    dummy_gradient,
    matching_loss_and_grad,
    observed_gradient,
)
from attacker.inversion.noise import noise_parts
from attacker.inversion.problem import MatchingProblem
from attacker.observation import LocalTraining
from clients import defenses
from fl_sim import models, seeds
from fl_sim.config import ConfigError
from fl_sim.traits import Traits

PRUNED, SIGNS, LEVELS = Traits(zeroes="smallest"), Traits(scales=True, signs=True), Traits(levels=True)


def told(*tables):
    """What whoever knows the parameters of these defenses is told of them."""
    return [one.traits for one in defenses.load_all(tables)]


@pytest.fixture(scope="module")
def truth():
    """A model, an image with its label, and the gradient of it."""
    model = models.build("lenet", 3, 32, seeds.generator(0, "model"))
    image = torch.rand(1, 3, 32, 32, generator=seeds.generator(0, "image")) * 2 - 1
    reps = Representatives(torch.tensor([1]), torch.ones(1))
    flat = dummy_gradient(model, image, reps).detach()
    sizes = [parameter.numel() for parameter in model.parameters()]
    names = [name for name, _ in model.named_parameters()]
    return model, image, reps, dict(zip(names, flat.split(sizes), strict=True))


def pruned(gradient, keep):
    flat = torch.cat(list(gradient.values())).abs()
    bound = flat.topk(int(keep * len(flat))).values[-1]
    return {name: value * (value.abs() >= bound) for name, value in gradient.items()}


def noisy(gradient, std, kind="gaussian_noise"):
    source = seeds.generator(1, "noise")

    def noise(shape):
        if kind == "gaussian_noise":
            return torch.randn(shape, generator=source)
        uniform = torch.rand(shape, generator=source) - 0.5  # of which the inverse distribution function
        return -(0.5**0.5) * uniform.sign() * torch.log1p(-2 * uniform.abs())

    return {name: value + std * noise(value.shape) for name, value in gradient.items()}


def per_layer_clipped(gradient, bound):
    return {name: value * min(1.0, bound / float(value.norm())) for name, value in gradient.items()}


@pytest.mark.parametrize("distance", sorted(DISTANCES))
@pytest.mark.parametrize(
    ("defend", "traits"),
    [
        (lambda g: pruned(g, 0.1), PRUNED),
        (lambda g: per_layer_clipped(g, 1e-3), Traits(max_norm=1e-3, per_layer=True, scales=True)),
    ],
    ids=["prune", "clip per layer"],
)
def test_the_true_image_is_at_distance_zero_for_whoever_knows_and_only_for_them(truth, defend, traits, distance):
    model, image, reps, gradient = truth
    seen = defend(gradient)

    def loss(defenses):
        observed = observed_gradient(seen, 0.5, adapt(seen, defenses))
        # mse is about scale too; the sides are compared up to one factor, as the norm of a target is 1
        return float(
            matching_loss_and_grad(
                model, image, [reps], [observed], DISTANCES["cosine" if distance == "mse" else distance]
            )[0]
        )

    assert loss([traits]) < 1e-5 < 1e-3 < loss([])


def test_a_sign_is_matched_better_by_the_smooth_sign_of_the_truth(truth):
    model, image, reps, gradient = truth
    seen = {name: value.sign() for name, value in gradient.items()}

    def loss(defenses):
        return float(
            matching_loss_and_grad(
                model, image, [reps], [observed_gradient(seen, 0.0, adapt(seen, defenses))], DISTANCES["cosine"]
            )[0]
        )

    assert loss([SIGNS]) < 0.5 * loss([])


@pytest.mark.parametrize("kind", ["gaussian_noise", "laplace_noise"])
def test_the_noise_level_read_off_the_update_is_the_one_that_was_added(truth, kind):
    *_, gradient = truth
    std = 10 * max(float(value.abs().median()) for value in gradient.values())
    seen = noisy(gradient, std, kind)
    table = {"name": kind} | ({"std": std} if kind == "gaussian_noise" else {"scale": std / 2**0.5})
    (traits,) = told(table)
    guessed, known = adapt(seen, [traits.mechanism()]).noise, adapt(seen, [traits]).noise
    assert known == pytest.approx([std**2] * len(gradient))
    assert guessed == pytest.approx(known, rel=0.2)


@pytest.mark.parametrize("layer_norm_power", [0.0, 1.0])
def test_an_observed_gradient_knows_how_much_noise_is_in_it(truth, layer_norm_power):
    *_, gradient = truth
    flat = torch.cat([value.flatten() for value in gradient.values()])
    for ratio in (1, 30):
        std = ratio * float(flat.norm()) / len(flat) ** 0.5
        seen = noisy(gradient, std)
        known = observed_gradient(seen, layer_norm_power, adapt(seen, [Traits(noise="gaussian", noise_size=std)]))
        truly = known.vector - known.scale * flat
        assert float(known.noise.norm()) == pytest.approx(float(truly.norm()), rel=0.1)
        assert observed_gradient(seen, layer_norm_power).noise is None


def test_the_part_of_a_step_that_is_noise_rises_from_nothing_to_all_of_it(truth):
    model, image, reps, gradient = truth
    norm, count = (
        sum(float(value.square().sum()) for value in gradient.values()),
        sum(map(torch.numel, gradient.values())),
    )

    def part(ratio):
        std = ratio * (norm / count) ** 0.5
        seen = noisy(gradient, std)
        observed = observed_gradient(seen, 1.0, adapt(seen, [Traits(noise="gaussian", noise_size=std)] if std else []))
        known = MatchingProblem(model, [reps], [observed], [[]])
        return float(noise_parts(known, torch.zeros_like(image), "cosine", [seeds.generator(2)]))

    parts = [part(ratio) for ratio in (0, 1, 10, 100, 1000)]
    assert parts == sorted(parts)
    assert parts[0] == 0
    assert parts[-1] > 0.5


def test_without_known_noise_none_is_looked_for(truth):
    model, image, reps, gradient = truth
    source = seeds.generator(2)
    before = source.get_state()
    known = MatchingProblem(model, [reps], [observed_gradient(gradient, 1.0)], [[]])
    assert noise_parts(known, image, "cosine", [source]).tolist() == [0]
    assert torch.equal(source.get_state(), before)


CLIP = {"name": "clip", "max_norm": 0.5}


@pytest.mark.parametrize(
    "tables",
    [
        [{"name": "gaussian_noise", "std": 0.3}],
        [CLIP, {"name": "gaussian_noise", "noise_multiplier": 0.3}],
        [CLIP, {"name": "laplace_noise", "scale": 0.3, "relative": "clip_norm"}],
        [{"name": "local_dp", "max_norm": 2.0, "epsilon": 3.0, "delta": 1e-5}],
    ],
    ids=lambda tables: "+".join(table["name"] for table in tables),
)
def test_who_knows_a_noises_table_knows_the_variance_that_users_add(tables):
    update = {"w": torch.zeros(100_000)}
    noisy = defenses.apply(defenses.load_all(tables), update, 1, 1, 0)["w"]
    assert adapt(update, told(*tables)).noise[0] == pytest.approx(float(noisy.var()), rel=0.03)


def test_local_steps_are_simulated_by_who_knows_them():
    everybody = LocalTraining(1, 4, 0.1)
    (steps,) = told({"name": "local_steps", "epochs": 3, "batch_size": 5})
    assert local_training(everybody, [steps], 0.1) == LocalTraining(3, 5, 0.1)
    assert local_training(everybody, [steps.mechanism(), *told(CLIP)], 0.1) == everybody
    assert local_training(None, [], 0.1) is None


def test_a_quantised_layer_is_known_by_its_levels(truth):
    *_, gradient = truth
    name, largest = max(gradient.items(), key=lambda one: one[1].numel())
    step = float(largest.abs().max()) / 20
    seen = {name: (value / step).round() * step for name, value in gradient.items()}
    noise = dict(zip(gradient, adapt(seen, [LEVELS]).noise, strict=True))
    assert noise[name] == pytest.approx(step**2 / 6, rel=1e-3)


def test_the_slope_is_that_of_the_adapted_distance(truth):
    model, image, reps, gradient = truth
    seen = {name: value.sign() for name, value in pruned(gradient, 0.5).items()}
    observed = observed_gradient(seen, 0.5, adapt(seen, [PRUNED, SIGNS]))
    start = image.flip(3)
    (grad,) = matching_loss_and_grad(model, start, [reps], [observed], DISTANCES["cosine"])[1]
    ahead = float(
        matching_loss_and_grad(model, start - 1e-2 * grad / grad.norm(), [reps], [observed], DISTANCES["cosine"])[0]
    )
    assert ahead < float(matching_loss_and_grad(model, start, [reps], [observed], DISTANCES["cosine"])[0])


@pytest.mark.parametrize(
    ("defense", "share", "bias_share"),
    [
        (PRUNED, 0.2, 0.0),
        (PRUNED, 0.05, 0.25),
        (PRUNED, 1e-4, 0.5),
        (Traits(zeroes="any"), 1e-4, 0.0),
        (SIGNS, 1.0, 0.75),
    ],
)
def test_an_update_is_biased_by_what_treats_entries_by_their_size(defense, share, bias_share):
    update = {"weight": (torch.arange(100_000) % round(1 / share) == 0).float()}
    assert adapt(update, [defense]).bias_share == pytest.approx(bias_share, abs=1e-3)
    assert observed_gradient(update, 1.0, adapt(update, [defense])).bias_share == pytest.approx(bias_share, abs=1e-3)


def test_a_tensor_weighs_by_the_entries_that_came_through():
    """At power 1 squared norms go with the square root of the entries: 9 and 1 came through of 100 and 400."""
    update = {"few": (torch.arange(100) < 9).float(), "many": 5.0 * (torch.arange(400) < 1)}
    seen = observed_gradient(update, 1.0, adapt(update, [PRUNED])).vector
    assert float(seen[:100].square().sum() / seen[100:].square().sum()) == pytest.approx(3)


def test_without_knowledge_of_defenses_nothing_is_adapted(truth):
    *_, gradient = truth
    plain = adapt(gradient, [])
    assert not plain.noise
    assert plain.kept is None
    assert plain.transform is None
    assert plain.bias_share == 0


def test_an_attack_knows_as_much_as_its_table_grants():
    tables = [{"name": "clip", "max_norm": 1.0}, {"name": "sign"}]
    loaded = {level: load("inverting_gradients", {"knowledge": level}) for level in KNOWLEDGE}
    known = {level: attack.known_tables(tables) for level, attack in loaded.items()}
    assert known == {"none": (), "mechanism": ({"name": "clip"}, {"name": "sign"}), "parameters": tuple(tables)}
    clip, sign = told(*tables)
    assert {level: attack.known_traits([clip, sign]) for level, attack in loaded.items()} == {
        "none": (), "mechanism": (Traits(keeps_norm=True, scales=True), sign), "parameters": (clip, sign),
    }  # fmt: skip


def test_of_several_levels_an_attack_has_the_one_that_knows_most():
    assert load("dlg", {"knowledge": ["none", "parameters", "mechanism"]}).knowledge == "parameters"
    assert load("dlg", {}).knowledge == "none"


@pytest.mark.parametrize("given", ["some", [], ["none", "some"], 3, [["none"]]])
def test_an_unknown_level_is_a_sentence(given):
    with pytest.raises(ConfigError, match=r"attacks\.inverting_gradients\.knowledge is .*none, mechanism, parameters"):
        load("inverting_gradients", {"knowledge": given})


@pytest.mark.parametrize("distance", sorted(DISTANCES))
def test_a_clipped_truth_is_at_distance_zero_for_whoever_knows_whatever_the_distance(truth, distance):
    """Who compares squared differences must not take the bound for the gradient's length."""
    model, image, reps, gradient = truth
    clipped = {name: 0.1 * value for name, value in gradient.items()}

    def loss(seen, defenses):
        observed = observed_gradient(seen, 0.5, adapt(seen, defenses))
        return float(matching_loss_and_grad(model, image, [reps], [observed], DISTANCES[distance])[0])

    assert loss(clipped, told({"name": "clip", "max_norm": 1.0})) < 1e-6
    assert loss(clipped, []) > 1 or distance == "cosine"


def test_what_is_measured_by_traits_is_the_same_whoever_wrote_the_defense():
    """An attack goes by what a defense declares alone: no name is known to it."""
    attack = load("user_diffusion", {"knowledge": "parameters"})
    assert attack.adapts_to(Traits(noise="gaussian", noise_size=0.1))
    assert not attack.adapts_to(Traits())
    assert not attack.adapts_to(None)
    assert not load("user_diffusion", {}).adapts_to(Traits(scales=True))
    assert not load("imprint", {"knowledge": "parameters"}).adapts_to(Traits(scales=True))
    steps = Traits(epochs=2)
    assert not attack.adapts_to(steps)
    assert load("user_diffusion", {"knowledge": "parameters", "simulated_steps": 8}).adapts_to(steps)


def test_the_noise_in_a_mean_of_several_updates_is_that_much_fainter() -> None:
    gradient = {"weight": torch.randn(400, generator=torch.Generator().manual_seed(0))}
    noisy = [Traits(max_norm=1.0, scales=True, noise="gaussian", noise_size=0.5)]
    (alone,), (of_four,) = adapt(gradient, noisy).noise, adapt(gradient, noisy, 4).noise
    assert of_four == alone / 4
