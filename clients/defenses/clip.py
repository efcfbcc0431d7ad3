"""Clipping: an update whose L2 norm exceeds a bound is scaled down to it (McMahan et al. 2018, user-level)."""

from dataclasses import dataclass

import torch

from fl_sim.updates import Update, norm


@dataclass(frozen=True)
class Settings:
    max_norm: float  # L2 norm of the whole update, above 0

    def __post_init__(self) -> None:
        if not self.max_norm > 0:
            raise ValueError(f"max_norm is {self.max_norm}; the clipping bound must be above 0")


def defend(update: Update, settings: Settings, generator: torch.Generator) -> Update:
    """`update` if its norm is at most max_norm, else max_norm / norm times it; a zero update stays zero."""
    size = norm(update)
    if size <= settings.max_norm:
        return update
    return {name: value * (settings.max_norm / size) for name, value in update.items()}
