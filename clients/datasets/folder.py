"""A folder of photos with a CSV: a row an image, columns `path`, `identity`, optional `split`, attributes.

Paths are relative to the folder. Attribute columns hold +1 and -1, 1 and 0, or true and false; other columns are
ignored. A cell of an attribute that is empty, NA, NaN, null or None is no label; as an identity each of these words
is a name.
Without a `split` column half of the people are users (see `table.stable_split`).
"""

from pathlib import Path

import pandas as pd

from clients.datasets.align import crop_of
from clients.datasets.people import PeopleDataset
from clients.datasets.table import UNKNOWN, stable_split
from fl_sim.config import ConfigError, Dataset

_BLANK = ("", "na", "n/a", "nan", "null", "none")  # as spreadsheets, R and pandas write what is missing


def open_folder(dataset: Dataset, seed: int) -> PeopleDataset:
    """The factory of `open_dataset`. Raises ConfigError for a table that is missing or not of this form."""
    assert dataset.root is not None
    csv = dataset.root / dataset.csv
    table = read_table(csv, dataset.root, dataset.users_split, dataset.public_split)
    return PeopleDataset(table, crop_of(dataset), dataset, seed, str(csv))


def read_table(csv: Path, root: Path, users_split: str, public_split: str) -> pd.DataFrame:
    """The table of `PeopleDataset` from a CSV."""
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
    table["split"] = _splits(raw, users_split, public_split, csv)
    for name in raw.columns.difference(["path", "identity", "split"], sort=False):
        attribute, labels = str(name).lower(), _labels(raw[name])
        if attribute not in table and labels is not None:
            table[attribute] = labels
    return table


def _labels(column: pd.Series) -> pd.Series | None:
    """A column of text as 1, 0 and UNKNOWN; None if it holds anything but a binary attribute."""
    words = column.str.strip().str.lower()
    blank = words.isin(_BLANK)
    values = pd.to_numeric(words.replace({"true": "1", "false": "0"}), errors="coerce")
    found = set(values[~blank])
    if not found or not (found <= {0, 1} or found <= {-1, 1}):
        return None
    return (values > 0).astype("int8").mask(blank, UNKNOWN)


def _splits(raw: pd.DataFrame, users_split: str, public_split: str, csv: Path) -> pd.Series:
    if "split" not in raw:
        return stable_split(raw["identity"])
    if users_split == public_split:
        raise ConfigError(f"dataset.users_split and public_split are both {users_split!r}; users cannot be public")
    for key, value in (("users_split", users_split), ("public_split", public_split)):
        if value not in set(raw["split"]):
            found = ", ".join(map(repr, sorted(set(raw["split"]) - {""})[:10]))
            raise ConfigError(f"dataset.{key} = {value!r}, but column split of {csv} has only {found}")
    return raw["split"].map({users_split: "users", public_split: "public"}).fillna("")


def _names(raw: pd.DataFrame) -> str:
    return ", ".join(map(str, raw.columns[:8]))
