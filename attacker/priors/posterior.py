"""Faces that an update leaves possible: photos drawn by a conditional prior, near the mean face that it determines.

An update determines something like the mean of a user's photos (`user_diffusion` finds it), and a mean is nobody's
portrait: it lacks what the photos differ in. Three steps lead from it to photos.

- *Contrast*. At each spatial frequency but the lowest a mean deviates less from the usual face than a photo does. What
  it has is raised to nearly a photo's strength: that shows the person more clearly, and leaves less to be invented.
- *Noise and reversal* (SDEdit, Meng et al. 2022). Noise is added, and the reverse process of a prior that has learnt
  p(photo | mean face) takes it away. `strength`, as in diffusers, is how far up the noise schedule that begins: what
  stands out of the noise there is kept, the rest is drawn.
- *Restoring*. After each step the lowest frequencies of each predicted photo are moved back towards the mean face
  (iterative latent variable refinement, Choi et al. 2021), the more the more they are trusted.

How far the mean can be trusted the prior says by itself, for each user and each frequency: where it sees hardly more
than noise, it predicts the photo that it expects given the mean, and what of the mean comes back in that is trusted.
How much noise is added follows from that.

- A prior that gives the details of usual faces back knows faces, and draws them anew from much noise.
- A prior that does not would draw other people: little noise leaves the details of the mean as they are.
- Details that do not come back although they are as strong as a photo's are taken for stains, as noise in the update
  leaves them. The stronger they are, the more noise is added.
- A mean of which no tones come back shows nobody, and is drawn over.

Of several draws one is the answer: the one whose finest details are as strong as a photo's.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import zip_longest

import torch
from torch import Tensor

from attacker.gaussian_blur import frequency_bands
from attacker.priors.eigenfaces import Eigenfaces
from attacker.priors.prior import Prior
from fl_sim.seeds import generator

TOGETHER = 32  # faces in one pass of the U-Net, which bounds the memory
CONTRAST = 0.8  # power of what brings each frequency to a photo's strength: 0 leaves the mean as it is
MOST_GAIN = 4.0  # of a frequency; what is fainter than that in the mean is not there
USUAL, SPREAD = 32, 0.3  # faces that a prior is tried on, and how much they differ, in deviations of faces
KNOWN = (0.5, 0.9)  # what comes back of them, from where on noise is added, and where all is: rough priors, good ones
LEAST_STRENGTH = 0.03  # takes the grain away that raised contrast brings out, and hardly anything else
STAINED = 1  # the band in which stains are looked for, the second finest: in the finest a good mean has little, too
CAUTION = 2  # power of what comes back of a mean by which it is trusted: half of it is noise as often as not
LEAST_SIGNAL = 0.1  # abar of strength 1 for a network that predicts noise: below, its x_0 is noise divided by little
SHAPE_HELD = (0.5, 1.0)  # of what each photo lacks of the lowest two bands, a step; 1.0 of both takes a photo's variety


def draw_faces(
    prior: Prior,
    means: Tensor,
    noise: Tensor,
    steps: int,
    space: Eigenfaces | None = None,
    contrast: float = CONTRAST,
    least_strength: float = LEAST_STRENGTH,
) -> Tensor:
    """Photos (n, k, 3, H, W) in [-1, 1], k for each of `means` (n, 3, H, W), by `steps` DDIM steps.

    `noise` (n, k, 3, S, S), standard normal, decides what the mean leaves open; the prior is one of pixels. Without a
    `space` no contrast is raised, what all faces have in common counts as told by the mean, and its details as if they
    were as strong as a photo's. ValueError for a prior that is not conditional.
    """
    if not prior.conditional:
        raise ValueError("the prior is not conditional on a mean face")
    with torch.no_grad():
        given = prior.encode(means)
        usual = torch.zeros_like(given[:1])
        sought, rms = given, None
        if space is not None:
            usual, rms = prior.encode(space.mean[None].to(given)), space.band_rms.to(given)
            sought = (usual + with_contrast(given - usual, rms, contrast)).clamp(-1, 1)
        deviation, expected = given - usual, _expected(prior, given, noise) - usual
        trusted = trusted_shares(deviation, expected)
        known = details_known(deviation, expected) if space is None else familiarity(prior, space)
        strength = strengths(deviation, expected, rms, known, least_strength)
        faces = prior.decode(_reverse(prior, given, sought, trusted, strength, noise, steps).flatten(0, 1))
        return faces.clamp(-1, 1).view(*noise.shape[:2], *faces.shape[1:])


def _expected(prior: Prior, given: Tensor, noise: Tensor) -> Tensor:
    """What the prior expects (n, 3, S, S), given the mean faces alone: the mean of a prediction from each `noise`."""
    draws = noise.shape[1]
    repeated, flat = given.repeat_interleave(draws, 0), noise.flatten(0, 1)
    last = torch.full((len(flat),), _first(prior), device=flat.device)
    return _predict(prior, prior.add_noise(repeated, flat, last), last, repeated).view_as(noise).mean(1)


def _reverse(
    prior: Prior,
    given: Tensor,
    sought: Tensor,
    trusted: Sequence[Tensor],
    strength: Tensor,
    noise: Tensor,
    steps: int,
) -> Tensor:
    """In what the U-Net works on: photos (n, k, 3, S, S) of the mean faces `given`, near `sought` (n, 3, S, S)."""
    draws = noise.shape[1]
    repeated, first = given.repeat_interleave(draws, 0), strength.repeat_interleave(draws, 0) * _first(prior)
    levels = torch.linspace(1, 0, steps, device=first.device).square()  # denser towards 0, as `Prior.sample` has them
    times = [(level * first).round().long() for level in levels]
    x = prior.add_noise(sought.repeat_interleave(draws, 0), noise.flatten(0, 1), times[0])
    for t, following in zip_longest(times, times[1:]):
        x0 = hold_shape(_predict(prior, x, t, repeated).view_as(noise), sought, trusted).clamp(-1, 1)
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


@lru_cache(maxsize=1)  # a worker's users have both in common
def familiarity(prior: Prior, space: Eigenfaces) -> Tensor:
    """How well the prior knows faces, () in [0, 1]: what comes back of the details of usual ones, on average."""
    random, device = generator(0, "usual faces"), space.mean.device
    codes = torch.randn(USUAL, len(space.deviations), generator=random).to(device)
    noise = torch.randn(USUAL, 1, prior.channels, prior.size, prior.size, generator=random).to(device)
    given = prior.encode((space.mean + SPREAD * space.draw(codes)).clamp(-1, 1))
    usual = prior.encode(space.mean[None])
    return details_known(given - usual, _expected(prior, given, noise) - usual).mean()


def details_known(given: Tensor, expected: Tensor) -> Tensor:
    """What comes back of all but the tones (n, 1, 1, 1), in [0, 1]; arguments as for `trusted_shares`."""
    return _share(given - frequency_bands(given)[-1], expected - frequency_bands(expected)[-1])


def strengths(
    given: Tensor, expected: Tensor, band_rms: Tensor | None, known: Tensor, least: float = LEAST_STRENGTH
) -> Tensor:
    """How far up the schedule noise is added (n,), in [`least`, 1]; `given` and `expected` as for `trusted_shares`.

    The largest of three: how far `known`, () or (n, 1, 1, 1) in [0, 1], is on the way through KNOWN; the power of
    stains, as a part of that of a photo, whose RMS by band is `band_rms` (5,), or of the mean's own without; the part
    of the tones that is lost.
    """
    own, back = frequency_bands(given), frequency_bands(expected)
    stains = (1 - _share(own[STAINED], back[STAINED])).square()
    if band_rms is not None:
        power = own[STAINED].square().mean((1, 2, 3), keepdim=True)
        stains = stains * power / band_rms[STAINED].square().clamp_min(1e-9)
    lost = 1 - _share(own[-1], back[-1])
    drawn = (known - KNOWN[0]) / (KNOWN[1] - KNOWN[0])
    return torch.stack([drawn.expand_as(lost), stains, lost]).amax(0).flatten().clamp(least, 1)


def hold_shape(x0: Tensor, sought: Tensor, trusted: Sequence[Tensor]) -> Tensor:
    """Photos (n, k, 3, S, S), each moved towards the shape of `sought` (n, 3, S, S) where that is trusted."""
    low = -len(SHAPE_HELD)
    missing = frequency_bands((sought[:, None] - x0).flatten(0, 1))[low:]
    for held, share, band in zip(SHAPE_HELD, trusted[low:], missing, strict=True):
        x0 = x0 + held * share[:, None] * band.view_as(x0)
    return x0


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
