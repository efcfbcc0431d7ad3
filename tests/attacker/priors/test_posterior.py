"""Draws of photos given a mean face: each follows the mean as far as it is trusted, and the answer is one of them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from priors import unet, write_prior
from torch import Tensor, nn

from attacker.gaussian_blur import frequency_bands
from attacker.priors import eigenfaces
from attacker.priors.posterior import (
    KNOWN,
    LEAST_STRENGTH,
    MOST_GAIN,
    SHAPE_HELD,
    TOGETHER,
    USUAL,
    details_known,
    draw_faces,
    hold_shape,
    most_photographic,
    strengths,
    trusted_shares,
    with_contrast,
)
from attacker.priors.prior import Prior, load_prior
from fl_sim.config import ConfigError
from fl_sim.seeds import generator

SIZE = 16


class Mirror(nn.Module):
    """A conditional U-Net that predicts the image: the mean face, and a tenth of what it sees beside it."""

    def forward(self, seen: Tensor, t: Tensor) -> Any:
        x_t, mean = seen.chunk(2, dim=1)
        return SimpleNamespace(sample=mean + 0.1 * x_t.clamp(-1, 1))


def prior(conditional: bool = True) -> Prior:
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    return Prior(Mirror(), abar, "sample", SIZE, SIZE, autocast=False, conditional=conditional)


def means(count: int) -> Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=generator(0, "means")) - 0.5


def noise(users: int, draws: int) -> Tensor:
    return torch.stack([torch.randn(draws, 3, SIZE, SIZE, generator=generator(0, "noise", k)) for k in range(users)])


def test_draws_follow_the_mean_face_and_differ_by_the_noise() -> None:
    mean = means(2)
    drawn = draw_faces(prior(), mean, noise(2, 3), 4)
    assert drawn.shape == (2, 3, 3, SIZE, SIZE)
    assert (drawn - mean[:, None]).abs().max() < 0.3
    assert not torch.equal(drawn[0, 0], drawn[0, 1])
    assert torch.equal(drawn, draw_faces(prior(), mean, noise(2, 3), 4))


def test_a_user_s_draws_do_not_depend_on_who_else_is_there() -> None:
    mean, z = means(20), noise(20, 2)
    together = draw_faces(prior(), mean, z, 3)
    for k in (0, 17):
        assert torch.allclose(together[k : k + 1], draw_faces(prior(), mean[k : k + 1], z[k : k + 1], 3), atol=1e-6)


def test_the_shape_of_each_draw_is_held_where_that_can_be_trusted_and_its_details_are_its_own() -> None:
    x0, sought = noise(2, 3), means(2)
    one, none = torch.ones(2, 1, 1, 1), torch.zeros(2, 1, 1, 1)
    assert torch.equal(hold_shape(x0, sought, [none] * 5), x0)
    assert torch.equal(hold_shape(x0, sought, [one] * 3 + [none] * 2), x0)
    first_only = torch.tensor([1.0, 0.0])[:, None, None, None]
    assert torch.equal(hold_shape(x0, sought, [first_only] * 5)[1], x0[1])
    held = hold_shape(x0, sought, [one] * 5)
    before, after = (frequency_bands((x - sought[:, None]).flatten(0, 1)) for x in (x0, held))
    missing = sum(part * band for part, band in zip(SHAPE_HELD, before[-len(SHAPE_HELD) :], strict=True))
    assert torch.allclose((x0 - held).flatten(0, 1), torch.as_tensor(missing), atol=1e-5)
    assert float(after[-1].norm()) < 0.5 * float(before[-1].norm())


def test_of_a_mean_in_which_the_prior_sees_nothing_a_draw_keeps_nothing() -> None:
    """A network that predicts the same face whatever it is given: nothing comes back."""

    class Deaf(nn.Module):
        def forward(self, seen: Tensor, t: Tensor) -> Any:
            return SimpleNamespace(sample=torch.zeros_like(seen[:, :3]))

    deaf = Prior(Deaf(), prior().alphas_cumprod, "sample", SIZE, SIZE, autocast=False, conditional=True)
    assert torch.equal(draw_faces(deaf, means(1), noise(1, 2), 3), torch.zeros(1, 2, 3, SIZE, SIZE))


def test_bands_sum_to_the_image_and_the_last_is_the_coarsest() -> None:
    image = means(2)
    parts = frequency_bands(image)
    assert torch.allclose(torch.stack(parts).sum(0), image, atol=1e-6)
    flat = torch.full_like(image, 0.3)
    assert torch.allclose(frequency_bands(flat)[-1], flat, atol=1e-6)


def test_what_comes_back_is_trusted_what_is_lost_is_not() -> None:
    image, other = means(1), noise(1, 1)[0]
    assert all(
        float(share) == pytest.approx(1, abs=1e-4) for share in trusted_shares(image, image)[1:]
    )  # at 16 px the finest band is empty
    assert all(float(share) == 0 for share in trusted_shares(image, -image))
    assert all(float(share) == 0 for share in trusted_shares(image, torch.zeros_like(image)))
    noisy = trusted_shares(image + 3 * other, image)
    assert float(noisy[1]) < 0.3


def test_contrast_is_raised_to_a_photo_s_at_each_frequency_but_in_the_tones() -> None:
    deviation = means(2) * 0.1
    *bands, tones = frequency_bands(deviation)
    rms = torch.stack([3 * band.square().mean().sqrt() for band in [*bands, tones]])
    assert torch.allclose(with_contrast(deviation, rms, 0.0), deviation, atol=1e-6)
    raised = with_contrast(deviation, rms, 1.0) - tones
    expected = sum(
        band * (usual / band.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-9)).clamp(max=MOST_GAIN)
        for band, usual in zip(bands, rms, strict=False)
    )
    assert torch.allclose(raised, torch.as_tensor(expected), atol=1e-5)
    assert torch.equal(with_contrast(0 * deviation, rms, 1.0), 0 * deviation)  # of the usual face nothing is raised
    faint = with_contrast(1e-4 * deviation, rms, 1.0)
    assert float(faint.abs().max()) <= MOST_GAIN * 1e-4 * 3 * float(deviation.abs().max())


NOTHING, HALF, ALL = (
    torch.tensor(0.0),
    torch.tensor(sum(KNOWN) / 2),
    torch.tensor(1.0),
)  # known of the details of usual faces


def test_a_prior_that_knows_faces_draws_them_anew_and_one_that_does_not_keeps_those_of_the_mean() -> None:
    given = torch.rand(1, 3, 64, 64, generator=generator(0, "mean"))
    bands = frequency_bands(given)
    tones, details = bands[-1], given - bands[-1]
    rms = 10 * torch.stack([band.square().mean().sqrt() for band in bands])  # photos have more than this mean
    amounts = [float(strengths(given, tones, rms, known)) for known in (NOTHING, HALF, ALL)]
    assert amounts == pytest.approx([LEAST_STRENGTH, 0.5, 1.0], abs=0.02)
    assert float(strengths(given, torch.zeros_like(given), rms, NOTHING)) == 1  # nothing comes back
    assert float(strengths(given, details, rms, NOTHING)) == pytest.approx(1, abs=0.05)  # no tones: it is no face
    assert float(strengths(given, tones, rms, NOTHING, 0.7)) == pytest.approx(0.7)
    shares = [float(details_known(given, tones + share * details)) for share in (0.0, 0.5, 1.0)]
    assert shares == pytest.approx([0.0, 0.5, 1.0], abs=0.02)


def test_details_as_strong_as_a_photo_s_that_the_prior_does_not_expect_are_drawn_over() -> None:
    given = torch.rand(1, 3, 64, 64, generator=generator(0, "mean"))
    bands = frequency_bands(given)
    rms, details = torch.stack([band.square().mean().sqrt() for band in bands]), given - bands[-1]
    stained = [float(strengths(given, given - lost * details, rms, NOTHING)) for lost in (0.5, 0.7, 1.0)]
    assert stained == pytest.approx([0.25, 0.49, 1.0], abs=0.05)
    assert float(strengths(given, given - 0.7 * details, 2 * rms, NOTHING)) == pytest.approx(0.49 / 4, abs=0.03)
    assert float(strengths(given, given - 0.7 * details, None, NOTHING)) == pytest.approx(stained[1])
    flat = torch.zeros_like(rms)
    assert float(strengths(given, given - 0.7 * details, flat, NOTHING)) == 1
    assert float(strengths(0 * given, 0 * given, flat, NOTHING)) == 1  # the usual face itself: nobody


def test_a_good_mean_gets_little_noise_and_a_lost_one_all() -> None:
    space = eigenfaces.fit(torch.rand(8, 3, 32, 32, generator=generator(0, "photos")))
    mean = space.mean + 0.3 * frequency_bands(torch.rand(1, 3, 32, 32, generator=generator(0, "one")) - 0.5)[-1]

    class Seen(nn.Module):
        """Expects a part of the mean it is given, or of its tones, and notes the times at which it is asked."""

        def __init__(self, part: float, details: bool) -> None:
            super().__init__()
            self.part, self.details, self.times = part, details, list[int]()

        def forward(self, seen: Tensor, t: Tensor) -> Any:
            self.times.append(int(t.max()))
            given = seen[:, 3:] - space.mean
            return SimpleNamespace(
                sample=space.mean + self.part * (given if self.details else frequency_bands(given)[-1])
            )

    def begins(part: float, details: bool = False) -> int:
        network = Seen(part, details)
        abar = prior().alphas_cumprod
        drawn = Prior(network, abar, "sample", 32, 32, autocast=False, conditional=True)
        z = torch.randn(1, 2, 3, 32, 32, generator=generator(0, "z"))
        assert bool(draw_faces(drawn, mean, z, 4, space).isfinite().all())
        tried = -(-USUAL // TOGETHER)  # passes of usual faces
        assert network.times[: 1 + tried] == [999] * (1 + tried)  # what it expects, given the mean alone
        return network.times[1 + tried]

    assert begins(1.0) < 200  # it knows no details
    assert begins(1.0, details=True) == 999  # it gives those of usual faces back, and this mean has none
    assert 400 < begins(0.5) < 700
    assert begins(0.0) == 999


def test_a_schedule_that_begins_without_noise_gives_no_nan() -> None:
    clean = prior()
    abar = torch.cat([torch.ones(1), clean.alphas_cumprod[1:]])
    clean = Prior(Mirror(), abar, "sample", SIZE, SIZE, autocast=False, conditional=True)
    assert bool(draw_faces(clean, means(1), noise(1, 2), 40).isfinite().all())


def test_a_prior_that_has_not_learnt_mean_faces_draws_none() -> None:
    with pytest.raises(ValueError, match="not conditional"):
        draw_faces(prior(conditional=False), means(1), noise(1, 1), 3)


def test_without_a_mean_face_a_conditional_prior_is_a_prior_as_any() -> None:
    z = noise(1, 2)[0]
    assert torch.equal(prior().sample(z, 3), prior().sample(z, 3, condition=torch.zeros_like(z)))


def test_the_most_photographic_draw_has_a_photos_finest_detail_neither_less_nor_more() -> None:
    space = eigenfaces.fit(torch.rand(8, 3, 64, 64, generator=generator(0, "photos")))
    detail = torch.randn(3, 64, 64, generator=generator(0, "detail"))
    detail = detail * space.band_rms[0] / frequency_bands(detail[None])[0].square().mean().sqrt()
    draws = torch.stack([space.mean + part * detail for part in (0.3, 3.0, 1.1, 1.0 / 1.2)])
    assert most_photographic(draws, space) == 2
    assert most_photographic(draws.flip(0), space) == 1
    assert most_photographic(draws, None) == 0


def test_a_network_of_twice_the_channels_is_conditional_only_if_its_training_says_so(tmp_path: Path) -> None:
    write_prior(tmp_path, network=unet(in_channels=6))
    with pytest.raises(ConfigError, match="6 to 3 channels"):
        load_prior(str(tmp_path), 16)
    (tmp_path / "training.json").write_text(json.dumps({"condition": "mean face"}))
    loaded = load_prior(str(tmp_path), 16)
    assert loaded.conditional
    z = torch.randn(2, 3, 16, 16, generator=generator(0, "z"))
    assert loaded.sample(z, 2).shape == z.shape
    assert not torch.equal(loaded.sample(z, 2), loaded.sample(z, 2, condition=z))
