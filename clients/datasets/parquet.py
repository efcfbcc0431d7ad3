"""Parquet files with the pictures inside, as Hugging Face's `datasets` writes them.

A row is a photo: a column of pictures (a struct with `bytes`, or bytes), one that says who it is, and any others, of
which binary ones are attributes. A picture is read when it is asked for, by its row group. Where there are no bytes
its `path` is followed: `to_parquet` of datasets 5.2 leaves pictures out that were given as files.

A column `split`, or else files called train, validation and test (as `train-00000-of-00019.parquet`), divide the
people: those of `train` are public, the others users. Where a person is on both sides, or nothing divides them, a split
is made (see `table.made_split`).
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from clients.datasets.align import crop_of
from clients.datasets.images import UnreadableImage
from clients.datasets.people import PeopleDataset
from clients.datasets.table import UNKNOWN, given_split, labels_of, made_split
from fl_sim.config import ConfigError, Dataset
from fl_sim.config_errors import in_one_line

IDENTITY = ("celeb_id", "identity", "identity_id", "person", "person_id", "subject", "subject_id", "name", "label")
_SPLITS = {"train": "public", "valid": "users", "validation": "users", "val": "users", "test": "users"}
_LARGEST = 2**30  # bytes of a row group, whose pictures are in memory together
_DAMAGED = (OSError, ValueError, NotImplementedError, KeyError, TypeError)  # pyarrow's exceptions are of these
_CACHE_BYTES = 128 * 2**20  # of row groups read


def open_parquet(dataset: Dataset, seed: int) -> PeopleDataset:
    """The factory of `open_dataset`. Raises ConfigError for files that are damaged, or not of this form."""
    assert dataset.root is not None
    files = find(dataset.root)
    pictures = Pictures(files)
    table, notes = read_table(pictures, dataset.users_split, dataset.public_split, str(dataset.root))
    return PeopleDataset(table, crop_of(dataset), dataset, seed, str(dataset.root), notes, pictures)


def find(root: Path) -> list[Path]:
    """The parquet files below `root`, by name. ConfigError where there are none, or those of several data sets."""
    files = sorted(path for path in root.rglob("*.parquet") if not path.relative_to(root).parts[0].startswith("."))
    if not files:
        arrow = "; it holds arrow files of save_to_disk: write them by to_parquet" if any(root.rglob("*.arrow")) else ""
        raise ConfigError(f"dataset.root = {root} holds no parquet file{arrow or '; give the folder that does'}")
    folders = {file.parent.parent if file.parent.name in _SPLITS else file.parent for file in files}
    if len(folders) > 1:
        raise ConfigError(
            f"the parquet files below {root} lie in {len(folders)} folders, as if they were several data sets; set "
            f"dataset.root to one of them, such as {min(folders)}"
        )
    return files


class Pictures:
    """The pictures of the rows of parquet files, called with `FILE:ROW` for the bytes of one, or for its file."""

    def __init__(self, files: list[Path]) -> None:
        """ConfigError for a file that is damaged, has other columns than the first, or no column of pictures."""
        self._files = {str(path): _open(path) for path in files}
        first, *others = self._files
        self.schema = self._files[first].schema_arrow
        for other in others:
            if set(self._files[other].schema_arrow.names) != set(self.schema.names):
                raise ConfigError(
                    f"{other} has other columns than {first}; set dataset.root to the files of one data set"
                )
        self._column = _picture_column(self.schema, first)
        self._starts = {name: _row_groups(file) for name, file in self._files.items()}
        largest = max(_largest(file, name) for name, file in self._files.items())
        self._group = lru_cache(maxsize=max(1, _CACHE_BYTES // max(1, largest)))(self._read)

    def __call__(self, path: str) -> bytes | Path:
        name, _, number = path.rpartition(":")
        row, starts = int(number), self._starts[name]
        group = int(np.searchsorted(starts, row, side="right")) - 1
        picture = self._group(name, group)[row - int(starts[group])].as_py()
        stored = picture if isinstance(picture, dict) else {"bytes": picture}
        if stored["bytes"] is not None:
            return bytes(stored["bytes"])
        if stored.get("path") is None:
            raise UnreadableImage(f"the column {self._column!r} holds no picture there")
        file = Path(name).parent / str(stored["path"])
        if not file.is_file():
            raise UnreadableImage(f"the column {self._column!r} holds only the path {stored['path']}, which is no file")
        return file

    def paths(self) -> list[str]:
        """`FILE:ROW` of each row, in the order of `facts`."""
        return [f"{name}:{row}" for name, file in self._files.items() for row in range(file.metadata.num_rows)]

    def facts(self) -> pd.DataFrame:
        """All columns but pictures and lists, and `file`, which names the file of each row."""
        flat = [one.name for one in self.schema if not (pa.types.is_nested(one.type) or _is_bytes(one.type))]
        parts = []
        for name, file in self._files.items():
            try:
                part = file.read(columns=flat).to_pandas()
            except _DAMAGED as error:
                raise ConfigError(f"{name} cannot be read ({in_one_line(error, 200)}); fetch it again") from error
            parts.append(part.assign(file=name))
        facts: pd.DataFrame = pd.concat(parts, ignore_index=True)
        return facts

    def _read(self, name: str, group: int) -> Any:
        """The pictures of a row group: a pyarrow array."""
        try:
            return self._files[name].read_row_group(group, columns=[self._column]).column(0)
        except _DAMAGED as error:
            raise UnreadableImage(f"the file cannot be read there ({in_one_line(error, 200)})") from error


def read_table(pictures: Pictures, users: str, public: str, source: str) -> tuple[pd.DataFrame, list[str]]:
    """The table of `PeopleDataset`, and what to say of its split. ConfigError where nobody is named."""
    raw = pictures.facts()
    lower = {str(name).lower(): name for name in raw}
    identity = next((lower[name] for name in IDENTITY if name in lower), None)
    if identity is None:
        raise ConfigError(
            f"{source} has no column that says who is in the picture; call it {IDENTITY[0]} or {IDENTITY[1]} (it has "
            f"{', '.join(map(str, raw.columns.drop('file')[:8]))})"
        )
    paths = pictures.paths()
    nobody = raw[identity].isna() | (raw[identity].astype(str).str.strip() == "")
    if nobody.any():
        raise ConfigError(f"{paths[int(nobody.to_numpy().argmax())]} has no {identity}; give one or leave the row out")
    table = pd.DataFrame({"path": paths, "identity": _names(raw[identity], pictures.schema)})
    table["split"], notes = _split(raw, table["identity"], users, public, source)
    for name in raw.columns.drop([identity, "file", *(["split"] if "split" in raw else [])]):
        attribute, labels = str(name).lower(), _labels(raw[name])
        if attribute not in table and labels is not None:
            table[attribute] = labels
    return table, notes


def _split(raw: pd.DataFrame, people: pd.Series, users: str, public: str, source: str) -> tuple[pd.Series, list[str]]:
    if "split" in raw:
        return given_split(raw["split"].fillna("").astype(str), users, public, source), []
    side = raw["file"].map({file: _side(Path(file)) for file in raw["file"].unique()})
    sides = side.groupby(people).agg(lambda one: one.iloc[0] if (one == one.iloc[0]).all() else "both")
    if set(sides) == {"users", "public"}:
        return side, ["the files say who may be users: people of validation and test; those of train are public"]
    split, note = made_split(people)
    return split, [note]


def _side(file: Path) -> str:
    """`users` or `public`, if the name of a file, or of its folder, is that of a split; else ""."""
    names = (file.stem.lower().split("-")[0], file.parent.name.lower())
    return next((_SPLITS[name] for name in names if name in _SPLITS), "")


def _names(column: pd.Series, schema: pa.Schema) -> pd.Series:
    """People as text; by their names, where `datasets` keeps those of a ClassLabel in the file."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        called = dict(enumerate(features[column.name]["names"]))
    except (KeyError, TypeError, ValueError):
        called = {}
    whole = column.astype("int64") if pd.api.types.is_float_dtype(column) and (column % 1 == 0).all() else column
    return whole.map(lambda value: str(called.get(value, value)).strip())


