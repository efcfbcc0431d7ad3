"""Dropout of the update: each entry, or each whole layer, is withheld with some probability.

What is left is sent as it is, not scaled up: a norm bound of a clip before it still holds.
Withholding whole layers is partial sharing (Shokri & Shmatikov 2015), chosen at random.
"""

from dataclasses import dataclass

import torch

from fl_sim.traits import OFF, Traits
from fl_sim.updates import Update


@dataclass(frozen=True)
class Settings:
    rate: float  # probability of being withheld, in [0, 1); 0: off
    per_layer: bool = False  # whether whole tensors are withheld rather than single entries

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ValueError(f"rate is {self.rate}; the probability of being withheld must be at least 0, below 1")


def traits(settings: Settings) -> Traits:
    """Any entries are gone."""
    return OFF if settings.rate == 0 else Traits(keeps_norm=True, zeroes="any")


def defend(update: Update, settings: Settings, generator: torch.Generator) -> Update:
    """`update` with zeros in the place of what is withheld."""
    if settings.rate == 0:
        return update

    def sent(value: torch.Tensor) -> torch.Tensor:
        shape = () if settings.per_layer else value.shape
        return torch.rand(shape, generator=generator) >= settings.rate

    return {name: torch.where(sent(value), value, 0) for name, value in update.items()}
