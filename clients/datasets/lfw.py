"""Labeled Faces in the Wild (Huang et al. 2007) from a local copy, as torchvision or Kaggle lays it out.

Users come from the people of its test list, public people from its training list ("View 1": the lists share
no person); without the lists a split is made. LFW has no attributes, so the only task is `identity`.
"""

from pathlib import Path

from clients.datasets.align import crop_of
from clients.datasets.folder import of_subfolders
from clients.datasets.people import PeopleDataset
from fl_sim.config import ConfigError, Dataset

_CROP = 150  # pixels of the 250 x 250 image, whose face box was widened 2.2 times
_FOLDER = "lfw-py"  # as torchvision lays it out
_LISTS = {"peopleDevTest": "users", "peopleDevTrain": "public"}
_IMAGES = ("lfw-deepfunneled", "lfw_funneled", "lfw")  # best aligned first


def open_lfw(dataset: Dataset, seed: int) -> PeopleDataset:
    """The factory of `open_dataset`. Raises ConfigError where a file of LFW is missing, or for another task."""
    assert dataset.root is not None
    below = dataset.root / _FOLDER
    folder = below if below.is_dir() else dataset.root
    found = [folder / name for name in _IMAGES if (folder / name).is_dir()]
    if not found:
        raise ConfigError(f"{folder} lacks {' or '.join(_IMAGES)}; put LFW's unpacked images there")
    table, note = of_subfolders(found[0])
    lists = {name: file for name in _LISTS if (file := _list(folder, name)) is not None}
    if len(lists) == 1:
        (missing,) = _LISTS.keys() - lists.keys()
        raise ConfigError(f"{folder} lacks {missing}.txt (or .csv); put it there, or take both lists away")
    if lists:
        try:
            split = {name: _LISTS[one] for one, file in lists.items() for name in _people(file)}
        except (ValueError, IndexError) as error:
            raise ConfigError(f"the lists in {folder} are not those of LFW ({error}); fetch them again") from error
        table["split"], note = table["identity"].map(split).fillna(""), ""
        missing_people = split.keys() - set(table["identity"])
        if missing_people:
            note = f"of {len(split)} people in LFW's lists, {len(missing_people)} have no images in {found[0]}"
    notes = [note] if note else []
    return PeopleDataset(table, crop_of(dataset, _CROP), dataset, seed, "lfw", notes=notes)


def _list(folder: Path, name: str) -> Path | None:
    """A list of people as text, as its authors publish it, or as CSV, as Kaggle packs it; None: neither."""
    return next((file for end in ("txt", "csv") if (file := folder / f"{name}.{end}").is_file()), None)


def _people(file: Path) -> list[str]:
    """The names in a list. ValueError unless each line after the first has a name and a number of images."""
    mark = "," if file.suffix == ".csv" else "\t"
    lines = [line.split(mark) for line in file.read_text(encoding="utf-8").splitlines()[1:] if line.strip()]
    for line in lines:
        if len(line) != 2 or not line[1].strip().isdigit():
            raise ValueError(f"{file.name} has the line {mark.join(line)[:50]!r}, not a name and a number of images")
    if not lines:
        raise ValueError(f"{file.name} names nobody")
    return [line[0] for line in lines]
