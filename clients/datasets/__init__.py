"""The datasets of face users, by name: `open_dataset(config.dataset, config.seed)`.

A dataset is a factory `(Dataset, seed) -> FaceDataset` in a module of its own; the name of one's own
is `package.module:factory`. Modules are imported when asked for, so that rendering and training
on synthetic faces need nothing but torch.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from clients.user import FaceDataset
    from fl_sim.config import Dataset

DATASETS = {
    "synthetic": "clients.datasets.synthetic:open_synthetic",
    "folder": "clients.datasets.folder:open_folder",
    "parquet": "clients.datasets.parquet:open_parquet",
    "celeba": "clients.datasets.celeba:open_celeba",
    "lfw": "clients.datasets.lfw:open_lfw",
}


def open_dataset(dataset: Dataset, seed: int) -> FaceDataset:
    """The dataset of a config; asking again in the same process gives the same object (tables are read once).

    Raises ConfigError, in one sentence, for an unknown name, a missing folder or table, a task that the
    dataset does not have, or too few people.
    """
    return _open(dataset, seed)


def task_of(dataset: Dataset, seed: int) -> str:
    """What the model learns, of which `dataset.task` may leave the choice to the dataset. ConfigError as above."""
    return str(getattr(open_dataset(dataset, seed), "task", dataset.task))


def check_name(name: str) -> None:
    """Raise ConfigError for a name that is neither of a dataset nor of a factory; nothing is imported for it."""
    from fl_sim.config import ConfigError
    from fl_sim.config_errors import unknown

    if name not in DATASETS and ":" not in name:
        raise ConfigError(unknown("dataset", name, DATASETS, "package.module:factory"))


@lru_cache(maxsize=4)
def _open(dataset: Dataset, seed: int) -> FaceDataset:
    from fl_sim.config import ConfigError

    check_name(dataset.name)
    module, _, attribute = DATASETS.get(dataset.name, dataset.name).partition(":")
    if dataset.name in DATASETS and dataset.name != "synthetic":
        if dataset.root is None:
            raise ConfigError(f"dataset.root is not set; give the folder of {dataset.name!r}: -o dataset.root=PATH")
        if not dataset.root.is_dir():
            raise ConfigError(f"dataset.root = {dataset.root} is not a folder; give the folder of {dataset.name!r}")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # TypeError: a relative name
        hint = "is its package installed?"
        raise ConfigError(f"dataset {dataset.name!r} cannot be imported ({error}); {hint}") from error
    return cast("FaceDataset", factory(dataset, seed))