def _labels(column: pd.Series) -> pd.Series | None:
    """A column as 1, 0 and UNKNOWN; None if it holds anything but a binary attribute."""
    if not (pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)):
        return labels_of(column.fillna("").astype(str))
    known = column.dropna()
    found = set(pd.unique(known))
    if not found or not (found <= {0, 1} or found <= {-1, 1}):
        return None
    return (column > 0).fillna(False).astype("int8").mask(column.isna(), UNKNOWN)


def _open(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
        _ = file.schema_arrow.names  # which may be no text
        return file
    except _DAMAGED as error:
        raise ConfigError(
            f"{path} is not a parquet file that can be read ({in_one_line(error, 200)}); fetch it again"
        ) from error


def _picture_column(schema: pa.Schema, name: str) -> str:
    """The column of pictures: the only one that could be, or else that which is called `image`."""
    found = [
        field.name
        for field in schema
        if _is_bytes(field.type) or (pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
    ]
    if len(found) == 1 or "image" in found:
        return "image" if "image" in found else str(found[0])
    if found:
        raise ConfigError(f"{name} has several columns of pictures ({', '.join(found)}); call the one to use image")
    raise ConfigError(
        f"{name} has no column of pictures, a struct with bytes as datasets writes it, or bytes (it has "
        f"{', '.join(schema.names[:8])})"
    )


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _row_groups(file: pq.ParquetFile) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The number of the first row of each row group."""
    return np.cumsum([0, *(file.metadata.row_group(index).num_rows for index in range(file.num_row_groups))])[:-1]


def _largest(file: pq.ParquetFile, name: str) -> int:
    """Bytes of the largest row group, most of which are pictures. ConfigError above _LARGEST."""
    size = max((file.metadata.row_group(index).total_byte_size for index in range(file.num_row_groups)), default=0)
    if size > _LARGEST:
        raise ConfigError(
            f"{name} has a row group of {size / 2**30:.1f} GB, which would be in memory as a whole; write it with some "
            "hundred photos a row group (pandas: to_parquet(..., row_group_size=100))"
        )
    return int(size)
