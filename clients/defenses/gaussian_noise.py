"""Gaussian noise of a fixed standard deviation on every entry of the update.

The deviation is absolute, not a multiple of a clipping bound and not an epsilon: behind
`clip` with bound C, `std = z * C` is the Gaussian mechanism with noise multiplier z.
"""

from dataclasses import dataclass

import torch

from fl_sim.updates import Update


@dataclass(frozen=True)
class Settings:
    std: float  # standard deviation of the noise on each entry, in units of the gradient, 0 or more

    def __post_init__(self) -> None:
        if not self.std >= 0:
            raise ValueError(f"std is {self.std}; a standard deviation must be 0 or more")


def defend(update: Update, settings: Settings, generator: torch.Generator) -> Update:
    """`update` + N(0, std^2), independent for each entry."""
    if settings.std == 0:
        return update
    return {
        name: value + settings.std * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for name, value in update.items()
    }
