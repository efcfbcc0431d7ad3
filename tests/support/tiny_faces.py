"""A dataset of noise instead of faces, for tests that are about the federation: `tiny_faces:open_tiny`."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from clients.user import Faces, User
from fl_sim import seeds
from fl_sim.config import Config, Dataset, parse
from fl_sim.initial_model import fresh_model


@dataclass(frozen=True)
class TinyFaces:
    num_users: int
    photos: int
    seed: int
    image_size: int
    num_classes: int = 2
    num_public: int = 4
    synthetic: ClassVar[bool] = True

    def user(self, partition: int) -> User:
        # Users differ in their number of photos, so a mean that forgets the weights is caught.
        private = self._faces("private", partition, self.photos + partition % 3)
        return User(partition, f"person-{partition}", private, self._faces("held-out", partition, 3))

    def public(self, index: int) -> Faces:
        return self._faces("public", index, 3)

    def _faces(self, kind: str, index: int, count: int) -> Faces:
        generator = seeds.generator(self.seed, "tiny", kind, index)
        photos = torch.rand(count, 3, self.image_size, self.image_size, generator=generator)
        return Faces(photos, torch.randint(self.num_classes, (count,), generator=generator), {})


def open_tiny(dataset: Dataset, seed: int) -> TinyFaces:
    return TinyFaces(dataset.users, dataset.photos, seed, dataset.image_size)


class PhotographedFaces(TinyFaces):
    """The same, of which the dataset does not say that they are synthetic."""

    synthetic = False


def open_photographed(dataset: Dataset, seed: int) -> PhotographedFaces:
    return PhotographedFaces(dataset.users, dataset.photos, seed, dataset.image_size)


class BrokenFaces(TinyFaces):
    """User 1 cannot be loaded: a client that raises."""

    def user(self, partition: int) -> User:
        if partition == 1:
            raise RuntimeError("this user's disk is gone")
        return super().user(partition)


def open_broken(dataset: Dataset, seed: int) -> BrokenFaces:
    return BrokenFaces(dataset.users, dataset.photos, seed, dataset.image_size)


class SeedingFaces(TinyFaces):
    """A loader that seeds numpy's global generator, as many do for reproducible splits."""

    def user(self, partition: int) -> User:
        np.random.seed(0)  # noqa: NPY002
        return super().user(partition)


def open_seeding(dataset: Dataset, seed: int) -> SeedingFaces:
    return SeedingFaces(dataset.users, dataset.photos, seed, dataset.image_size)


def tiny_net(num_classes: int, image_size: int) -> nn.Module:
    """410 parameters."""
    side = image_size // 8
    return nn.Sequential(
        nn.AvgPool2d(8), nn.Flatten(), nn.Linear(3 * side * side, 8), nn.GELU(), nn.Linear(8, num_classes)
    )


def normed_net(num_classes: int, image_size: int) -> nn.Module:
    """Two batch-norm layers, the second with fixed statistics that are not those of any batch."""
    shifted = nn.BatchNorm2d(4)
    shifted.running_mean = torch.ones(4)
    return nn.Sequential(
        nn.Conv2d(3, 4, 4, stride=4),
        nn.BatchNorm2d(4),
        nn.GELU(),
        shifted,
        nn.Flatten(),
        nn.Linear(image_size**2 // 4, num_classes),
    )


class Scale(nn.Module):
    """One number, without dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


def scaled_net(num_classes: int, image_size: int) -> nn.Module:
    side = image_size // 8
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), Scale(), nn.Linear(3 * side * side, num_classes))


def tiny_config(**sections: object) -> Config:
    """A config of 4 users with 2 to 4 noise photos, 2 rounds, in-process; `sections` replace or extend tables."""
    table: dict[str, object] = {
        "name": "tiny",
        "dataset": {"name": "tiny_faces:open_tiny", "image_size": 32, "users": 4, "photos": 2},
        "model": {"name": "tiny_faces:tiny_net"},
        "federation": {"engine": "inprocess", "rounds": 2},
        "attacks": {},
    }
    for name, section in sections.items():
        old = table.get(name)
        table[name] = {**old, **section} if isinstance(old, dict) and isinstance(section, dict) else section
    return parse(Config, table)


def model_of(config: Config, num_classes: int = 2) -> nn.Module:
    """The model of `config`, fresh from its seed."""
    return fresh_model(config.model, num_classes, config.dataset.image_size, config.seed)
