"""Faces that an update leaves possible: photos drawn by a conditional prior, near the mean face that it determines.

An update determines something like the mean of a user's photos (`user_diffusion` finds it), and a mean is nobody's
portrait: it lacks what the photos differ in. Three steps lead from it to photos.

- *Contrast*. At each spatial frequency but the lowest a mean deviates less from the usual face than a photo does. What
  it has is raised to nearly a photo's strength: that shows the person more clearly, and leaves less to be invented.
- *Noise and reversal* (SDEdit, Meng et al. 2022). Noise is added, and the reverse process of a prior that has learnt
  p(photo | mean face) takes it away. `strength`, as in diffusers, is how far up the noise schedule that begins: what
  stands out of the noise there is kept, the rest is drawn.
- *Restoring*. After each step the lowest frequencies of each predicted photo, and the mean of all, are moved back
  towards the mean face (iterative latent variable refinement, Choi et al. 2021), the more the more they are trusted.

How far the mean can be trusted the prior says by itself, for each user and each frequency: where it sees hardly more
than noise, it predicts the photo that it expects given the mean, and what of the mean comes back in that is trusted. A
mean whose details come back needs no help, and is drawn from nearly pure noise. Where tones come back and details do
not, the prior sees a face and does not know it: less noise keeps what it does not know. A mean of which nothing comes
back shows nobody, and is drawn over.

Of several draws one is the answer: the one whose finest details are as strong as a photo's.
"""

from collections.abc import Sequence
from itertools import zip_longest

import torch
from torch import Tensor

from attacker.gaussian_blur import frequency_bands
from attacker.priors.eigenfaces import Eigenfaces
from attacker.priors.prior import Prior

TOGETHER = 32  # faces in one pass of the U-Net, which bounds the memory
CONTRAST = 0.8  # power of what brings each frequency to a photo's strength: 0 leaves the mean as it is
MOST_GAIN = 4.0  # of a frequency; what is fainter than that in the mean is not there
UNKNOWN_KEPT = 1.2  # how much the details that the prior does not know lower the strength; with more, flaws stay, too
LEAST_STRENGTH = 0.2
CAUTION = 2  # power of what comes back of a mean by which it is trusted: half of it is noise as often as not
LEAST_SIGNAL = 0.1  # abar of strength 1 for a network that predicts noise: below, its x_0 is noise divided by little
SHAPE_HELD = (0.5, 1.0)  # of what each photo lacks of the lowest two bands, a step; 1.0 of both takes a photo's variety
MEAN_HELD = 0.25  # of what their mean lacks, a step; 1.0 shows ghosts of eyes, 0 names fewer real people


def draw_faces(
    prior: Prior,
    means: Tensor,
    noise: Tensor,
    steps: int,
    space: Eigenfaces | None = None,
    contrast: float = CONTRAST,
    least_strength: float = LEAST_STRENGTH,
) -> Tensor:
    """Photos (n, k, 3, H, W) in [-1, 1], k drawn jointly for each of `means` (n, 3, H, W), by `steps` DDIM steps.

    `noise` (n, k, 3, S, S), standard normal, decides what the mean leaves open; the prior is one of pixels. Without a
    `space` no contrast is raised, and what all faces have in common counts as told by the mean. A single draw has no
    mean to hold. ValueError for a prior that is not conditional.
    """
    if not prior.conditional:
        raise ValueError("the prior is not conditional on a mean face")
    with torch.no_grad():
        given = prior.encode(means)
        usual = torch.zeros_like(given[:1])
        sought = given
        if space is not None:
            usual = prior.encode(space.mean[None].to(given))
            sought = (usual + with_contrast(given - usual, space.band_rms.to(given), contrast)).clamp(-1, 1)
        faces = prior.decode(_reverse(prior, given, usual, sought, noise, steps, least_strength).flatten(0, 1))
        return faces.clamp(-1, 1).view(*noise.shape[:2], *faces.shape[1:])


def _reverse(
    prior: Prior, given: Tensor, usual: Tensor, sought: Tensor, noise: Tensor, steps: int, least_strength: float
) -> Tensor:
    """In what the U-Net works on: photos (n, k, 3, S, S) of the mean faces `given`, near `sought` (n, 3, S, S)."""
    draws = noise.shape[1]
    repeated, flat = given.repeat_interleave(draws, 0), noise.flatten(0, 1)
    last = torch.full((len(flat),), _first(prior), device=flat.device)
    expected = _predict(prior, prior.add_noise(repeated, flat, last), last, repeated).view_as(noise).mean(1)
    trusted = trusted_shares(given - usual, expected - usual)
    strength = strengths(given - usual, expected - usual, least_strength).repeat_interleave(draws, 0)
    levels = torch.linspace(1, 0, steps, device=flat.device).square()  # denser towards 0, as `Prior.sample` has them
    times = [(level * strength * last).round().long() for level in levels]
    x = prior.add_noise(sought.repeat_interleave(draws, 0), flat, times[0])
    for t, following in zip_longest(times, times[1:]):
        x0 = hold_shape(_predict(prior, x, t, repeated).view_as(noise), sought, trusted)
        if draws > 1:
            x0 = hold_mean(x0, sought, trusted)
        x0 = x0.clamp(-1, 1)
        if following is not None:
            x = prior.step(x, x0.flatten(0, 1), t, following)
    return x0


