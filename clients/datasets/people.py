"""Users and public people made from a table of photographs; what `folder`, `celeba` and `lfw` share.

The table is a DataFrame with a row an image: `path`, `identity`, `split` (`users`, `public`, or anything
else for people who are left out), and columns of binary attributes as 0 and 1, in lower case. A dataset
of photographs makes such a table and says how to crop; the rest is here.
"""

import difflib
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from clients.datasets.images import Crop, UnreadableImage, read_photo
from clients.user import Faces, User
from fl_sim.config import ConfigError, Dataset
from fl_sim.seeds import derive, generator

HELD_OUT_PHOTOS = 4
MIN_PHOTOS = 4  # of a user: two to train on and two held out
_CACHE_BYTES = 128 * 2**20  # of photos read
_ALIASES = {"smile": "smiling"}
_Rows = npt.NDArray[np.intp]  # of the table
_Person = tuple[str, _Rows]
_COLUMNS = ("path", "identity", "split")


class PeopleDataset:
    """A `FaceDataset` of the people in a table of photographs.

    Users are chosen among the people of split `users` with at least four photos, by the run seed: those who
    have at least half of the photos wanted, in an order drawn from the seed, then the others by number of
    photos. A user's photos are shuffled by the seed; up to four are held out (half of them where a person
    has fewer than eight), up to `dataset.photos` of the rest are private. Public people are those of split
    `public`, ordered by name. Attributes are the majority over all photos of a person.

    An image that cannot be read is named in `skipped` and left out; the first one is warned about.
    """

    def __init__(self, table: pd.DataFrame, crop: Crop, dataset: Dataset, seed: int, source: str) -> None:
        """`source` names the dataset in messages. Raises ConfigError: unknown task, too few people."""
        self.image_size = dataset.image_size
        self.skipped: dict[str, str] = {}  # path: reason
        self._seed, self._photos, self._crop = seed, dataset.photos, crop
        self._paths = table["path"].to_numpy()
        self._attributes = {name: table[name].to_numpy() for name in table.columns if name not in _COLUMNS}
        self._task = _find_task(dataset.task, list(self._attributes), source)
        rows = {str(name): np.asarray(where) for name, where in table.groupby("identity", sort=True).indices.items()}
        splits = _split_of_people(table, source)
        self._public = [(name, where) for name, where in rows.items() if splits[name] == "public"]
        people = [(name, where) for name, where in rows.items() if splits[name] == "users"]
        self._users = self._choose_users(people, dataset.users, source)
        if not self._public:
            raise ConfigError(f"{source} has no public people; the controls and the gallery need some")
        self.num_users, self.num_public = len(self._users), len(self._public)
        self.num_classes = self.num_users if self._task == "identity" else 2
        per_person = (dataset.photos + HELD_OUT_PHOTOS) * 3 * self.image_size**2  # bytes
        self._read_cached = lru_cache(maxsize=max(1, _CACHE_BYTES // per_person))(self._read)

    def user(self, partition: int) -> User:
        """The user of a partition in [0, num_users); the same every time. ValueError outside.

        Raises ConfigError where fewer than four photos of the person can be read.
        """
        if not 0 <= partition < self.num_users:
            raise ValueError(f"user {partition} does not exist; partitions are 0 to {self.num_users - 1}")
        name, rows = self._users[partition]
        order = torch.randperm(len(rows), generator=generator(self._seed, "user", name)).numpy()
        photos, read = self._read_cached(tuple(rows[order].tolist()), self._photos + HELD_OUT_PHOTOS)
        if len(read) < MIN_PHOTOS:
            raise ConfigError(
                f"only {len(read)} photos of user {name!r} can be read, {MIN_PHOTOS} are needed; "
                f"repair {self._first_skipped()} or remove this person from the table"
            )
        held = min(HELD_OUT_PHOTOS, len(read) // 2)
        private = self._faces(rows, read[held:], photos[held:], partition)
        return User(partition, name, private, self._faces(rows, read[:held], photos[:held], partition))

    def public(self, index: int) -> Faces:
        """All photos of the public person `index` in [0, num_public). ValueError outside.

        With `task = "identity"` their labels are -1: a public person is no class of the model. Raises
        ConfigError where no photo of the person can be read.
        """
        if not 0 <= index < self.num_public:
            raise ValueError(f"public person {index} does not exist; they are 0 to {self.num_public - 1}")
        name, rows = self._public[index]
        photos, read = self._read_cached(tuple(rows.tolist()), len(rows))
        if not read:
            raise ConfigError(
                f"no photo of public person {name!r} can be read; repair {self._first_skipped()} "
                "or remove this person from the table"
            )
        return self._faces(rows, read, photos, -1)

    def _choose_users(self, people: Sequence[_Person], wanted: int, source: str) -> list[_Person]:
        """The first `wanted` people of the order described above who have enough image files."""
        half = (self._photos + HELD_OUT_PHOTOS) // 2
        shuffled = torch.randperm(len(people), generator=generator(self._seed, "users")).tolist()
        order = sorted(shuffled, key=lambda index: -min(len(people[index][1]), half))
        chosen: list[_Person] = []
        for name, rows in (people[index] for index in order):
            if len(rows) < MIN_PHOTOS or len(chosen) == wanted:
                break
            if sum(map(self._is_file, rows)) >= MIN_PHOTOS:
                chosen.append((name, rows))
        if len(chosen) < wanted:
            missing = f" (missing image files: {len(self.skipped)}, first {next(iter(self.skipped), '')})"
            raise ConfigError(
                f"dataset.users = {wanted}, but {source} has {len(chosen)} people for users with at least "
                f"{MIN_PHOTOS} photos{missing if self.skipped else ''}; lower dataset.users or add people"
            )
        return chosen

    def _is_file(self, row: int) -> bool:
        path = Path(self._paths[row])
        if path.is_file():
            return True
        self._skip(path, "no such file")
        return False

    def _read(self, rows: tuple[int, ...], most: int) -> tuple[Tensor, list[int]]:
        """The first `most` readable photos of `rows`: uint8 (n, 3, s, s), and their rows."""
        photos: list[Tensor] = []
        read: list[int] = []
        for row in rows:
            if len(read) == most:
                break
            path = Path(self._paths[row])
            try:
                photos.append(read_photo(path, self.image_size, self._crop))
            except UnreadableImage as reason:
                self._skip(path, str(reason))
            else:
                read.append(row)
        empty = torch.empty(0, 3, self.image_size, self.image_size, dtype=torch.uint8)
        return (torch.stack(photos) if photos else empty), read

    def _skip(self, path: Path, reason: str) -> None:
        if not self.skipped:
            told = f"{path} is left out: {reason}; `skipped` of the dataset counts all such images"
            warnings.warn(told, stacklevel=2)
        self.skipped.setdefault(str(path), reason)

    def _first_skipped(self) -> str:
        path, reason = next(iter(self.skipped.items()))
        return f"{path} ({reason}; one of {len(self.skipped)} left out)"

    def _faces(self, person: _Rows, rows: list[int], photos: Tensor, partition: int) -> Faces:
        if self._task == "identity":
            labels = torch.full((len(rows),), partition)
        else:
            labels = torch.from_numpy(self._attributes[self._task][rows].astype(np.int64))
        facts = {name: int(values[person].mean() > 0.5) for name, values in self._attributes.items()}
        return Faces(photos.float() / 255, labels, facts)


def stable_split(identities: pd.Series) -> pd.Series:
    """`users` or `public` for tables without a split: half of the people each, by a hash of their names.

    The run seed has no part in it: a prior trained on the public people of one run would otherwise have
    met the users of the next.
    """
    names = identities.unique()
    return identities.map({name: ("users", "public")[derive(0, "split", str(name)) % 2] for name in names})


def _find_task(task: str, attributes: list[str], source: str) -> str:
    name = task.lower()
    name = name if name in attributes else _ALIASES.get(name, name)
    if name == "identity" or name in attributes:
        return name
    near = difflib.get_close_matches(name, attributes, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "allowed:"
    raise ConfigError(
        f"dataset.task = {task!r}, but {source} has no such binary attribute; {hint} "
        f"({', '.join(['identity', *sorted(attributes)])})"
    )


def _split_of_people(table: pd.DataFrame, source: str) -> dict[str, str]:
    """The one split of each person; ConfigError for a person with photos among the users and the public."""
    known = table[table["split"].isin(["users", "public"])].groupby("identity")["split"]
    splits = known.nunique()
    if (splits > 1).any():
        raise ConfigError(
            f"{source} has photos of person {splits.idxmax()!r} both among the users and among the public; "
            "give each person one split"
        )
    people = dict.fromkeys(table["identity"].astype(str), "")
    return people | {str(name): str(value) for name, value in known.first().items()}
