"""What an attack makes of a user's mean face: what a conditional prior must learn to see through.

The gradient of a user's photos determines something like their mean, and nothing of it exactly. The descent of
`user_diffusion` moves along the principal components of faces, and ends with each of them scaled (the first, in which
faces differ most, are found best) and disturbed, in proportion to how much faces differ along it. What no component
holds is lost in part, and blurred white noise comes in beside it. How strong each of these is depends on the model, its
training, the number of photos and the defense, none of which the network knows: levels are drawn over orders of
magnitude, so that it learns to judge the damage by the picture itself.
"""

import math

import torch
from torch import Tensor

from attacker.priors.eigenfaces import Eigenfaces

# Ranges of uniform draws, one an image; where "logarithm" is said the logarithm is uniform.
FIRST_GAIN = (0.75, 1.2)  # factor of the first principal component
LAST_GAIN = (0.5, 1.05)  # of the last one, as a part of the first's; between them it goes with the root of the rank
DISTURBANCE = (0.03, 2.0)  # logarithm; standard deviation of components' noise, as a part of faces' deviation
LOWER = 1.5  # power of that uniform draw: above 1, strong disturbance, which tells of defenses, is rarer
EVENNESS = 0.5  # most by which the exponent of a deviation, in its noise, is below 1: 0 would treat all alike
REST_GAIN = (0.0, 1.0)  # factor of what no component holds
GRAIN = (0.005, 0.15)  # logarithm; standard deviation of the blurred white noise, images being in [-1, 1]
GRAIN_BLUR = (0.3, 1.5)  # pixels, standard deviation of its blur
FULL_GRAIN = 1 / 3  # disturbance from which on the grain is as strong as drawn; below, less in proportion


def damaged(means: Tensor, space: Eigenfaces, random: torch.Generator) -> Tensor:
    """`means` (n, 3, H, W) in [-1, 1], clean means of faces, as an attack would show them; of that shape and range.

    `space` is of that size and on their device, as `random` is.
    """
    n, ranks = len(means), len(space.deviations)
    difference = (means - space.mean).flatten(1)
    along = difference @ space.components.T  # (n, q)
    rest = difference - along @ space.components
    strength = _between(DISTURBANCE, n, random, logarithm=True, power=LOWER)  # (n, 1)
    noise = strength * torch.randn(n, ranks, generator=random, device=random.device) * _profile(space, n, random)
    faces = (_gains(n, ranks, random) * along + noise) @ space.components + _between(REST_GAIN, n, random) * rest
    grain = _between(GRAIN, n, random, logarithm=True) * (strength / FULL_GRAIN).clamp(max=1)
    blurred = _blurred(torch.randn(means.shape, generator=random, device=random.device), random)
    return (space.mean + faces.view_as(means) + grain[:, :, None, None] * blurred).clamp(-1, 1)


def _gains(n: int, ranks: int, random: torch.Generator) -> Tensor:
    """(n, q) factors of the components."""
    first = _between(FIRST_GAIN, n, random)
    last = _between(LAST_GAIN, n, random) * first
    return torch.lerp(first, last, torch.linspace(0, 1, ranks, device=random.device).sqrt())


def _profile(space: Eigenfaces, n: int, random: torch.Generator) -> Tensor:
    """(n, q) standard deviations of the components' noise at strength 1: the faces' own, or more even than those."""
    exponent = -EVENNESS * torch.rand(n, 1, generator=random, device=random.device).square()
    deviations = space.deviations.clamp_min(1e-6)  # of few photos some are 0
    return deviations * (deviations / deviations.median()) ** exponent


def _blurred(white: Tensor, random: torch.Generator) -> Tensor:
    """White noise (n, 3, H, W) after a Gaussian blur, with a standard deviation of 1 again."""
    sigma = _between(GRAIN_BLUR, len(white), random)[:, :, None]  # (n, 1, 1)
    places = torch.arange(white.shape[-1], device=white.device)
    kernel = torch.exp(-(places[:, None] - places).square() / (2 * sigma.square()))  # (n, W, W)
    kernel = (kernel / kernel.sum(-1, keepdim=True))[:, None]
    soft = kernel @ white @ kernel.transpose(-1, -2)
    return soft / soft.flatten(1).std(dim=1)[:, None, None, None]


def _between(
    bounds: tuple[float, float], n: int, random: torch.Generator, logarithm: bool = False, power: float = 1
) -> Tensor:
    """(n, 1) draws between the bounds, or their logarithms between those of the bounds.

    Uniform, with a `power` above 1 nearer to the lower bound.
    """
    low, high = (math.log(bound) for bound in bounds) if logarithm else bounds
    drawn = low + (high - low) * torch.rand(n, 1, generator=random, device=random.device) ** power
    return drawn.exp() if logarithm else drawn
