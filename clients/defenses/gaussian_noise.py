"""Gaussian noise of one standard deviation on every entry of the update.

The deviation is not an epsilon. Behind `clip` with bound C, `noise_multiplier` z is the Gaussian mechanism with
deviation z C, as opacus and Flower have it (Abadi et al. 2016). A deviation that follows the update itself
("percentile95") suits updates of any size, but guarantees nothing, for the level of the noise itself tells of the data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from clients.defenses.noise_scale import clip_norm, percentile95
from fl_sim.traits import OFF, Traits
from fl_sim.updates import Update


@dataclass(frozen=True)
class Settings:
    """Either `std` or `noise_multiplier`; 0 is off."""

    std: float | None = None  # standard deviation of the noise on each entry, in units of `relative`
    noise_multiplier: float | None = None  # the same in units of `max_norm` of the last clip before it
    relative: Literal["absolute", "percentile95"] = "absolute"  # units of std: the gradient's, or the update's own size

    def __post_init__(self) -> None:
        given = {"std": self.std, "noise_multiplier": self.noise_multiplier}
        levels = {name: level for name, level in given.items() if level is not None}
        if len(levels) != 1:
            raise ValueError(f"{' and '.join(levels) or 'no level'} given; give std or noise_multiplier")
        for name, level in levels.items():
            if not 0 <= level < float("inf"):
                raise ValueError(f"{name} is {level}; it must be 0 or more, and finite")
        if self.noise_multiplier is not None and self.relative != "absolute":
            raise ValueError(f"relative is {self.relative!r}, which is about std; leave it out beside noise_multiplier")


def resolve(settings: Settings, before: Sequence[Any]) -> Settings:
    """`settings` with the `std` that the clip before them gives."""
    if settings.noise_multiplier is None:
        return settings
    return Settings(std=settings.noise_multiplier * clip_norm("gaussian_noise", before))


def traits(settings: Settings) -> Traits:
    """Noise of the resolved size; none is known where it follows the update."""
    if not settings.std:
        return OFF
    size = None if settings.relative == "percentile95" else settings.std
    return Traits(keeps_norm=True, noise="gaussian", noise_size=size)


def defend(update: Update, settings: Settings, generator: torch.Generator) -> Update:
    """`update` + N(0, std^2), independent for each entry."""
    if not settings.std:
        return update
    std = settings.std * (percentile95(update) if settings.relative == "percentile95" else 1.0)
    return {
        name: value + std * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for name, value in update.items()
    }
