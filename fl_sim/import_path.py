"""Where Python looks for modules, handed on to the processes that this one starts."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def append_current_folder() -> None:
    """Find what lies in the current folder too, a user's own attack or model, after all else.

    After, so that a user's folder called `experiments` does not hide this project's.
    """
    here = str(Path.cwd())
    if here not in (path or here for path in sys.path):
        sys.path.append(here)


def as_variable() -> str:
    """What PYTHONPATH must be for a process to find what this one finds."""
    return os.pathsep.join(path or str(Path.cwd()) for path in sys.path)


class _OursFirst(list[str]):
    """Folders that Ray's workers put before their path one after the other, so that the last one comes first."""

    def extend(self, paths: Iterable[str]) -> None:
        self[:0] = paths


def ray_job() -> Any:
    """The `job_config` of `ray.init` with which its workers find this project before the current folder.

    Ray itself puts the current folder first, where a user may have a folder `clients`.
    """
    from ray.job_config import JobConfig

    return JobConfig(_py_driver_sys_path=_OursFirst([str(Path(__file__).parents[1])]))
