"""Pruning: only the entries of largest magnitude are sent (Aji & Heafield 2017; as a defense Zhu et al. 2019)."""

from dataclasses import dataclass

import torch

from clients.defenses.entries import count, largest
from fl_sim.traits import OFF, Traits
from fl_sim.updates import Update, flatten, unflatten


@dataclass(frozen=True)
class Settings:
    keep: float  # fraction of the entries that is kept, in (0, 1]; 1: off
    per_layer: bool = False  # whether of each tensor (at least one entry), rather than of the whole update

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep is {self.keep}; the fraction of entries that is kept must be above 0, at most 1")


def traits(settings: Settings) -> Traits:
    """The smallest entries are gone."""
    return OFF if settings.keep == 1 else Traits(keeps_norm=True, zeroes="smallest")


def defend(update: Update, settings: Settings, generator: torch.Generator) -> Update:
    """`update` with exactly round(keep * entries) entries kept, the largest, and zero elsewhere."""
    if settings.keep == 1:
        return update
    if settings.per_layer:
        return {name: _pruned(value.reshape(-1), settings.keep).view_as(value) for name, value in update.items()}
    return _split(_pruned(flatten(update), settings.keep), update)


def _pruned(values: torch.Tensor, keep: float) -> torch.Tensor:
    return torch.where(largest(values, count(keep, len(values))), values, 0)


def _split(vector: torch.Tensor, like: Update) -> Update:
    return {name: value.clone() for name, value in unflatten(vector, like).items()}
