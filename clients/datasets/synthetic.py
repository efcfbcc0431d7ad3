"""Synthetic people: every person, by index, has an identity and photos that nobody else has.

Person `i` of a stream is drawn from `seeds.generator(seed, stream, i)` alone, so any one of them can be
rendered without the others. The streams `user`, `public` and `training/NAME` draw different people.
Pictures are stored with 8 bits, as a camera does.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from clients.datasets.renderer import NUISANCE_PARAMETERS, attributes, render, sample_identity, sample_nuisance
from clients.user import Faces, User
from fl_sim.seeds import generator

if TYPE_CHECKING:
    from fl_sim.config import Dataset

BINARY_ATTRIBUTES = ("glasses", "beard", "long_hair")
HELD_OUT_PHOTOS = 10
PUBLIC_PHOTOS = 10
PUBLIC_PEOPLE = 10_000
_CACHE_BYTES = 128 * 2**20  # of rendered photos of each kind: the held-out ones of 1,000 users at 64 px
_PUBLIC_CACHE_BYTES = 32 * 2**20  # of public people, at whom face space, gallery and checks look: 260 of them at 64 px
_SMILE = [parameter.name for parameter in NUISANCE_PARAMETERS].index("smile")


class SyntheticFaces:
    """A `FaceDataset` of rendered people; labels are smiles, the partition, or a binary attribute."""

    synthetic = True

    def __init__(self, users: int, photos: int, image_size: int, task: str, seed: int) -> None:
        self.num_users = users
        self.num_classes = users if task == "identity" else 2
        self.num_public = PUBLIC_PEOPLE
        self.image_size = image_size
        self.photos = photos
        self.task = task
        self.seed = seed
        a_photo = 3 * image_size * image_size  # bytes
        self._private = lru_cache(max(1, _CACHE_BYTES // (photos * a_photo)))(self._render_private)
        self._held_out = lru_cache(max(1, _CACHE_BYTES // (HELD_OUT_PHOTOS * a_photo)))(self._render_held_out)
        self._public = lru_cache(max(1, _PUBLIC_CACHE_BYTES // (PUBLIC_PHOTOS * a_photo)))(self._render_public)

    def user(self, partition: int) -> User:
        """The user of a partition in [0, num_users); the same every time. ValueError outside."""
        held_out = self.held_out(partition)
        person, photos, smiles = self._private(partition)
        name = f"synthetic-{self.seed}-{partition}"
        return User(partition, name, self._faces(person, photos, smiles, partition), held_out)

    def held_out(self, partition: int) -> Faces:
        """`user(partition).held_out`, without rendering the private photos."""
        if not 0 <= partition < self.num_users:
            raise ValueError(f"user {partition} does not exist; partitions are 0 to {self.num_users - 1}")
        person, photos, smiles = self._held_out(partition)
        return self._faces(person, photos, smiles, partition)

    def public(self, index: int) -> Faces:
        """Ten photos of the public person `index` in [0, num_public). ValueError outside.

        With `task = "identity"` their labels are -1: a public person is no class of the model.
        """
        if not 0 <= index < self.num_public:
            raise ValueError(f"public person {index} does not exist; they are 0 to {self.num_public - 1}")
        person, pictures = self._public(index)
        return self._faces(person, *pictures, -1)

    def _render_private(self, partition: int) -> tuple[Person, Tensor, Tensor]:
        return self._render(partition, self.photos, "private")

    def _render_held_out(self, partition: int) -> tuple[Person, Tensor, Tensor]:
        return self._render(partition, HELD_OUT_PHOTOS, "held-out")

    def _render(self, partition: int, count: int, side: str) -> tuple[Person, Tensor, Tensor]:
        person = draw_person(self.seed, "user", partition)
        return person, *take_photos(person, count, self.image_size, self.seed, "user", partition, side)

    def _render_public(self, index: int) -> tuple[Person, tuple[Tensor, Tensor]]:
        person = draw_person(self.seed, "public", index)
        return person, take_photos(person, PUBLIC_PHOTOS, self.image_size, self.seed, "public", index)

    def _faces(self, person: Person, photos: Tensor, smiles: Tensor, partition: int) -> Faces:
        facts = person.attributes()
        if self.task == "smile":
            labels = smiles
        else:
            labels = torch.full_like(smiles, partition if self.task == "identity" else facts[self.task])
        return Faces(photos.float() / 255, labels.clone(), facts)


def open_synthetic(dataset: Dataset, seed: int) -> SyntheticFaces:
    """The factory of `open_dataset`. Raises ConfigError for a task that synthetic faces do not have."""
    from fl_sim.config import ConfigError  # needs pydantic, which a machine that only trains may lack

    tasks, task = ("smile", "identity", *BINARY_ATTRIBUTES), "smile" if dataset.task == "auto" else dataset.task
    if dataset.align:
        raise ConfigError("dataset.align cuts faces out of photographs; leave it out, synthetic faces fill the picture")
    if task not in tasks:
        raise ConfigError(f"dataset.task = {dataset.task!r} is no task of synthetic faces; choose {', '.join(tasks)}")
    return SyntheticFaces(dataset.users, dataset.photos, dataset.image_size, task, seed)


class Person(NamedTuple):
    """What is lasting about a synthetic person."""

    identity: Tensor  # (1, P) codes of the renderer
    smile_rate: float  # share of photos with a smile, between 0.2 and 0.8

    def attributes(self) -> dict[str, int]:
        """The labels of the renderer for this person."""
        return {name: int(value) for name, value in attributes(self.identity).items()}


def draw_person(seed: int, *names: int | str) -> Person:
    """The person of the stream `names`. Some people smile more than others, as in life."""
    draws = generator(seed, *names, "identity")
    identity = sample_identity(draws, 1)
    return Person(identity, 0.2 + 0.6 * float(torch.rand((), generator=draws)))


def take_photos(person: Person, count: int, image_size: int, seed: int, *names: int | str) -> tuple[Tensor, Tensor]:
    """`count` photos of a person from the stream `names`: uint8 (count, 3, s, s), and smiles (count,) int64."""
    nuisance, noise = _situations(person, count, image_size, seed, *names)
    return _develop(person.identity.expand(count, -1), nuisance, noise), _smiling(nuisance)


class TrainingPhotos(NamedTuple):
    """Photos of people who are neither users nor public."""

    photos: Tensor  # (count, 3, s, s) uint8
    identity: Tensor  # (count,) int64, from 0
    smiles: Tensor  # (count,) int64
    attributes: Mapping[str, Tensor]  # of the person of each photo, (count,) int64


def training_photos(
    split: str,
    count: int,
    image_size: int,
    photos_per_person: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> TrainingPhotos:
    """`count` photos to train on: of ceil(count / photos_per_person) people, in order, shared by no other stream.

    `split` names the stream, such as "prior" or "identity": two streams have no person in common, and none
    of them meets a user or a public person of any run, whatever the seeds. Memory is that of the result
    (12 kB a photo at 64 px) and a small chunk. On a GPU the same people are drawn; pixels may differ by rounding.
    """
    photos = torch.empty(count, 3, image_size, image_size, dtype=torch.uint8)
    people = [draw_person(seed, "training", split, index) for index in range(-(-count // photos_per_person))]
    codes = torch.cat([person.identity for person in people]) if people else torch.empty(0, 1)
    identity = torch.arange(count) // photos_per_person  # (count,)
    smiles = torch.empty(count, dtype=torch.int64)
    per_chunk = max(1, 256 // photos_per_person)  # people
    for first in range(0, len(people), per_chunk):
        chunk = range(first, min(first + per_chunk, len(people)))
        drawn = [
            _situations(people[index], photos_per_person, image_size, seed, "training", split, index) for index in chunk
        ]
        start, stop = first * photos_per_person, min((chunk[-1] + 1) * photos_per_person, count)
        nuisance = torch.cat([situation for situation, _ in drawn])[: stop - start].to(device)
        smiles[start:stop] = _smiling(nuisance).cpu()
        noise = torch.cat([grain for _, grain in drawn])[: stop - start].to(device)
        photos[start:stop] = _develop(codes[identity[start:stop]].to(device), nuisance, noise).cpu()
    if not people:
        return TrainingPhotos(photos, identity, smiles, {})
    lasting = {name: values[identity] for name, values in attributes(codes).items()}
    return TrainingPhotos(photos, identity, smiles, lasting)


def _situations(person: Person, count: int, size: int, seed: int, *names: int | str) -> tuple[Tensor, Tensor]:
    """Nuisance codes (count, Q), smiles at the person's rate, and the camera's noise (count, 3, s, s)."""
    draws = generator(seed, *names, "photos")
    nuisance = sample_nuisance(draws, count)
    wanted = torch.rand(count, generator=draws) < person.smile_rate
    smile = nuisance[:, _SMILE]  # the renderer draws it symmetrically about one half, so its mirror is as likely
    nuisance[:, _SMILE] = torch.where(wanted == (smile > 0.5), smile, 1 - smile)
    return nuisance, torch.randn(count, 3, size, size, generator=draws)


def _smiling(nuisance: Tensor) -> Tensor:
    return (nuisance[:, _SMILE] > 0.5).long()


def _develop(identity: Tensor, nuisance: Tensor, noise: Tensor) -> Tensor:
    return (render(identity, nuisance, noise.shape[-1], noise) * 255).round().to(torch.uint8)
