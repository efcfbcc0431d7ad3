"""The attacks: one signature, deterministic, each victim for itself, better with the gradient than without."""

import dataclasses
import math
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from attacker.attack import Attacker
from attacker.attacks import (
    generative_latent,
    guided_sampling,
    inverting_gradients,
    load,
    prior_only,
    see_through_gradients,
    user_diffusion,
)
from attacker.inversion.descent import step_decay
from attacker.inversion.problem import matching_problem
from attacker.inversion.representatives import arrange_by_label, by_label, whole_batch
from attacker.observation import Observation, Reconstruction
from attacker.priors import eigenfaces
from attacker.priors.prior import Prior
from fl_sim.config import ConfigError
from fl_sim.models import build, normalise
from fl_sim.seeds import generator
from fl_sim.traits import Traits

SIZE = 32


class BlurUNet(torch.nn.Module):
    """Stands for a U-Net that predicts the image: a blur of what it sees, and of the mean face if one is given."""

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> Any:
        class Output:
            sample = F.avg_pool2d(x, 5, stride=1, padding=2).unflatten(1, (-1, 3)).sum(1)

        return Output()


def prior() -> Prior:
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    return Prior(BlurUNet(), abar, "sample", SIZE, SIZE, autocast=False)


def photos(user: int, count: int = 6) -> torch.Tensor:
    """Smooth images (count, 3, SIZE, SIZE) in [0, 1], alike within a user."""
    source = generator(0, "photos", user)
    face = F.interpolate(torch.randn(1, 3, 5, 5, generator=source), (SIZE, SIZE), mode="bicubic")
    nuisance = F.interpolate(torch.randn(count, 3, 5, 5, generator=source), (SIZE, SIZE), mode="bicubic")
    return (0.5 + 0.2 * face + 0.03 * nuisance).clamp(0, 1)


def observation(attacker: Attacker, user: int, server_round: int = 1, scale: float = 1.0) -> Observation:
    """A user with four photos of label 0 and two of label 1, two users of label 1 alone."""
    labels = torch.tensor([0, 0, 0, 0, 1, 1]) if user != 2 else torch.ones(6, dtype=torch.int64)
    loss = F.cross_entropy(attacker.model(normalise(photos(user))), labels)
    names = [name for name, _ in attacker.model.named_parameters()]
    values = torch.autograd.grad(loss, list(attacker.model.parameters()))
    gradient = {name: value * scale for name, value in zip(names, values, strict=True)}
    state = {name: value.clone() for name, value in attacker.model.state_dict().items()}
    return Observation(server_round, user, state, gradient, 6, None)


def setting(name: str = "convnet", **options: Any) -> Attacker:
    model = build(name, 2, SIZE, generator(0, "model"), **options)
    return Attacker(model, SIZE, 2, prior(), torch.device("cpu"))


def run(module: ModuleType, attacker: Attacker, users: list[int], **settings: Any) -> list[Reconstruction]:
    observations = [observation(attacker, user) for user in users]
    generators = [generator(0, "attack", user) for user in users]
    result: list[Reconstruction] = module.attack(
        observations, attacker, module.Settings(**settings), generators, lambda done, total: None
    )
    return result


ATTACKS = [
    (user_diffusion, {"steps": 6}),
    (inverting_gradients, {"steps": 6}),
    (inverting_gradients, {"steps": 2, "start": "normal", "restarts": 2}),
    (see_through_gradients, {"steps": 2, "seeds": 2}),
    (generative_latent, {"steps": 2, "sampler_steps": 2}),
    (guided_sampling, {"levels": 3, "guidance": 1}),
    (prior_only, {"steps": 4}),
]


@pytest.mark.parametrize(("module", "settings"), ATTACKS)
def test_one_seed_one_result(module: ModuleType, settings: dict[str, Any]) -> None:
    first, second = (run(module, setting(), [0, 1], **settings) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.weights, other.weights)


@pytest.mark.parametrize(("module", "settings"), ATTACKS)
def test_a_victim_does_not_depend_on_its_company(module: ModuleType, settings: dict[str, Any]) -> None:
    together = run(module, setting(), [0, 1, 2], **settings)
    for user in range(3):
        (alone,) = run(module, setting(), [user], **settings)
        assert torch.allclose(alone.images, together[user].images, atol=1e-3)
        assert torch.allclose(alone.weights, together[user].weights)


