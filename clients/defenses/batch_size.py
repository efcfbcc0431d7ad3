"""Batch size: the update is of some of the user's photos only, chosen anew every round.

Fewer photos leave more of each in the update, more hide them in their mean (Zhu et al. 2019); for more than 30 raise
`dataset.photos`, and the photos that are not chosen in one round stay for another.
"""

from dataclasses import dataclass, replace

import torch

from clients.training import Training
from fl_sim.traits import Traits


@dataclass(frozen=True)
class Settings:
    photos: int  # trained on in a round, at most (a user may have fewer); 0: all, off

    def __post_init__(self) -> None:
        if self.photos < 0:
            raise ValueError(f"photos is {self.photos}; give a number of photos, or 0 for all of them")


def traits(settings: Settings) -> Traits:
    """How many photos were trained on is told to the server."""
    return Traits(hides_nothing=True)


def prepare(training: Training, settings: Settings, generator: torch.Generator) -> Training:
    """A random choice of the photos, in the order that they had."""
    count = len(training.photos)
    if settings.photos == 0 or settings.photos >= count:
        return training
    chosen = torch.randperm(count, generator=generator)[: settings.photos].sort().values
    return replace(training, photos=training.photos[chosen], labels=training.labels[chosen])
