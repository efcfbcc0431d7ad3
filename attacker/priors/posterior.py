"""Faces that an update leaves possible: photos drawn jointly by a conditional prior, held at what it determines.

An update determines something like the mean of a user's photos (`user_diffusion` finds it), and a mean is nobody's
portrait. A conditional prior has learnt p(photo | mean face): what photos of a person look like whose mean, damaged as
attacks damage it, is this one. A few photos are drawn together. After each step of the reverse process three things
that the mean tells are restored in the predicted photos (as in null-space projection, Wang et al. 2022, and iterative
latent variable refinement, Choi et al. 2021):

- *whom each shows*: the coordinates along the discriminants of faces (`priors.eigenfaces.Discriminants`), in which
  photos of one person agree. Pose, light and expression stay free;
- *the shape of each*: the lowest frequencies, the lowest of all whole, those above in part;
- *their mean*, in part at all frequencies, for the user's photos had it. One photo alone need not.

All only as far as the mean can be trusted. How far that is the prior says by itself, for each user and each frequency:
where it sees hardly more than noise, it predicts the photo that it expects given the mean, and what of the mean comes
back in that is trusted. Of an update that tells nothing the draws show nobody, but may have its noise in common.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from attacker.gaussian_blur import gaussian_blur
from attacker.priors.eigenfaces import Eigenfaces
from attacker.priors.prior import Prior, noise_levels

TOGETHER = 32  # faces in one pass of the U-Net, which bounds the memory
BLURS = (0.7, 1.4, 2.8, 5.6)  # pixels of 64, of the Gaussians that part the frequencies
CAUTION = 2  # power of what comes back of a mean by which it is trusted: half of it is noise as often as not
LEAST_SIGNAL = 0.1  # abar at which a network that predicts noise begins; with less image in x_t it does not tell any
SELECTIVITY = 3  # power of a discriminant's reliability by which it is held
SHAPE_HELD = (0.5, 1.0)  # of what each photo lacks of the lowest two bands, a step; 1.0 of both takes a photo's variety
MEAN_HELD = 0.5  # of what their mean lacks, a step; 1.0 shows ghosts of eyes, 0 names fewer real people
CONTRAST = 1.1  # of what is held against the mean's deviation from the usual face: a mean is paler than its photos


def draw_faces(prior: Prior, means: Tensor, noise: Tensor, steps: int, space: Eigenfaces | None = None) -> Tensor:
    """Photos (n, k, 3, H, W) in [-1, 1], k drawn jointly for each of `means` (n, 3, H, W), by `steps` DDIM steps.

    `noise` (n, k, c, S, S), standard normal, decides what the mean leaves open. Without a `space` that knows what tells
    people apart, whom they show is held by their shape alone; a single draw has no mean to hold. ValueError for
    a prior that is not conditional.
    """
    if not prior.conditional:
        raise ValueError("the prior is not conditional on a mean face")
    with torch.no_grad():
        given = prior.encode(means)
        if space is not None:
            space = space.at(prior.size, given.device) if space.discriminants is not None else None
        faces = prior.decode(_reverse(prior, given, noise, steps, space).flatten(0, 1)).clamp(-1, 1)
        return faces.view(*noise.shape[:2], *faces.shape[1:])


def _reverse(prior: Prior, given: Tensor, noise: Tensor, steps: int, space: Eigenfaces | None) -> Tensor:
    """The same in what the U-Net works on: `given` (n, c, S, S) to (n, k, c, S, S)."""
    repeated = given.repeat_interleave(noise.shape[1], 0)
    usual = torch.zeros_like(given[:1]) if space is None else space.mean[None]
    sought = given if space is None else usual + CONTRAST * (given - usual)
    times = noise_levels(_first(prior) + 1, steps)
    x = prior.add_noise(repeated, noise.flatten(0, 1), torch.full((len(repeated),), times[0], device=given.device))
    trusted: list[Tensor] = []
    sure = torch.ones(())
    for t, following in zip(times, [*times[1:], None], strict=True):
        x0 = _predict(prior, x, t, repeated).view_as(noise)
        if t == times[0]:
            expected = x0.mean(1)
            trusted = trusted_shares(given - usual, expected - usual)
            sure = trusted_identity(given - usual, expected - usual, space) if space else sure
        if space is not None:
            x0 = hold_identity(x0, sought, sure, space)
        x0 = hold_shape(x0, sought, trusted)
        if noise.shape[1] > 1:
            x0 = hold_mean(x0, sought, trusted)
        x0 = x0.clamp(-1, 1)
        if following is not None:
            x = prior.step(x, x0.flatten(0, 1), t, following)
    return x0


def _first(prior: Prior) -> int:
    """The time at which the reverse process begins."""
    if prior.prediction_type != "epsilon":
        return prior.steps - 1
    return max(int((prior.alphas_cumprod >= LEAST_SIGNAL).sum()) - 1, 0)


def hold_shape(x0: Tensor, sought: Tensor, trusted: Sequence[Tensor]) -> Tensor:
    """Photos (n, k, c, S, S), each moved towards the shape of `sought` (n, c, S, S) where that is trusted."""
    low = -len(SHAPE_HELD)
    missing = bands((sought[:, None] - x0).flatten(0, 1))[low:]
    for held, share, band in zip(SHAPE_HELD, trusted[low:], missing, strict=True):
        x0 = x0 + held * share[:, None] * band.view_as(x0)
    return x0


def hold_mean(x0: Tensor, sought: Tensor, trusted: Sequence[Tensor]) -> Tensor:
    """Photos (n, k, c, S, S), moved together so that their mean nears `sought` (n, c, S, S) where that is trusted."""
    missing = bands(sought - x0.mean(1))
    moves = torch.stack([share * band for share, band in zip(trusted, missing, strict=True)])
    return x0 + MEAN_HELD * moves.sum(0)[:, None]


def hold_identity(x0: Tensor, sought: Tensor, sure: Tensor, space: Eigenfaces) -> Tensor:
    """Photos (n, k, c, S, S), each moved towards whom `sought` (n, c, S, S) shows, as far as that is `sure` (n, 1)."""
    assert space.discriminants is not None
    weight = sure.repeat_interleave(x0.shape[1], 0) * space.discriminants.reliability**SELECTIVITY  # (n k, q)
    apart = space.identity((sought[:, None] - x0).flatten(0, 1))
    return x0 + space.of_identity(weight * apart).view_as(x0)


def bands(images: Tensor) -> list[Tensor]:
    """Images (n, c, S, S) parted by frequency, the finest first; they sum to the images."""
    found, rest = [], images
    for blur in BLURS:
        low = gaussian_blur(rest, blur * images.shape[-1] / 64)
        found.append(rest - low)
        rest = low
    return [*found, rest]


def trusted_shares(given: Tensor, expected: Tensor) -> list[Tensor]:
    """How far each band of `given` is trusted, of which `expected` comes back: (n, 1, 1, 1) in [0, 1].

    Both (n, c, S, S) less the usual face.
    """
    pairs = zip(bands(given), bands(expected), strict=True)
    return [_share(own.flatten(1), back.flatten(1))[:, :, None, None] ** CAUTION for own, back in pairs]


def trusted_identity(given: Tensor, expected: Tensor, space: Eigenfaces) -> Tensor:
    """The same of whom they show: (n, 1) in [0, 1]."""
    assert space.discriminants is not None
    weight = space.discriminants.reliability.sqrt()
    return _share(weight * space.identity(given), weight * space.identity(expected))


def _share(given: Tensor, expected: Tensor) -> Tensor:
    """The regression (n, 1) of `expected` on `given` (n, d), in [0, 1]."""
    return ((given * expected).sum(1) / given.square().sum(1).clamp_min(1e-9)).clamp(0, 1)[:, None]


def _predict(prior: Prior, x: Tensor, t: int, condition: Tensor) -> Tensor:
    def part(some: slice) -> Tensor:
        now = torch.full((len(x[some]),), t, device=x.device)
        return prior.predict_x0(x[some], now, condition=condition[some])

    return torch.cat([part(slice(start, start + TOGETHER)) for start in range(0, len(x), TOGETHER)])


def most_typical(draws: Tensor) -> int:
    """Which of `draws` (k, 3, H, W) is the nearest to their mean; the first of equals."""
    return int((draws - draws.mean(0)).square().sum((1, 2, 3)).argmin())