@pytest.mark.parametrize(("module", "settings"), ATTACKS)
def test_a_reconstruction_is_in_range_and_its_weights_sum_to_one(module: ModuleType, settings: dict[str, Any]) -> None:
    for result in run(module, setting(), [0, 1, 2], **settings):
        assert result.images.shape[1:] == (3, SIZE, SIZE)
        assert 0 <= float(result.images.min()) <= float(result.images.max()) <= 1
        assert len(result.weights) == len(result.images)
        assert float(result.weights.sum()) == pytest.approx(1)
        assert result.seconds > 0


@pytest.mark.parametrize("module", [user_diffusion, inverting_gradients])
def test_each_label_that_the_update_shows_gets_an_image_the_heaviest_first(module: ModuleType) -> None:
    mixed, pure = run(module, setting(), [0, 2], steps=2)
    assert mixed.weights.tolist() == pytest.approx([4 / 6, 2 / 6])
    assert pure.weights.tolist() == [1]


@pytest.mark.parametrize("module", [user_diffusion, inverting_gradients])
def test_more_steps_match_better_and_find_the_user(module: ModuleType) -> None:
    attacker = setting()
    (short,), (long,) = (run(module, attacker, [2], steps=steps) for steps in (1, 40))
    assert long.matching_loss < 0.5 * short.matching_loss
    means = torch.stack([photos(user).mean(0) for user in range(4)])
    errors = (long.images[0] - means).square().mean((1, 2, 3))
    assert int(errors.argmin()) == 2


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lenet", {}),
        ("mlp", {}),
        pytest.param("resnet18", {"batch_norm": "eval"}, marks=pytest.mark.slow),
        pytest.param("resnet18", {"batch_norm": "train"}, marks=pytest.mark.slow),
    ],
)
def test_every_model_can_be_attacked(name: str, options: dict[str, Any]) -> None:
    for result in run(user_diffusion, setting(name, **options), [0, 2], steps=2):
        assert torch.isfinite(result.images).all()
        assert math.isfinite(result.matching_loss)


@pytest.mark.parametrize("scale", [0.0, 1e-25])
@pytest.mark.parametrize("distance", ["cosine", "mse"])
def test_zero_and_tiny_updates_are_no_nan(scale: float, distance: str) -> None:
    attacker = setting()
    for module in (user_diffusion, inverting_gradients):
        (result,) = module.attack(
            [observation(attacker, 0, scale=scale)],
            attacker,
            module.Settings(steps=3, distance=distance),
            [generator(0, "attack")],
            lambda done, total: None,
        )
        assert torch.isfinite(result.images).all()


def test_the_attack_uses_the_parameters_that_were_sent() -> None:
    attacker = setting()
    sent = [observation(attacker, 0)]
    other = Attacker(build("convnet", 2, SIZE, generator(9, "other")), SIZE, 2, prior(), torch.device("cpu"))
    results = [
        user_diffusion.attack(sent, who, user_diffusion.Settings(steps=2), [generator(0, "attack")], lambda d, t: None)
        for who in (attacker, other)
    ]
    assert torch.equal(results[0][0].images, results[1][0].images)


def test_of_several_restarts_the_best_match_is_kept() -> None:
    once, thrice = (run(inverting_gradients, setting(), [0], steps=3, restarts=restarts)[0] for restarts in (1, 3))
    assert thrice.matching_loss <= once.matching_loss


def test_several_rounds_are_matched_by_the_mean_of_their_distances() -> None:
    attacker = setting()
    other = Attacker(build("convnet", 2, SIZE, generator(9, "other")), SIZE, 2, None, torch.device("cpu"))
    first, second = observation(other, 0, server_round=1), observation(attacker, 0, server_round=2)
    x = photos(0)[:2] * 2 - 1

    def matched(*seen: Observation) -> tuple[torch.Tensor, torch.Tensor]:
        latest = dataclasses.replace(seen[0], history=seen[1:])
        return matching_problem([latest], attacker, arrange_by_label(), 0.5).loss_and_grad(x, "cosine")

    (loss, grad), apart = matched(second, first), [matched(first), matched(second)]
    assert torch.allclose(loss, torch.stack([one for one, _ in apart]).mean(0))
    assert torch.allclose(grad, torch.stack([one for _, one in apart]).mean(0), atol=1e-6)


