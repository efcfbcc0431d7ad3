"""mixup: every photo is blended with another one of the user's, and so are their labels (Zhang et al. 2018)."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from clients.training import Training
from fl_sim.traits import OFF, Traits


@dataclass(frozen=True)
class Settings:
    alpha: float  # of the Beta(alpha, alpha) that the share of the blend is drawn from, once a round; 0: off

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < float("inf"):
            raise ValueError(f"alpha is {self.alpha}; the parameter of the Beta distribution must be 0 or more")


def traits(settings: Settings) -> Traits:
    """Nothing that an attack here goes by."""
    return OFF if settings.alpha == 0 else Traits()


def prepare(training: Training, settings: Settings, generator: torch.Generator) -> Training:
    """share * (photos, labels) + (1 - share) * (the same in another order); the labels become probabilities."""
    if settings.alpha == 0:
        return training
    seed = int(torch.randint(2**62, (), generator=generator))  # torch's Beta draws from the global generator
    share = float(np.random.default_rng(seed).beta(settings.alpha, settings.alpha))
    order = torch.randperm(len(training.photos), generator=generator)

    def blended(values: Tensor) -> Tensor:
        return share * values + (1 - share) * values[order]

    return replace(training, photos=blended(training.photos).clamp(0, 1), labels=blended(training.probabilities()))
