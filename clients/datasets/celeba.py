"""CelebA (Liu et al. 2015) through torchvision, from a local copy; nothing is downloaded.

Users come from its validation and test partitions, public people from its training partition: what is
trained on CelebA's training partition, as usual, has not met the users. The partitions share no person.
"""

import csv
from pathlib import Path

import pandas as pd
from torchvision.datasets import CelebA

from clients.datasets.align import face_crop
from clients.datasets.images import centre_square
from clients.datasets.people import PeopleDataset
from fl_sim.config import ConfigError, Dataset

_CROP = 148  # pixels of the 178 x 218 aligned image, the usual centre crop
_PARTITIONS = {0: "public", 1: "users", 2: "users"}  # list_eval_partition.txt: training, validation, test


class _LocalCelebA(CelebA):  # type: ignore[misc]  # torchvision has no types
    """torchvision's reader without its MD5 check.

    The check accepts nothing but the files of one download, byte for byte, and so refuses a subset, or a
    copy with other line ends. Here it asks for the presence of the files; their parsing tells the rest.
    """

    def _check_integrity(self) -> bool:
        return not missing_files(Path(self.root))


def missing_files(root: Path) -> list[str]:
    """The files of CelebA that are not below `root`/celeba."""
    names = ["img_align_celeba", *(name for _, _, name in CelebA.file_list if name.endswith(".txt"))]
    return [name for name in names if not (root / CelebA.base_folder / name).exists()]


def open_celeba(dataset: Dataset, seed: int) -> PeopleDataset:
    """The factory of `open_dataset`. Raises ConfigError where a file of CelebA is missing or malformed."""
    assert dataset.root is not None
    folder = dataset.root / CelebA.base_folder
    if missing := missing_files(dataset.root):
        raise ConfigError(
            f"{folder} lacks {', '.join(missing)}; put CelebA's aligned images and lists (Img and Anno of "
            "mmlab.ie.cuhk.edu.hk/projects/CelebA.html, unpacked) there, and set dataset.root to the folder above"
        )
    try:
        table = read_table(dataset.root)
    except (ValueError, LookupError, RuntimeError, csv.Error) as error:
        raise ConfigError(f"the lists in {folder} are not those of CelebA ({error!r}); unpack them again") from error
    return PeopleDataset(table, face_crop() if dataset.align else centre_square(_CROP), dataset, seed, "celeba")


def read_table(root: Path) -> pd.DataFrame:
    """The table of `PeopleDataset` from torchvision's reader."""
    celeba = _LocalCelebA(root, split="all", target_type=["attr", "identity"])
    partitions = celeba._load_csv("list_eval_partition.txt").data[:, 0].tolist()
    images = root / CelebA.base_folder / "img_align_celeba"
    table = pd.DataFrame({"path": [str(images / name) for name in celeba.filename]})
    table["identity"] = [str(identity) for identity in celeba.identity[:, 0].tolist()]
    table["split"] = [_PARTITIONS[partition] for partition in partitions]
    names = [name.lower() for name in celeba.attr_names if name]  # the header line ends in a space
    attributes = pd.DataFrame(celeba.attr.numpy().astype("int8"), columns=names)
    return pd.concat([table, attributes], axis=1)