def test_the_window_slides_from_its_start_to_its_end() -> None:
    settings = user_diffusion.Settings(t_start=0.8, t_end=0.1)
    centres = [user_diffusion.centre(settings, done / 300) for done in range(301)]
    assert (centres[0], centres[-1]) == pytest.approx((0.8, 0.1))
    assert centres == sorted(centres, reverse=True)


def test_known_labels_make_up_the_whole_batch() -> None:
    attacker = setting()
    seen = observation(attacker, 0)
    told = Observation(1, 0, seen.parameters, seen.gradient, 6, torch.tensor([0.25, 0.75]))
    (group,) = matching_problem([told], attacker, lambda labels, _: whole_batch(labels.photos, 4), 0.5).representatives
    assert group.labels.tolist() == [1, 1, 1, 0]


def test_the_whole_batch_has_as_many_images_as_the_user_has_photos() -> None:
    (result,) = run(inverting_gradients, setting(), [0], steps=1, images="batch")
    assert len(result.images) == 6
    group = whole_batch(torch.tensor([0.34, 0.66]), 3)
    assert group.labels.tolist() == [1, 1, 0]


def test_labels_of_small_shares_get_no_image_but_the_heaviest_always() -> None:
    assert by_label(torch.tensor([0.95, 0.05])).labels.tolist() == [0]
    assert by_label(torch.tensor([0.3, 0.7])).labels.tolist() == [1, 0]
    assert by_label(torch.full((20,), 0.05)).weights.tolist() == [1]


def test_who_knows_of_noise_comes_closer_to_the_user() -> None:
    """Noise whose norm is 30 times that of the update; the attacker has public people's photos."""
    space = eigenfaces.fit(torch.cat([photos(user, 4) for user in range(100, 300)]))
    attacker, errors = dataclasses.replace(setting("mlp"), faces=space), {}
    plain = observation(attacker, 3)
    values = torch.cat([value.flatten() for value in plain.gradient.values()])
    std, source = float(30 * values.norm()) / len(values) ** 0.5, generator(0, "noise")
    noisy = {name: value + std * torch.randn(value.shape, generator=source) for name, value in plain.gradient.items()}
    for known in ((), (Traits(noise="gaussian"),)):
        seen = dataclasses.replace(plain, gradient=noisy, defenses=known)
        settings = user_diffusion.Settings(steps=30)
        (found,) = user_diffusion.attack([seen], attacker, settings, [generator(0)], lambda done, total: None)
        errors[bool(known)] = float((found.images[0] - photos(3).mean(0)).square().mean())
    assert errors[True] < 0.8 * errors[False]


@pytest.mark.parametrize("defense", ["prune", "sign"])
def test_who_knows_that_an_update_is_biased_draws_what_faces_show_and_nothing_else(defense: str) -> None:
    space = eigenfaces.fit(torch.cat([photos(user, 4) for user in range(100, 150)]))
    attacker = dataclasses.replace(setting("mlp"), faces=space)
    plain = observation(attacker, 3)
    bound = torch.cat([value.abs().flatten() for value in plain.gradient.values()]).quantile(0.9999)
    through = {"prune": lambda value: value * (value.abs() >= bound), "sign": torch.sign}[defense]
    beside = {}
    traits = {"prune": Traits(zeroes="smallest"), "sign": Traits(scales=True, signs=True)}[defense]
    for known in ((), (traits,)):
        gradient = {name: through(value) for name, value in plain.gradient.items()}
        seen = dataclasses.replace(plain, gradient=gradient, defenses=known)
        settings = user_diffusion.Settings(steps=3, prior_weight=0, images_per_label=1)  # so not sharpened
        (found,) = user_diffusion.attack([seen], attacker, settings, [generator(0)], lambda done, total: None)
        moved = (found.images[0] * 2 - 1 - space.mean).flatten()
        beside[bool(known)] = float((moved - moved @ space.components.T @ space.components).norm() / moved.norm())
    assert beside[True] < 0.01 * beside[False]


def test_without_noise_a_step_is_what_the_settings_say_and_in_pure_noise_along_faces_alone() -> None:
    power, other = user_diffusion.within_faces(torch.tensor([0.0, 0.5, 1.0]), 0.6)
    assert power.tolist() == [1, 1, 2]
    assert other.flatten().tolist() == [1 - 0.6, 0, 0]


