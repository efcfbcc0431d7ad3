"""Laws of realism: photos are as sharp as photos, a mean is not, and the distance of patches is the one of scipy."""

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from clients.datasets import open_dataset
from experiments.evaluate.realism import (
    BANDS,
    SCALES,
    Reference,
    face_probability,
    projected_patches,
    quantiles,
    reference,
)
from fl_sim.config import Config, parse


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    dataset = open_dataset(parse(Config, {"dataset": {"users": 1}}).dataset, 0)
    return torch.cat([dataset.public(index).photos[:1] for index in range(24)])


@pytest.fixture(scope="module")
def like(photos: torch.Tensor) -> Reference:
    return reference(photos)


def test_photos_are_as_sharp_as_photos_and_flat_pictures_are_not_sharp_at_all(
    photos: torch.Tensor, like: Reference
) -> None:
    torch.testing.assert_close(like.sharpness(photos).mean(0), torch.ones(len(BANDS)))
    assert like.sharpness(torch.full((1, 3, 64, 64), 0.4)).max() < 1e-5


def test_a_mean_of_photos_is_less_real_in_every_way(photos: torch.Tensor, like: Reference) -> None:
    mean = photos.mean(0, keepdim=True)
    assert (like.sharpness(mean) < 0.7).all()
    own, real = (like.patch_swd(projected_patches(images, 24)) for images in (mean.expand(24, -1, -1, -1), photos))
    assert all(a > 4 * b for a, b in zip(own, real, strict=True))


def test_a_face_is_detected_and_noise_is_none(photos: torch.Tensor, like: Reference) -> None:
    assert like.detected > 0.95
    assert face_probability(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))).max() < 0.9
    together = face_probability(photos[:3])
    torch.testing.assert_close(torch.cat([face_probability(photo[None]) for photo in photos[:3]]), together)


def test_the_distance_is_that_of_scipy_along_each_direction() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.normal(0, 1, (500, 3)), draw.normal(0.3, 2, (500, 3))
    expected = np.mean([wasserstein_distance(a[:, k], b[:, k]) for k in range(3)])
    got = (quantiles(torch.tensor(a)) - quantiles(torch.tensor(b))).abs().mean()
    assert float(got) == pytest.approx(expected, rel=0.02)


def test_the_same_photos_have_no_distance_and_the_order_does_not_matter(photos: torch.Tensor, like: Reference) -> None:
    assert like.patch_swd(projected_patches(photos, len(photos))) == pytest.approx([0.0] * len(SCALES), abs=1e-3)
    assert like.patch_swd(projected_patches(photos.flip(0), len(photos))) == pytest.approx(
        [0.0] * len(SCALES), abs=1e-3
    )


def test_patches_do_not_depend_on_which_images_they_are_taken_beside(photos: torch.Tensor) -> None:
    alone = projected_patches(photos[3:4], 24)
    for one, together in zip(alone, projected_patches(photos, 24), strict=True):
        torch.testing.assert_close(one, together[3 * len(one) : 4 * len(one)])
