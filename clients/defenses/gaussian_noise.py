"""Gaussian noise of one standard deviation on every entry of the update.

The deviation is not an epsilon. `relative = "clip_norm"` behind `clip` with bound C is the Gaussian mechanism with
noise multiplier `std`. A deviation that follows the update itself ("percentile95") suits updates of any size, but
guarantees nothing, for the level of the noise itself tells of the data.
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
    std: float  # standard deviation of the noise on each entry, 0 (off) or more, in units of `relative`
    relative: Relative = "absolute"  # units: the gradient's, max_norm of the clip before, or the update's own size

    def __post_init__(self) -> None:
        if not 0 <= self.std < float("inf"):
            raise ValueError(f"std is {self.std}; a standard deviation must be 0 or more, and finite")


def resolve(settings: Settings, before: Sequence[Any]) -> Settings:
    """`settings` in absolute units where the clip before it gives them."""
    if settings.relative != "clip_norm":
        return settings
    return replace(settings, std=settings.std * clip_norm("gaussian_noise", before), relative="absolute")


def traits(settings: Settings) -> Traits:
    """Noise of the resolved size; none is known where it follows the update."""
    if settings.std == 0:
        return OFF
    size = None if settings.relative == "percentile95" else settings.std
    return Traits(keeps_norm=True, noise="gaussian", noise_size=size)


def defend(update: Update, settings: Settings, generator: torch.Generator) -> Update:
    """`update` + N(0, std^2), independent for each entry."""
    if settings.std == 0:
        return update
    std = settings.std * (percentile95(update) if settings.relative == "percentile95" else 1.0)
    return {
        name: value + std * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for name, value in update.items()
    }