def test_a_conditional_prior_turns_the_mean_that_an_update_determines_into_draws() -> None:
    plain = setting()
    able = dataclasses.replace(plain, prior=dataclasses.replace(prior(), conditional=True))
    (mean,) = run(user_diffusion, plain, [0], steps=4)
    (drawn,) = run(user_diffusion, able, [0], steps=4, draws=5)
    assert (mean.draws, mean.determined) == (None, None)
    assert drawn.draws is not None
    assert drawn.determined is not None
    assert drawn.draws.shape == (5, 3, SIZE, SIZE)
    assert drawn.images.shape == mean.images.shape
    sharp = user_diffusion.sharpened(drawn.determined[None] * 2 - 1)
    assert torch.allclose(((sharp + 1) / 2).clamp(0, 1), mean.images[:1], atol=1e-6)
    assert any(torch.equal(drawn.images[0], draw) for draw in drawn.draws)
    assert drawn.matching_loss == mean.matching_loss
    (without,) = run(user_diffusion, able, [0], steps=4, draws=0)
    assert torch.equal(without.images, mean.images)


def test_the_control_matches_nothing() -> None:
    (result,) = run(prior_only, setting(), [0], steps=2)
    assert math.isnan(result.matching_loss)


OFF = {"consensus": 0.0, "layer_norm_power": 0.0, "gradient_blur": 0.0}
"""What this project adds to published attacks, as it stands in their presets."""
PRESETS = [
    ("user_diffusion", OFF | {"images_per_label": 1, "eigenface_share": 0.0, "draws": 0, "unet_jacobian": True}),
    ("inverting_gradients", OFF | {"images": "batch", "start": "normal", "sign": True, "steps": 24_000}),
]


@pytest.mark.parametrize(("name", "published"), PRESETS)
def test_a_preset_is_the_published_attack_and_nothing_else(name: str, published: dict[str, Any]) -> None:
    attack = load("paper", {"name": name, "preset": "paper"})
    assert published.items() <= dataclasses.asdict(attack.settings).items()
    assert not attack.needs.public_faces
    short = load("paper", {"name": name, "preset": "paper", "steps": 4})
    assert short.settings == dataclasses.replace(attack.settings, steps=4)
    attacker = setting()
    (result,) = short.run([observation(attacker, 0)], attacker, short.settings, [generator(0)], lambda d, t: None)
    assert torch.isfinite(result.images).all()
    assert (result.draws, result.determined) == (None, None)


def test_the_paper_s_attack_shows_its_one_image_a_label_as_it_is_whatever_is_known_of_public_faces() -> None:
    space = eigenfaces.fit(torch.cat([photos(user, 4) for user in range(100, 150)]))
    settings = load("user_diffusion", {"preset": "paper", "steps": 1, "learning_rate": 1e-9}).settings
    starts = []
    for attacker in (setting(), dataclasses.replace(setting(), faces=space)):
        (result,) = user_diffusion.attack(
            [observation(attacker, 2)], attacker, settings, [generator(0)], lambda d, t: None
        )
        starts.append(result.images)
    assert torch.equal(*starts)
    assert torch.allclose(starts[0] * 2 - 1, user_diffusion.beginnings([1], [generator(0)], attacker, None), atol=1e-6)


@pytest.mark.parametrize(("steps", "lasting"), [(8, [3, 2, 2, 1]), (5, [1, 2, 1, 1]), (80, [30, 20, 20, 10])])
def test_the_rate_falls_after_the_published_steps(steps: int, lasting: list[int]) -> None:
    rate = step_decay(1.0, steps)
    rates = [rate(step / (steps - 1)) for step in range(steps)]
    assert rates == pytest.approx([0.1**fallen for fallen, times in enumerate(lasting) for _ in range(times)])


def test_victims_of_two_rounds_are_refused() -> None:
    attacker = setting()
    mixed = [observation(attacker, 0, 1), observation(attacker, 1, 2)]
    with pytest.raises(ConfigError, match="one round"):
        user_diffusion.attack(mixed, attacker, user_diffusion.Settings(), [generator(0)] * 2, lambda d, t: None)


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=30), st.integers(1, 40))
def test_a_whole_batch_has_as_many_images_as_asked_for_whatever_the_shares(shares: list[float], count: int) -> None:
    share = torch.tensor(shares) / sum(shares)
    made = whole_batch(share, count)
    assert len(made.labels) == count
    counts = made.labels.bincount(minlength=len(shares)) / count
    assert (counts - share).abs().max() <= max(1, len(shares) / 2) / count
