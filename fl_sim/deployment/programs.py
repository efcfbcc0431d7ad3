"""Flower's programs and the environment in which they run."""

import os
import shutil
import sys
from pathlib import Path

from fl_sim.config import ConfigError

PROGRAMS = Path(sys.executable).parent  # Flower calls its other programs by name, so they must be in PATH


def program(name: str) -> str:
    """The path of one of Flower's programs; ConfigError if it is not there."""
    found = shutil.which(name, path=f"{PROGRAMS}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise ConfigError(f"the program {name} is not installed beside {sys.executable}; install flwr, or make install")
    return found


def environment(home: Path | None) -> dict[str, str]:
    """What Flower's programs find: their home (None: the user's own), each other, no telemetry."""
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    homes = {"FLWR_HOME": str(home)} if home else {}
    return {**os.environ, **quiet, **homes, "PATH": f"{PROGRAMS}{os.pathsep}{os.environ.get('PATH', '')}"}
