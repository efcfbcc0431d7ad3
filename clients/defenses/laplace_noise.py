"""Laplace noise of one scale on every entry of the update (Dwork et al. 2006).

The scale b is not an epsilon: epsilon-differential privacy takes b = (L1 sensitivity) / epsilon, and behind a clip to
the L2 norm C the L1 norm of p entries is bounded by sqrt(p) C alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from clients.defenses.noise_scale import Relative, clip_norm, percentile95
from fl_sim.traits import OFF, Traits
from fl_sim.updates import Update


@dataclass(frozen=True)
class Settings:
    scale: float  # b, 0 (off) or more, in units of `relative`; the standard deviation is sqrt(2) b
    relative: Relative = "absolute"  # units: the gradient's, max_norm of the clip before, or the update's own size

    def __post_init__(self) -> None:
        if not 0 <= self.scale < float("inf"):
            raise ValueError(f"scale is {self.scale}; the scale of the noise must be 0 or more, and finite")


def resolve(settings: Settings, before: Sequence[Any]) -> Settings:
    """`settings` in absolute units where the clip before it gives them."""
    if settings.relative != "clip_norm":
        return settings
    return replace(settings, scale=settings.scale * clip_norm("laplace_noise", before), relative="absolute")


def traits(settings: Settings) -> Traits:
    """Noise of the resolved size; none is known where it follows the update."""
    if settings.scale == 0:
        return OFF
    size = None if settings.relative == "percentile95" else settings.scale
    return Traits(keeps_norm=True, noise="laplace", noise_size=size)


def defend(update: Update, settings: Settings, generator: torch.Generator) -> Update:
    """`update` + Laplace(0, scale), independent for each entry."""
    if settings.scale == 0:
        return update
    scale = settings.scale * (percentile95(update) if settings.relative == "percentile95" else 1.0)

    def exponential(value: torch.Tensor) -> torch.Tensor:
        return torch.empty(value.shape, dtype=torch.float64).exponential_(generator=generator)

    # The difference of two exponential variables is Laplace's; unlike the inverse of its CDF it cannot be infinite.
    return {
        name: value + (scale * (exponential(value) - exponential(value))).to(value.dtype)
        for name, value in update.items()
    }
