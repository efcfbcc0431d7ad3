"""A folder of photos: with a CSV, or with a folder a person.

The CSV has a row an image, columns `path`, `identity`, optional `split`, attributes.

Paths are relative to the folder. Attribute columns hold +1 and -1, 1 and 0, or true and false; other columns are
ignored. A cell of an attribute that is empty, NA, NaN, null or None is no label; as an identity each of these words
is a name.
Without the CSV each subfolder that holds images is a person, called as the folder is; nothing else is known of them.
Without a split half of the people are users (see `table.made_split`).
"""

from pathlib import Path

import pandas as pd

from clients.datasets.align import crop_of
from clients.datasets.people import PeopleDataset
from clients.datasets.table import given_split, labels_of, made_split
from fl_sim.config import ConfigError, Dataset

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")  # in any case
_CSV = Dataset().csv


def open_folder(dataset: Dataset, seed: int) -> PeopleDataset:
    """The factory of `open_dataset`. Raises ConfigError for a table that is missing or not of this form."""
    assert dataset.root is not None
    csv = dataset.root / dataset.csv
    if dataset.csv == _CSV and not csv.exists():
        table, note = of_subfolders(dataset.root)
        return PeopleDataset(table, crop_of(dataset), dataset, seed, str(dataset.root), notes=[note])
    table, notes = read_table(csv, dataset.root, dataset.users_split, dataset.public_split)
    return PeopleDataset(table, crop_of(dataset), dataset, seed, str(csv), notes=notes)


def of_subfolders(root: Path) -> tuple[pd.DataFrame, str]:
    """The table of `PeopleDataset` from a folder a person, and what to say of its split.

    A folder that holds nothing but one folder is looked into, as archives often unpack to. ConfigError where no
    subfolder holds images.
    """
    inside = [path for path in root.iterdir() if not path.name.startswith((".", "__"))]  # __MACOSX
    if len(inside) == 1 and inside[0].is_dir() and not _images(inside[0]):
        return of_subfolders(inside[0])
    people = {path.name: _images(path) for path in sorted(inside) if path.is_dir()}
    rows = [(str(image), name) for name, images in people.items() for image in images]
    if not rows:
        raise ConfigError(f"{root} has no {_CSV} and no folder a person with images in it; {_instead(root, inside)}")
    table = pd.DataFrame(rows, columns=["path", "identity"])
    table["split"], note = made_split(table["identity"])
    return table, note


def _images(folder: Path) -> list[Path]:
    """The images right in a folder, by name, without hidden ones (macOS writes `._NAME.jpg`)."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES and not path.name.startswith("."))


def _instead(root: Path, inside: list[Path]) -> str:
    """What somebody who gave `root` may have meant."""
    names = [path.name for path in inside]
    forms = {
        "celeba": any(name.startswith("list_attr_celeba") for name in names),
        "lfw": any(name.startswith(("lfw-", "lfw_")) for name in names),
        "parquet": any(root.rglob("*.parquet")),
    }
    if any(forms.values()):
        return f"it looks like another form: set dataset.name={max(forms, key=lambda form: forms[form])}"
    deeper = [path.name for path in inside if path.is_dir() and any(map(_images, filter(Path.is_dir, path.iterdir())))]
    if deeper:
        return f"set dataset.root to a folder of people, such as {root / min(deeper)}"
    return f"put the images ({', '.join(IMAGES[:3])}, ...) of each person into a folder of that name, or write a CSV"


def read_table(csv: Path, root: Path, users_split: str, public_split: str) -> tuple[pd.DataFrame, list[str]]:
    """The table of `PeopleDataset` from a CSV, and what to say of it."""
    if not csv.is_file():
        raise ConfigError(f"dataset.csv = {csv} does not exist; name the table of the images below dataset.root")
    try:
        # Never unpacked by its name: a table of a few kilobytes could fill the memory.
        raw = pd.read_csv(
            csv, dtype=str, keep_default_na=False, skipinitialspace=True, compression=None, index_col=False
        ).fillna("")  # of lines that end too early
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        raise ConfigError(f"dataset.csv = {csv} cannot be read as CSV ({str(error).strip()})") from error
    for column in {"identity", "split"} & set(raw):
        raw[column] = raw[column].str.strip()
    for column in ("path", "identity"):
        if column not in raw:
            raise ConfigError(f"{csv} has no column {column!r}; it needs path and identity, and has {_names(raw)}")
        if (raw[column] == "").any():
            line = int((raw[column] == "").to_numpy().argmax()) + 2
            raise ConfigError(f"{csv} has no {column} in line {line}; give one or remove the line")
    table = pd.DataFrame({"path": [str(root / path) for path in raw["path"]], "identity": raw["identity"]})
    notes = []
    if "split" in raw:
        table["split"] = given_split(raw["split"], users_split, public_split, str(csv))
    else:
        table["split"], note = made_split(raw["identity"])
        notes.append(note)
    for name in raw.columns.difference(["path", "identity", "split"], sort=False):
        attribute, labels = str(name).lower(), labels_of(raw[name])
        if attribute not in table and labels is not None:
            table[attribute] = labels
    return table, notes


def _names(raw: pd.DataFrame) -> str:
    return ", ".join(map(str, raw.columns[:8]))
