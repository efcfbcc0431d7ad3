"""Where Python looks for modules, handed on to the processes that this one starts."""

import os
import sys
from pathlib import Path


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
