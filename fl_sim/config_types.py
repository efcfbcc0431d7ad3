"""Paths and names of folders, as keys of a config."""

from pathlib import Path, PurePosixPath
from typing import Annotated

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


LocalPath = Annotated[Path, AfterValidator(_absolute)]
"""A path, made absolute where it is read, so that a run can be taken up again from another folder."""

Name = Annotated[str, AfterValidator(_folder)]
"""What is also the name of a folder."""
