"""The cocktail party attack parts photos that one gradient mixes, whatever model, labels and local steps mixed them."""

import copy
import math

import pytest
import torch
from tiny_faces import tiny_config
from torch import Tensor

from attacker.attack import Attacker
from attacker.attacks import cocktail_party, load
from attacker.attacks.cocktail_party import Settings
from attacker.observation import Observation, Reconstruction
from clients.datasets.synthetic import SyntheticFaces
from clients.local_training import local_gradient
from clients.user import Faces
from experiments.plan.setup import prepare
from experiments.run.pipeline import preflight
from fl_sim.config import ConfigError
from fl_sim.models import build
from fl_sim.seeds import generator
from fl_sim.updates import Update

SIZE, COUNT = 32, 8
DEFAULT = Settings()
PAPER = load("cocktail_party", {"preset": "paper"}).settings
MODEL = build("mlp", 2, SIZE, generator(0, "model"))


def user(photos: int = COUNT) -> Faces:
    return SyntheticFaces(1, photos, SIZE, "smile", seed=0).user(0).private


def reconstruct(gradient: Update, count: int, settings: Settings = DEFAULT) -> Reconstruction:
    seen = Observation(1, 0, dict(MODEL.state_dict()), gradient, count, None)
    attacker = Attacker(MODEL, SIZE, 2, None, torch.device("cpu"))
    (result,) = cocktail_party.attack([seen], attacker, settings, [generator(0)], lambda done, total: None)
    return result


def psnr(found: Tensor, shown: Tensor) -> Tensor:
    """(n,) dB of the image of `found` (k, 3, H, W) that is nearest to each of `shown` (n, 3, H, W)."""
    return -10 * (found - shown[:, None]).square().mean((2, 3, 4)).amin(1).clamp_min(1e-12).log10()


@pytest.mark.parametrize("settings", [DEFAULT, PAPER])
def test_independent_images_are_parted_whatever_mixed_them(settings: Settings) -> None:
    """Images of rare bright dots, mixed at random into a layer's gradient, its bias with them."""
    draw = generator(0, "dots")
    shown = (torch.rand(COUNT, 3, SIZE, SIZE, generator=draw) < 0.05).float()
    factors = torch.randn(256, COUNT, generator=draw)
    gradient = {"1.weight": factors @ (shown * 2 - 1).flatten(1), "1.bias": factors.sum(1)}
    result = reconstruct(gradient, COUNT, settings)
    assert result.images.shape == shown.shape
    assert float(psnr(result.images, shown).min()) > 25
    assert math.isnan(result.matching_loss)


def test_photos_of_one_face_come_back_from_one_gradient() -> None:
    shown = user()
    result = reconstruct(local_gradient(MODEL, shown), COUNT)
    assert float(psnr(result.images, shown.photos).median()) > 30
    assert torch.equal(result.weights, torch.full((COUNT,), 1 / COUNT))


def test_neither_the_order_of_photos_nor_the_size_of_the_update_changes_the_answer() -> None:
    shown = user()
    one = reconstruct(local_gradient(MODEL, shown), COUNT).images
    order = torch.randperm(COUNT, generator=generator(0, "order"))
    turned = Faces(shown.photos[order], shown.labels[order], {})
    halved = {name: -value / 2 for name, value in local_gradient(MODEL, turned).items()}
    assert float(psnr(reconstruct(halved, COUNT).images, one).min()) > 40


def test_several_local_steps_mix_the_same_photos() -> None:
    shown, local = user(), copy.deepcopy(MODEL)
    total = {name: torch.zeros_like(value) for name, value in MODEL.named_parameters()}
    for start in (0, 4, 0, 4):
        part = slice(start, start + 4)
        gradient = local_gradient(local, Faces(shown.photos[part], shown.labels[part], {}))
        with torch.no_grad():
            for name, parameter in local.named_parameters():
                parameter -= 0.1 * gradient[name]
                total[name] += gradient[name]
    assert float(psnr(reconstruct(total, COUNT).images, shown.photos).median()) > 30


def test_of_noise_no_more_is_shown_than_stands_out_of_it() -> None:
    gradient = local_gradient(MODEL, user())
    draw, size = generator(0, "noise"), torch.cat([value.flatten() for value in gradient.values()]).std()
    noisy = {name: value + 3 * size * torch.randn(value.shape, generator=draw) for name, value in gradient.items()}
    assert len(reconstruct(noisy, COUNT).images) < COUNT


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_an_update_that_shows_nothing_is_one_grey_image(value: float) -> None:
    silent = {name: torch.full_like(one, value) for name, one in MODEL.state_dict().items()}
    assert torch.equal(reconstruct(silent, COUNT).images, torch.full((1, 3, SIZE, SIZE), 0.5))


def test_a_single_photo_comes_back_to_the_last_digits() -> None:
    shown = user(1)
    assert float(psnr(reconstruct(local_gradient(MODEL, shown), 1).images, shown.photos)) > 80


def test_a_model_without_a_layer_that_sees_all_pixels_is_refused_before_the_run() -> None:
    with pytest.raises(ConfigError, match=r"first layer is linear, .* set model.name to mlp"):
        preflight(prepare(tiny_config(attacks={"cocktail_party": {}})), lambda sentence: None)
