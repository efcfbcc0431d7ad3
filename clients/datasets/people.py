"""Users and public people made from a table of photographs; what `folder`, `parquet`, `celeba` and `lfw` share.

A dataset of photographs makes the table (see `table`) and says how to crop; the rest is here.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from clients.datasets.duplicates import Whose
from clients.datasets.images import Crop, UnreadableImage, decode, fingerprint, fit
from clients.datasets.table import COLUMNS, MIN_PHOTOS, UNKNOWN, each_once, find_task, labelled, split_of_people
from clients.user import Faces, User
from fl_sim.config import ConfigError, Dataset
from fl_sim.seeds import generator

HELD_OUT_PHOTOS = 4
_CACHE_BYTES = 128 * 2**20  # of photos read
COMPARED = 20_000  # public photos, some 10 seconds
_Rows = npt.NDArray[np.intp]  # of the table
_Person = tuple[str, _Rows]


class PeopleDataset:
    """A `FaceDataset` of the people in a table of photographs.

    Users are chosen among the people of split `users` with at least four photos, by the run seed: those who
    have at least half of the photos wanted, in an order drawn from the seed, then the others by number of
    photos. A user's photos are shuffled by the seed; up to four are held out (half of them where a person
    has fewer than eight), up to `dataset.photos` of the rest are private. Public people are those of split
    `public`, ordered by name. Attributes are the majority over all photos of a person that are labelled.

    A person has a photo once, be it listed or stored twice. Photos of users whose label for the task is unknown are
    left out. An image that cannot be read is named in `skipped` and left out; the first one is warned about.
    """

    synthetic = False

    def __init__(
        self,
        table: pd.DataFrame,
        crop: Crop,
        dataset: Dataset,
        seed: int,
        source: str,
        notes: Sequence[str] = (),
        photo: Callable[[str], Path | bytes] = Path,
    ) -> None:
        """`source` names the dataset in messages; `notes` says how the table was made.

        `photo` finds the picture of a `path`: a file, or the bytes of one, where pictures are not files.
        Raises ConfigError: unknown task, too few people, a photo listed under two people.
        """
        self.image_size = dataset.image_size
        self.skipped: dict[str, str] = {}  # path: reason
        self._seed, self._photos, self._crop = seed, dataset.photos, crop
        attributes = [name for name in table.columns if name not in COLUMNS]
        self.task = find_task(dataset.task, attributes, source)  # the column of the labels, or `identity`
        self._photo, self._made = photo, [*notes, *_chosen(dataset.task, self.task, source)]
        splits = split_of_people(table, source)
        table, self._copies = each_once(table, splits, source)
        table, self._unlabelled = labelled(table, splits, self.task)
        self._paths, self._prints = table["path"].to_numpy(), dict[int, bytes]()
        self._attributes = {name: table[name].to_numpy() for name in attributes}
        rows = {str(name): np.asarray(where) for name, where in table.groupby("identity", sort=True).indices.items()}
        self._public = [(name, where) for name, where in rows.items() if splits[name] == "public"]
        people = [(name, where) for name, where in rows.items() if splits[name] == "users"]
        self._users = self._choose_users(people, dataset.users, source)
        if not self._public:
            raise ConfigError(f"{source} has no public people; the controls and the gallery need some")
        self.num_users, self.num_public = len(self._users), len(self._public)
        self.num_classes = self.num_users if self.task == "identity" else 2
        per_person = (dataset.photos + HELD_OUT_PHOTOS) * 3 * self.image_size**2  # bytes
        self._read_cached = lru_cache(maxsize=max(1, _CACHE_BYTES // per_person))(self._read)

    def user(self, partition: int) -> User:
        """The user of a partition in [0, num_users); the same every time. ValueError outside.

        Raises ConfigError where fewer than four photos of the person can be read.
        """
        if not 0 <= partition < self.num_users:
            raise ValueError(f"user {partition} does not exist; partitions are 0 to {self.num_users - 1}")
        name, rows = self._users[partition]
        photos, read = self._read_user(partition)
        if len(read) < MIN_PHOTOS:
            raise ConfigError(
                f"only {len(read)} photos of user {name!r} can be used, {MIN_PHOTOS} different ones are needed; "
                f"remove this person from the table or repair what is left out: {self._left_out()}"
            )
        held = min(HELD_OUT_PHOTOS, len(read) // 2)
        private = self._faces(rows, read[held:], photos[held:], partition)
        return User(partition, name, private, self._faces(rows, read[:held], photos[:held], partition))

    def public(self, index: int) -> Faces:
        """All photos of the public person `index` in [0, num_public). ValueError outside.

        Their labels are -1 where they are unknown, and with `task = "identity"`: a public person is no class of the
        model. Raises ConfigError where no photo of the person can be read.
        """
        if not 0 <= index < self.num_public:
            raise ValueError(f"public person {index} does not exist; they are 0 to {self.num_public - 1}")
        name, rows = self._public[index]
        photos, read = self._read_cached(tuple(rows.tolist()), len(rows))
        if not read:
            raise ConfigError(
                f"no photo of public person {name!r} can be used; remove this person from the table or repair what is "
                f"left out: {self._left_out()}"
            )
        return self._faces(rows, read, photos, -1)

    def examine(self) -> tuple[tuple[int, int], list[str]]:
        """The fewest and the most private photos of a user, and sentences on what was made and left out.

        All users' photos are compared with each other and with COMPARED public ones or more. Raises ConfigError for
        one that is under two people, and as `user` does.
        """
        whose, counts, compared = Whose(), [], 0
        for partition, (name, _) in enumerate(self._users):
            counts.append(len(self.user(partition).private.photos))
            for row in self._read_user(partition)[1]:
                whose.again(self._prints[row], name, self._paths[row])
        people = 0
        for name, rows in self._public:
            if compared >= COMPARED:
                break
            compared, people = compared + len(rows), people + 1
            for row in rows.tolist():
                image = self._decode(row)
                if image is not None and whose.again(self._prints[row], name, self._paths[row]):
                    self._copies.add(self._paths[row])
        return (min(counts), max(counts)), self._notes((min(counts), max(counts)), people)

    def _notes(self, photos: tuple[int, int], people: int) -> list[str]:
        low, high = photos
        notes = list(self._made)
        if low < self._photos:
            each = f"{low}" if low == high else f"{low} to {high}"
            notes.append(
                f"users train on {each} photos each, not on dataset.photos = {self._photos}: "
                "no more are left beside those held out"
            )
        if self._copies:
            notes.append(f"left out, copies of other photos of that person: {len(self._copies)} ({min(self._copies)})")
        if self._unlabelled:
            told = ", ".join(f"{name} {count}" for name, count in self._unlabelled.items())
            notes.append(f"blank labels, which count for no class: {told}; no user trains on a photo without its label")
        if self.skipped:
            notes.append(f"left out as unusable: {len(self.skipped)} photos, such as {self._left_out()}")
        if people < self.num_public:
            notes.append(
                f"whether a user's photo is also under a public person was checked for the first {people} of "
                f"{self.num_public} public people"
            )
        return notes

    def _choose_users(self, people: Sequence[_Person], wanted: int, source: str) -> list[_Person]:
        """The first `wanted` people of the order described above who have enough image files."""
        half = (self._photos + HELD_OUT_PHOTOS) // 2
        shuffled = torch.randperm(len(people), generator=generator(self._seed, "users")).tolist()
        order = sorted(shuffled, key=lambda index: -min(len(people[index][1]), half))
        chosen: list[_Person] = []
        for name, rows in (people[index] for index in order):
            if len(rows) < MIN_PHOTOS or len(chosen) == wanted:
                break
            if self._photo is not Path or sum(map(self._is_file, rows)) >= MIN_PHOTOS:
                chosen.append((name, rows))
        if len(chosen) < wanted:
            missing = f" (missing image files: {len(self.skipped)}, first {next(iter(self.skipped), '')})"
            raise ConfigError(
                f"dataset.users = {wanted}, but {source} has {len(chosen)} people for users with at least "
                f"{MIN_PHOTOS} photos{missing if self.skipped else ''}; lower dataset.users or add people"
            )
        return chosen

    def _is_file(self, row: int) -> bool:
        if Path(self._paths[row]).is_file():
            return True
        self._skip(self._paths[row], "no such file")
        return False

    def _read_user(self, partition: int) -> tuple[Tensor, list[int]]:
        """The photos that are a user's, held out and private: uint8 (n, 3, s, s), and their rows."""
        name, rows = self._users[partition]
        order = torch.randperm(len(rows), generator=generator(self._seed, "user", name)).numpy()
        return self._read_cached(tuple(rows[order].tolist()), self._photos + HELD_OUT_PHOTOS)

    def _read(self, rows: tuple[int, ...], most: int) -> tuple[Tensor, list[int]]:
        """The first `most` readable photos of `rows` that differ: uint8 (n, 3, s, s), and their rows."""
        photos: list[Tensor] = []
        read: list[int] = []
        seen: set[bytes] = set()
        for row in rows:
            if len(read) == most:
                break
            image = self._decode(row)
            if image is None:
                continue
            if self._prints[row] in seen:
                self._copies.add(self._paths[row])
                continue
            try:
                photos.append(fit(image, self.image_size, self._crop))
            except UnreadableImage as reason:
                self._skip(self._paths[row], str(reason))
            else:
                seen.add(self._prints[row])
                read.append(row)
        empty = torch.empty(0, 3, self.image_size, self.image_size, dtype=torch.uint8)
        return (torch.stack(photos) if photos else empty), read

    def _decode(self, row: int) -> Image.Image | None:
        """The photo of a row, whose fingerprint is noted; None where it cannot be read."""
        try:
            image = decode(self._photo(self._paths[row]))
        except UnreadableImage as reason:
            self._skip(self._paths[row], str(reason))
            return None
        self._prints[row] = fingerprint(image)
        return image

    def _skip(self, path: str, reason: str) -> None:
        if not self.skipped:
            told = f"{path} is left out: {reason}; `skipped` of the dataset counts all such images"
            warnings.warn(told, stacklevel=2)
        self.skipped.setdefault(path, reason)

    def _left_out(self) -> str:
        """The first photo that is left out, and why; there is one."""
        if not self.skipped:
            return f"{min(self._copies)} (a copy of another; one of {len(self._copies)})"
        path, reason = next(iter(self.skipped.items()))
        return f"{path} ({reason}; one of {len(self.skipped)})"

    def _faces(self, person: _Rows, rows: list[int], photos: Tensor, partition: int) -> Faces:
        if self.task == "identity":
            labels = torch.full((len(rows),), partition)
        else:
            labels = torch.from_numpy(self._attributes[self.task][rows].astype(np.int64))
        return Faces(photos.float() / 255, labels, self._facts(person))

    def _facts(self, person: _Rows) -> dict[str, int]:
        facts = {}
        for name, values in self._attributes.items():
            known = values[person][values[person] != UNKNOWN]
            if len(known):
                facts[name] = int(known.mean() > 0.5)
        return facts


def _chosen(asked: str, task: str, source: str) -> list[str]:
    """A sentence where `auto` has come to another task than where faces are rendered."""
    if asked != "auto" or task != "identity":
        return []
    return [f"dataset.task is 'identity', who the user is: of the people in {source} no other label is known"]
