"""Quantisation with unbiased stochastic rounding (QSGD, Alistarh et al. 2017; with 2 bits TernGrad, Wen et al. 2017).

Each tensor with the largest magnitude m is rounded to the 2^bits - 1 levels that are evenly spaced in [-m, m], 0 among
them: up or down at random, so that the mean over the draws is the value itself.
"""

from dataclasses import dataclass

import torch

from fl_sim.traits import OFF, Traits
from fl_sim.updates import Update


@dataclass(frozen=True)
class Settings:
    bits: int  # per entry, from 2 to 31; 32: off

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 32:
            raise ValueError(f"bits is {self.bits}; give 2 (levels -1, 0, 1) to 31, or 32 for off; 1 bit is `sign`")


def traits(settings: Settings) -> Traits:
    """Rounded to levels."""
    return OFF if settings.bits == 32 else Traits(levels=True)


def defend(update: Update, settings: Settings, generator: torch.Generator) -> Update:
    """`update` rounded to the levels of its tensors; a tensor of zeros stays."""
    if settings.bits == 32:
        return update
    return {name: _rounded(value, 2 ** (settings.bits - 1) - 1, generator) for name, value in update.items()}


def _rounded(value: torch.Tensor, levels: int, generator: torch.Generator) -> torch.Tensor:
    """`value` rounded to multiples of its largest magnitude / `levels`, in double precision for many bits."""
    step = value.abs().max().double() / levels
    if step == 0:
        return value
    position = value.double() / step
    lower = position.floor()
    up = torch.rand(value.shape, generator=generator, dtype=torch.float64) < position - lower
    return ((lower + up) * step).to(value.dtype)
