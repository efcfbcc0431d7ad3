"""Random sparsification: a random choice of exactly k entries is sent (Konecny et al. 2016, random mask).

What is sent is scaled by n / k, so that on average the update is the one without the defense; its norm grows.
"""

from dataclasses import dataclass

import torch

from clients.defenses.entries import count, random
from fl_sim.traits import OFF, Traits
from fl_sim.updates import Update, unflatten


@dataclass(frozen=True)
class Settings:
    keep: float  # fraction of all entries that is sent, in (0, 1]; 1: off

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep is {self.keep}; the fraction of entries that is sent must be above 0, at most 1")


def traits(settings: Settings) -> Traits:
    """Any entries are gone; the others have grown."""
    return OFF if settings.keep == 1 else Traits(zeroes="any")


def defend(update: Update, settings: Settings, generator: torch.Generator) -> Update:
    """`update` with k = round(keep * n) of its n entries, times n / k, and zero elsewhere."""
    if settings.keep == 1:
        return update
    total = sum(value.numel() for value in update.values())
    k = count(settings.keep, total)
    kept = unflatten(random(total, k, generator), update)
    return {name: torch.where(kept[name], value * (total / k), 0) for name, value in update.items()}
