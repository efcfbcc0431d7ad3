"""CelebA (Liu et al. 2015) from a local copy; nothing is downloaded.

Users come from its validation and test partitions, public people from its training partition: what is
trained on CelebA's training partition, as usual, has not met the users. The partitions share no person.
Its lists are joined by the file names in them; their order and the images that they leave out do not matter.
"""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from clients.datasets.align import crop_of
from clients.datasets.people import PeopleDataset
from fl_sim.config import ConfigError, Dataset

_FOLDER, _IMAGES = "celeba", "img_align_celeba"  # as torchvision lays them out
_LISTS = ("list_eval_partition.txt", "identity_CelebA.txt", "list_attr_celeba.txt")
_CROP = 148  # pixels of the 178 x 218 aligned image, the usual centre crop
_PARTITIONS = {"0": "public", "1": "users", "2": "users"}  # list_eval_partition.txt: training, validation, test


def open_celeba(dataset: Dataset, seed: int) -> PeopleDataset:
    """The factory of `open_dataset`. Raises ConfigError where a file of CelebA is missing or malformed."""
    assert dataset.root is not None
    folder = dataset.root / _FOLDER
    if missing := [name for name in (_IMAGES, *_LISTS) if not (folder / name).exists()]:
        raise ConfigError(
            f"{folder} lacks {', '.join(missing)}; put CelebA's aligned images and lists (Img and Anno of "
            "mmlab.ie.cuhk.edu.hk/projects/CelebA.html, unpacked) there, and set dataset.root to the folder above"
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
    splits, people = (_read(folder / name) for name in _LISTS[:2])
    attributes = _read(folder / _LISTS[2], head=2)
    table = pd.DataFrame({"path": [str(folder / _IMAGES / name) for name in splits.index]}, index=splits.index)
    for name, other in zip(_LISTS[1:], (people, attributes), strict=True):
        lacking = splits.index.difference(other.index)
        if len(lacking):
            raise ValueError(f"{name} has no line for {lacking[0]}, which {_LISTS[0]} names")
    _allow(_PARTITIONS, splits, _LISTS[0])
    _allow(("1", "0", "-1"), attributes, _LISTS[2])
    table["identity"], table["split"] = people["value"], splits["value"].map(_PARTITIONS)
    return pd.concat([table, (attributes.loc[table.index] == "1").astype("int8")], axis=1).reset_index(drop=True)


def _read(path: Path, head: int = 0) -> pd.DataFrame:
    """One of CelebA's lists as text, by file name. ValueError where it is malformed or names a file twice.

    `head` lines come before the first image; the last of them names the columns.
    """
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(lines) <= head:
        raise ValueError(f"{path.name} has no line for an image")
    names = [name.lower() for name in lines[head - 1]] if head else ["value"]
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
