"""Labeled Faces in the Wild (Huang et al. 2007) through torchvision, from a local copy.

Users come from the people of its test list, public people from its training list ("View 1": the lists share
no person). LFW has no attributes, so the only task is `identity`.
"""

from pathlib import Path

import pandas as pd
from torchvision.datasets import LFWPeople

from clients.datasets.align import crop_of
from clients.datasets.people import PeopleDataset
from fl_sim.config import ConfigError, Dataset

_CROP = 150  # pixels of the 250 x 250 image, whose face box was widened 2.2 times
_LISTS = {"test": "users", "train": "public"}
_IMAGE_SETS = ("deepfunneled", "funneled", "original")  # best aligned first


class _LocalLFW(LFWPeople):  # type: ignore[misc]  # torchvision has no types
    """torchvision's reader without its MD5 check.

    The check wants the downloaded archive beside the images, byte for byte, at an address that no longer
    serves it; copies that are unpacked, or partial, are refused. Here the files must be there and parse.
    """

    def _check_integrity(self) -> bool:
        return True  # open_lfw has looked


def open_lfw(dataset: Dataset, seed: int) -> PeopleDataset:
    """The factory of `open_dataset`. Raises ConfigError where a file of LFW is missing, or for another task."""
    assert dataset.root is not None
    if dataset.task != "identity":
        raise ConfigError(f"dataset.task = {dataset.task!r}, but lfw has no attributes; set dataset.task=identity")
    folder = dataset.root / LFWPeople.base_folder
    folders = {name: LFWPeople.file_dict[name][0] for name in _IMAGE_SETS}
    found = [name for name in _IMAGE_SETS if (folder / folders[name]).is_dir()]
    lists = ("peopleDevTrain.txt", "peopleDevTest.txt", LFWPeople.names)
    missing = [name for name in lists if not (folder / name).is_file()]
    if not found or missing:
        lacking = [*missing, *([] if found else [" or ".join(folders.values())])]
        raise ConfigError(
            f"{folder} lacks {', '.join(lacking)}; put LFW's unpacked images and these lists there, and set "
            "dataset.root to the folder above"
        )
    try:
        table = read_table(dataset.root, found[0])
    except (ValueError, IndexError, KeyError) as error:
        raise ConfigError(f"the lists in {folder} are not those of LFW ({error!r}); fetch them again") from error
    return PeopleDataset(table, crop_of(dataset, _CROP), dataset, seed, "lfw")


def read_table(root: Path, image_set: str) -> pd.DataFrame:
    """The table of `PeopleDataset` from torchvision's reader of the two lists."""
    parts = []
    for view, split in _LISTS.items():
        people = _LocalLFW(str(root), split=view, image_set=image_set)
        names = {number: name for name, number in people.class_to_idx.items()}
        identity = [names[number] for number in people.targets]
        parts.append(pd.DataFrame({"path": people.data, "identity": identity, "split": split}))
    return pd.concat(parts, ignore_index=True)
