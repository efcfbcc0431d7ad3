"""Local steps: the update is the sum of many steps rather than one gradient (FedAvg, McMahan et al. 2017).

In the place of `federation.local_epochs` and `federation.batch_size`, which are part of what everybody knows.
"""

from dataclasses import dataclass, replace

import torch

from clients.training import Training
from fl_sim.traits import Traits


@dataclass(frozen=True)
class Settings:
    epochs: int  # passes over the photos, 1 or more
    batch_size: int = 0  # photos a step; 0: all of them. With epochs 1 that is one step, FedSGD: off

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs is {self.epochs}; a user passes over the photos at least once")
        if self.batch_size < 0:
            raise ValueError(f"batch_size is {self.batch_size}; give photos a step, or 0 for all of them")


def traits(settings: Settings) -> Traits:
    """How a user trains."""
    return Traits(epochs=settings.epochs, batch_size=settings.batch_size)


def prepare(training: Training, settings: Settings, generator: torch.Generator) -> Training:
    """The same photos in the steps of the settings."""
    return replace(training, local_epochs=settings.epochs, batch_size=settings.batch_size)
