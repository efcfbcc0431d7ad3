"""What is measured: controls, leakage, reports, studies, sweeps; and the results of runs as tables, `load_runs`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.show.tables import Tables

# Before Flower and Ray are imported: nothing of a privacy experiment is reported home.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

__all__ = ["load_runs"]


def load_runs(*folders: Path | str) -> Tables:
    """The runs in `folders` (run folders, or folders of them) as three DataFrames: runs, rounds, leakage.

    The columns are told in experiments.show.tables. Raises ConfigError where there is no run.
    """
    from experiments.show import tables  # pandas takes a second to import; modules here are used without it

    return tables.load(Path(folder) for folder in folders)
