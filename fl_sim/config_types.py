"""Paths, names of folders and tables of settings, as keys of a config."""

from collections.abc import Iterator
from datetime import date, time
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator


def _absolute(path: Path) -> Path:
    try:
        return path.expanduser().resolve()
    except (RuntimeError, OSError) as error:  # nobody of that name, links that go round in circles
        raise ValueError(f"should be a path that can be followed ({error})") from error


def _folder(name: str) -> str:
    """`name`, if a folder of that name can lie below another one and nowhere else."""
    parts = PurePosixPath(name).parts
    if not parts or {"/", ".."} & set(parts) or not name.isprintable() or len(name.encode()) > 200:
        raise ValueError("should be the name of a folder: printable, at most 200 bytes, not absolute and without ..")
    return name


def _settings(table: dict[str, Any]) -> dict[str, Any]:
    """`table`, if it can be written and read back equal: JSON has no dates, and no NaN is equal to any."""
    for value in _leaves(table):
        if isinstance(value, date | time):
            raise ValueError("should hold text, numbers, true or false; put a date in quotes")
        if value != value:
            raise ValueError("should hold no NaN")
    return table


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _leaves(inner)
    else:
        yield value


LocalPath = Annotated[Path, AfterValidator(_absolute)]
"""A path, made absolute where it is read, so that a run can be taken up again from another folder."""

Name = Annotated[str, AfterValidator(_folder)]
"""What is also the name of a folder."""

Table = Annotated[dict[str, Any], AfterValidator(_settings)]
"""A table of settings, of an attack or a defense, whose own keys are checked where it is loaded."""
