"""A user: the photos of one person, their labels, and what is true of that person."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Faces:
    """Photos of one person."""

    photos: Tensor  # (n, 3, H, W) in [0, 1]
    labels: Tensor  # (n,) int64, of the task, -1: none; (n, classes) probabilities where a defense has mixed photos
    attributes: Mapping[str, int]  # of the person (majority where photos vary); one that is unknown is left out


@dataclass(frozen=True)
class User:
    """One partition of the federation."""

    partition: int
    identity: str  # name of the person in the dataset
    private: Faces  # what the user trains on
    held_out: Faces  # other photos of the same person: evaluation, gallery, reference; never trained on


class FaceDataset(Protocol):
    """What every dataset offers; `clients.datasets.open_dataset` makes one from the config.

    The people of `user` and those of `public` are disjoint; no photo is both private and held out, nor of two people.
    A dataset of rendered faces says so by an attribute `synthetic = True`; all others are taken for photographs, on
    which the shipped face recogniser, classifiers and prior are refused unless they are asked for by name. What
    `dataset.task = "auto"` means it says in an attribute `task`.
    """

    num_users: int
    num_classes: int
    num_public: int  # people that are not users
    image_size: int

    def user(self, partition: int) -> User:
        """The user of a partition in [0, num_users); the same every time. ValueError outside."""

    def public(self, index: int) -> Faces:
        """Photos of the public person `index` in [0, num_public): mean of others, distractors, training."""
