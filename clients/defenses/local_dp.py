"""Local differential privacy: clip, then Gaussian noise calibrated to epsilon and delta by dp-accounting.

The unit is the user, and the neighbour of a user is any other one: two clipped updates differ by up to 2 max_norm
in L2, so that is the sensitivity (a server that adds up many users' updates and lets one of them stay away has
half of it). The calibration is the exact one of the Gaussian mechanism (Balle & Wang 2018), valid above epsilon 1
too. epsilon is that of one reply; over the rounds of a run it grows.
"""

from dataclasses import dataclass, replace
from math import isinf

import torch

from clients.defenses import clip, gaussian_noise
from fl_sim import gaussian_mechanism
from fl_sim.traits import Traits
from fl_sim.updates import Update


@dataclass(frozen=True)
class Settings:
    epsilon: float  # privacy loss of one reply, above 0; inf: no noise
    delta: float  # probability that the loss is larger, in (0, 1); take less than 1 / users
    max_norm: float  # L2 norm to which the update is clipped first, above 0; inf only with epsilon inf

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise ValueError(f"epsilon is {self.epsilon}; a privacy loss must be above 0")
        if not 0 < self.delta < 1:
            raise ValueError(f"delta is {self.delta}; a probability between 0 and 1 is needed, such as 1e-5")
        if not self.max_norm > 0:
            raise ValueError(f"max_norm is {self.max_norm}; the clipping bound must be above 0")
        if isinf(self.max_norm) and not isinf(self.epsilon):
            raise ValueError("max_norm is inf, and without a clip no noise gives a finite epsilon; set max_norm")


def std(settings: Settings) -> float:
    """The standard deviation of the noise on each entry, in units of the gradient."""
    return gaussian_mechanism.std(settings.epsilon, settings.delta, 2 * settings.max_norm)


def traits(settings: Settings) -> Traits:
    """A clip, then noise."""
    clipped = clip.traits(clip.Settings(settings.max_norm))
    return clipped if isinf(settings.epsilon) else replace(clipped, noise="gaussian", noise_size=std(settings))


def defend(update: Update, settings: Settings, generator: torch.Generator) -> Update:
    """clip(update, max_norm) + N(0, std^2)."""
    clipped = clip.defend(update, clip.Settings(settings.max_norm), generator)
    return gaussian_noise.defend(clipped, gaussian_noise.Settings(std(settings)), generator)
