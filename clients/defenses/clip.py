"""Clipping: an update whose L2 norm exceeds a bound is scaled down to it (McMahan et al. 2018, user-level).

Per layer, each tensor of the update (a weight, a bias) is clipped to the bound by itself; the whole update's
norm is then at most sqrt(tensors) times it.
"""

from dataclasses import dataclass

import torch

from fl_sim.updates import Update, norm


@dataclass(frozen=True)
class Settings:
    max_norm: float  # L2 norm, above 0; inf: off
    per_layer: bool = False  # whether it bounds each tensor rather than the whole update

    def __post_init__(self) -> None:
        if not self.max_norm > 0:
            raise ValueError(f"max_norm is {self.max_norm}; the clipping bound must be above 0")


def defend(update: Update, settings: Settings, generator: torch.Generator) -> Update:
    """`update` if its norm is at most max_norm, else max_norm / norm times it; a zero update stays zero."""
    if settings.per_layer:
        return {name: clipped({name: value}, settings.max_norm)[name] for name, value in update.items()}
    return clipped(update, settings.max_norm)


def clipped(update: Update, bound: float) -> Update:
    """`update`, scaled down to the L2 norm `bound` if it is longer."""
    size = norm(update)
    if size <= bound:
        return update
    return {name: value * (bound / size) for name, value in update.items()}