def _first(prior: Prior) -> int:
    """The time of strength 1."""
    if prior.prediction_type != "epsilon":
        return prior.steps - 1
    return max(int((prior.alphas_cumprod >= LEAST_SIGNAL).sum()) - 1, 0)


def with_contrast(deviation: Tensor, band_rms: Tensor, power: float) -> Tensor:
    """Deviations (n, 3, S, S) from the usual face, each frequency raised towards a photo's `band_rms` (5,).

    All but the lowest: of tones a mean has as much as a photo, and raised they would make the dark darker.
    """
    *bands, raised = frequency_bands(deviation)
    for band, usual in zip(bands, band_rms[:-1], strict=True):
        own = band.square().mean((1, 2, 3), keepdim=True).sqrt()
        raised = raised + band * (usual / own.clamp_min(1e-9)).clamp(max=MOST_GAIN) ** power
    return raised


def strengths(given: Tensor, expected: Tensor, least: float = LEAST_STRENGTH) -> Tensor:
    """How far up the schedule noise is added (n,), in [`least`, 1]; `given` and `expected` as for `trusted_shares`."""
    tones, back = (frequency_bands(image)[-1] for image in (given, expected))
    unknown = _share(tones, back) * (1 - _share(given - tones, expected - back))
    return (1 - UNKNOWN_KEPT * unknown.flatten()).clamp(min=least)


def hold_shape(x0: Tensor, sought: Tensor, trusted: Sequence[Tensor]) -> Tensor:
    """Photos (n, k, 3, S, S), each moved towards the shape of `sought` (n, 3, S, S) where that is trusted."""
    low = -len(SHAPE_HELD)
    missing = frequency_bands((sought[:, None] - x0).flatten(0, 1))[low:]
    for held, share, band in zip(SHAPE_HELD, trusted[low:], missing, strict=True):
        x0 = x0 + held * share[:, None] * band.view_as(x0)
    return x0


def hold_mean(x0: Tensor, sought: Tensor, trusted: Sequence[Tensor]) -> Tensor:
    """Photos (n, k, 3, S, S), moved together so that their mean nears `sought` (n, 3, S, S) where that is trusted."""
    missing = frequency_bands(sought - x0.mean(1))
    moves = torch.stack([share * band for share, band in zip(trusted, missing, strict=True)])
    return x0 + MEAN_HELD * moves.sum(0)[:, None]


def trusted_shares(given: Tensor, expected: Tensor) -> list[Tensor]:
    """How far each band of `given` is trusted, of which `expected` comes back: (n, 1, 1, 1) in [0, 1].

    Both (n, 3, S, S) less the usual face.
    """
    pairs = zip(frequency_bands(given), frequency_bands(expected), strict=True)
    return [_share(own, back) ** CAUTION for own, back in pairs]


def _share(given: Tensor, expected: Tensor) -> Tensor:
    """The regression (n, 1, 1, 1) of `expected` on `given` (n, 3, S, S), in [0, 1]."""
    along, own = ((image * given).sum((1, 2, 3), keepdim=True) for image in (expected, given))
    return (along / own.clamp_min(1e-9)).clamp(0, 1)


def _predict(prior: Prior, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
    parts = [slice(start, start + TOGETHER) for start in range(0, len(x), TOGETHER)]
    return torch.cat([prior.predict_x0(x[some], t[some], condition=condition[some]) for some in parts])


def most_photographic(draws: Tensor, space: Eigenfaces | None) -> int:
    """Which of `draws` (k, 3, H, W) in [-1, 1] has, at the finest frequency, the strength nearest to a photo's.

    A draw with less is a mean of poses still, with ghosts of eyes, and one with more has kept noise of the update. The
    first of equals, and without a `space`, which knows of photos.
    """
    if space is None:
        return 0
    finest = frequency_bands(draws - space.mean)[0].square().mean((1, 2, 3)).sqrt()
    return int((finest.clamp_min(1e-9) / space.band_rms[0]).log().abs().argmin())
