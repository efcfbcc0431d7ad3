"""The face space: principal components that are orthonormal, steps along them, and nothing else."""

from pathlib import Path

import pytest
import torch

from attacker.priors.eigenfaces import encode, fit, read
from fl_sim.seeds import generator

SIZE = 12


def photos(count: int = 40, rank: int = 3) -> torch.Tensor:
    """Images (count, 3, SIZE, SIZE) about grey that vary along `rank` mirror-symmetric directions alone."""
    source = generator(0, "photos")
    directions = torch.randn(rank, 3, SIZE, SIZE, generator=source)
    directions = directions + directions.flip(-1)
    weights = torch.randn(count, rank, generator=source)
    return 0.5 + 0.01 * torch.einsum("nr,rchw->nchw", weights, directions)


def test_components_are_orthonormal_and_hold_the_variance_of_the_photos() -> None:
    space = fit(photos())
    strong = space.components[:3]
    assert torch.allclose(strong @ strong.T, torch.eye(3), atol=1e-4)
    images = photos() * 2 - 1
    variance = (images - images.mean(0)).flatten(1).square().sum(1).mean()
    assert float(space.deviations.square().sum()) == pytest.approx(float(variance), rel=1e-3)


@pytest.mark.parametrize("count", [10, 300])  # fewer, and more, than an image has numbers
def test_it_is_torch_s_randomised_decomposition_from_generators_of_its_own(count: int) -> None:
    images = photos(count, rank=9)
    before = torch.get_rng_state()
    space = fit(images)
    assert torch.equal(torch.get_rng_state(), before)
    shown = images * 2 - 1
    mean = (shown.mean(0) + shown.mean(0).flip(-1)) / 2
    centred = (torch.cat([shown, shown.flip(-1)]) - mean).flatten(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        directions, sizes, _ = torch.svd_lowrank(centred.T, q=len(space.deviations))
    assert torch.equal(space.components, directions.T)
    assert torch.equal(space.deviations, sizes / len(centred) ** 0.5)


def test_a_step_stays_within_what_faces_show() -> None:
    space = fit(photos())
    grad = torch.randn(2, 3, SIZE, SIZE, generator=generator(0, "gradient"))
    step = space.precondition(grad, torch.ones(2))
    strong = space.components[:3]
    assert torch.allclose((step.flatten(1) @ strong.T) @ strong, step.flatten(1), atol=1e-3)
    assert float((step * grad).sum()) > 0  # still downhill


def test_the_global_generator_is_untouched_and_the_result_is_always_the_same() -> None:
    before = torch.get_rng_state()
    first, second = fit(photos()), fit(photos())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.components, second.components)


def test_a_file_gives_back_the_space_and_none_where_there_is_none(tmp_path: Path) -> None:
    space, path = fit(photos()), tmp_path / "faces.safetensors"
    assert read(path) is None
    path.write_bytes(encode(space))
    found = read(path)
    assert found is not None
    assert torch.allclose(found.components, space.components, atol=1e-3)
    assert torch.equal(found.deviations, space.deviations)


def test_another_size_has_the_same_mean_and_steps_of_that_size() -> None:
    space = fit(photos()).at(2 * SIZE, torch.device("cpu"))
    assert space.mean.shape == (3, 2 * SIZE, 2 * SIZE)
    assert space.precondition(torch.ones(1, 3, 2 * SIZE, 2 * SIZE), torch.ones(1)).shape == (1, 3, 2 * SIZE, 2 * SIZE)


def test_one_photo_is_no_space() -> None:
    with pytest.raises(ValueError, match="two or more"):
        fit(photos(1))


def test_how_strong_photos_vary_at_each_frequency_is_told_and_kept_in_the_file(tmp_path: Path) -> None:
    """Of photos that differ in one tone alone only the lowest band varies; of white noise all do."""
    source = generator(0, "bands")
    tones = 0.5 + 0.1 * torch.randn(200, 1, 1, 1, generator=source).expand(-1, 3, SIZE, SIZE)
    rms = fit(tones).band_rms
    assert rms.shape == (5,)
    assert torch.allclose(rms[:-1], torch.zeros(4), atol=1e-5)
    assert float(rms[-1]) == pytest.approx(0.2, rel=0.15)
    space, path = fit(0.5 + 0.1 * torch.randn(200, 3, SIZE, SIZE, generator=source)), tmp_path / "faces.safetensors"
    assert (space.band_rms[2:] > 0.01).all()  # at 12 px the two finest are nearly empty
    path.write_bytes(encode(space))
    found = read(path)
    assert found is not None
    assert torch.equal(found.band_rms, space.band_rms)
