"""CelebA (Liu et al. 2015) from a local copy; nothing is downloaded.

Users come from its validation and test partitions, public people from its training partition: what is
trained on CelebA's training partition, as usual, has not met the users. The partitions share no person.
Its lists are joined by the file names in them; their order and the images that they leave out do not matter.
They are text as its authors publish them, below `celeba/` as torchvision lays them out, or CSV as Kaggle's
`celeba-dataset` has them, which leaves out who is in the pictures: `identity_CelebA.txt` goes beside them.
"""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from clients.datasets.align import crop_of
from clients.datasets.people import PeopleDataset
from fl_sim.config import ConfigError, Dataset

_FOLDER, _IMAGES = "celeba", "img_align_celeba"
_PARTITION, _IDENTITY, _ATTRIBUTES = "list_eval_partition", "identity_CelebA", "list_attr_celeba"
_HOME = "mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
_CROP = 148  # pixels of the 178 x 218 aligned image, the usual centre crop
_PARTITIONS = {"0": "public", "1": "users", "2": "users"}  # list_eval_partition.txt: training, validation, test


def open_celeba(dataset: Dataset, seed: int) -> PeopleDataset:
    """The factory of `open_dataset`. Raises ConfigError where a file of CelebA is missing or malformed."""
    assert dataset.root is not None
    below = dataset.root / _FOLDER
    folder = below if below.is_dir() else dataset.root
    missing = [name for name in (_PARTITION, _IDENTITY, _ATTRIBUTES) if not _list(folder, name).is_file()]
    missing += [] if (folder / _IMAGES).is_dir() else [_IMAGES]
    if missing == [_IDENTITY]:
        raise ConfigError(
            f"{folder} lacks {_IDENTITY}.txt, which says who is in which picture and which Kaggle's pack leaves out; "
            f"take it from Anno of {_HOME} and put it there"
        )
    if missing:
        raise ConfigError(
            f"{folder} lacks {', '.join(missing)}; put CelebA's aligned images and lists (Img and Anno of {_HOME}, "
            "unpacked, or Kaggle's celeba-dataset) there"
        )
    try:
        table = read_table(folder)
    except ValueError as error:
        raise ConfigError(f"the lists in {folder} are not those of CelebA ({error}); unpack them again") from error
    return PeopleDataset(table, crop_of(dataset, _CROP), dataset, seed, "celeba")


def read_table(folder: Path) -> pd.DataFrame:
    """The table of `PeopleDataset`. ValueError where the lists are malformed or differ in their files.

    An image is in it if the list of partitions has it; the two others must have it then.
    """
    files = [_list(folder, name) for name in (_PARTITION, _IDENTITY, _ATTRIBUTES)]
    splits, people, attributes = _read(files[0]), _read(files[1]), _read(files[2], head=2)
    images = folder / _IMAGES
    images = images / _IMAGES if (images / _IMAGES).is_dir() else images  # Kaggle packs the folder into itself
    table = pd.DataFrame({"path": [str(images / name) for name in splits.index]}, index=splits.index)
    for file, other in zip(files[1:], (people, attributes), strict=True):
        lacking = splits.index.difference(other.index)
        if len(lacking):
            raise ValueError(f"{file.name} has no line for {lacking[0]}, which {files[0].name} names")
    _allow(_PARTITIONS, splits, files[0].name)
    _allow(("1", "0", "-1"), attributes, files[2].name)
    table["identity"], table["split"] = people.iloc[:, 0], splits.iloc[:, 0].map(_PARTITIONS)
    return pd.concat([table, (attributes.loc[table.index] == "1").astype("int8")], axis=1).reset_index(drop=True)


def _list(folder: Path, name: str) -> Path:
    """A list as CSV, or else as text, which need not be there."""
    csv = folder / f"{name}.csv"
    return csv if csv.is_file() else folder / f"{name}.txt"


def _read(path: Path, head: int = 0) -> pd.DataFrame:
    """One of CelebA's lists as text, by file name. ValueError where it is malformed or names a file twice.

    `head` lines come before the first image, in a CSV always one; the last of them names the columns.
    """
    csv = path.suffix == ".csv"
    words = [line.split("," if csv else None) for line in path.read_text(encoding="utf-8").splitlines()]
    lines, head = [line for line in words if line and line != [""]], 1 if csv else head
    if len(lines) <= head:
        raise ValueError(f"{path.name} has no line for an image")
    names = [name.lower() for name in lines[head - 1]] if head else ["value"]
    names = names[1:] if csv else names  # the first is that of the file names
    for line in lines[head:]:
        if len(line) != 1 + len(names):
            raise ValueError(f"{path.name} has {len(line)} words in the line of {line[0][:50]}, not {1 + len(names)}")
    rows = lines[head:]
    table = pd.DataFrame([line[1:] for line in rows], index=[line[0] for line in rows], columns=names)
    if table.index.has_duplicates:
        raise ValueError(f"{path.name} has two lines for {table.index[table.index.duplicated()][0]}")
    return table


def _allow(allowed: Iterable[str], table: pd.DataFrame, name: str) -> None:
    """Raise ValueError where the list `name` holds another value."""
    other = set(pd.unique(table.to_numpy().ravel())).difference(allowed)
    if other:
        raise ValueError(f"{name} has the value {min(other)[:50]!r}, which is none of {', '.join(allowed)}")
