"""What a user trains on in one round, and what of it a defense may see."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from clients.user import Faces
from fl_sim.config import Federation


@dataclass(frozen=True)
class Training:
    """The photos of one round and the steps taken on them; data-side defenses turn one into another."""

    photos: Tensor  # (n, 3, H, W) in [0, 1]
    labels: Tensor  # (n,) int64, or (n, num_classes) probabilities where photos are mixed
    num_classes: int
    local_epochs: int  # passes over the photos
    batch_size: int  # photos a step; 0: all of them

    def probabilities(self) -> Tensor:
        """The labels as (n, num_classes), one-hot where they are single classes."""
        if self.labels.ndim == 2:
            return self.labels
        return functional.one_hot(self.labels, self.num_classes).to(self.photos.dtype)


@dataclass(frozen=True)
class Private:
    """What only the user has beside the update; a defense gets it by naming a parameter `private`."""

    model: nn.Module  # as the server sent it
    training: Training  # what the update was computed on


def training_of(faces: Faces, num_classes: int, section: Federation) -> Training:
    """The training of a user without any defense."""
    return Training(faces.photos, faces.labels, num_classes, section.local_epochs, section.batch_size)
