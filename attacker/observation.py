"""What the malicious server knows of one user in one round: the only input of an attack."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_sim.config import ConfigError
from fl_sim.traits import Traits
from fl_sim.updates import Update


@dataclass(frozen=True)
class LocalTraining:
    """How a user trains before it replies (FedAvg); one pass over one batch is FedSGD."""

    epochs: int  # passes over the private photos, 1 or more
    batch_size: int  # photos a step; 0: all of them in one batch
    learning_rate: float  # of each step

    def __post_init__(self) -> None:
        """Raises ConfigError for what no user does."""
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate {self.learning_rate} given; give that of the users' optimiser, above 0")
        if self.epochs < 1 or self.batch_size < 0:
            raise ConfigError(
                f"epochs {self.epochs} and batch_size {self.batch_size} given; "
                "give 1 epoch or more, and 0 (all photos) or more"
            )

    def steps(self, num_examples: int) -> int:
        """Steps that a user with so many photos takes."""
        return self.epochs * (-(-num_examples // self.batch_size) if self.batch_size else 1)


@dataclass(frozen=True)
class Observation:
    """One captured update. No private data: what crossed the wire and what the protocol makes public."""

    server_round: int
    user: int
    parameters: Update  # global model as sent, parameters and buffers, by name
    gradient: Update  # as received (recovered from weights where those were sent): the sum over the user's steps
    num_examples: int  # photos behind the mean loss, as reported for the weighted average
    label_proportions: Tensor | None  # (num_classes,), sums to 1; None unless the threat model grants it
    local: LocalTraining | None = None  # None: one gradient of all photos, or not known
    history: tuple["Observation", ...] = ()  # earlier updates of the same user, latest first
    defenses: tuple[Traits, ...] = ()  # what is known of the user's, in order; those that tell nothing too
    statistics: Update | None = None  # batch-norm means and variances of the photos, f"{layer}.mean" and ".var" (c,)
    members: tuple[int, ...] = ()  # users of whose updates `gradient` is the mean, by photos; empty: of `user` alone


@dataclass(frozen=True)
class Reconstruction:
    """What an attack says of one user: an image for each label, or for each photo."""

    images: Tensor  # (n, 3, H, W) in [0, 1], the answer first
    weights: Tensor  # (n,), what each image's label has of the photos, or of what they contribute; sums to 1
    matching_loss: float  # distance of the dummy gradient to the observed one; NaN if the attack has none
    seconds: float  # of this user's share of the job's wall time
    draws: Tensor | None = None  # (draws, 3, H, W) in [0, 1], faces that the update leaves possible; None: no draws
    determined: Tensor | None = None  # (3, H, W) in [0, 1], what the update says before a prior draws the rest
    frames: Tensor | None = None  # (frames, 3, H, W) in [0, 1], the answer, or `determined`, on its way; last, itself

    def __post_init__(self) -> None:
        """Raises ValueError for draws, frames or a mean face that are no pictures of the size of `images`."""
        picture = self.images.shape[1:]
        for name, several in (("draws", self.draws), ("frames", self.frames)):
            if several is not None and (several.shape[1:] != picture or not len(several)):
                needed = ("n", *picture)
                raise ValueError(f"{name} has shape {_spell(several.shape)}, needed is {_spell(needed)}, n 1 or more")
        if self.determined is not None and self.determined.shape != picture:
            raise ValueError(f"determined has shape {_spell(self.determined.shape)}, needed is {_spell(picture)}")


def pixels(images: Tensor) -> Tensor:
    """Images (..., 3, H, W) in [0, 1] as bytes; values outside are clipped, NaN is grey."""
    return (images.detach().float().nan_to_num(0.5).clamp(0, 1) * 255).round().to(torch.uint8)


def _spell(shape: Iterable[object]) -> str:
    return f"({', '.join(str(size) for size in shape)})"
