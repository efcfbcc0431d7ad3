"""Runs as tidy tables: one row a run, one a round, one a measurement; all have the column `run`, to join them by.

    runs, rounds, leakage = load_runs("runs/quickstart", "runs/defenses")

runs      run (name), folder, seed, defense (names in order, `none` without), rounds (trained), accuracy and loss on
          held-out photos after the last of them, epsilon at delta (null: no guarantee); the config: dataset.users, ...
rounds    run, and the columns of rounds.parquet: round, accuracy, loss, examples, accepted, rejected, seconds
leakage   the columns of experiments.evaluate.columns.COLUMNS and `attr_NAME_true`, `_inferred`, `_share`
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from experiments.plan.defended import measures, name
from experiments.plan.study import leaves
from fl_sim.config import Config, ConfigError
from fl_sim.config import load as load_config
from fl_sim.runs import RunFolder, read_manifest

FIGURES = ("accuracy", "loss", "epsilon", "delta")  # of runs; null where there is none


class Tables(NamedTuple):
    runs: pd.DataFrame
    rounds: pd.DataFrame
    leakage: pd.DataFrame


def load(folders: Iterable[Path]) -> Tables:
    """The runs in `folders`, by name, and what is there of their results."""
    roots = [root for folder in folders for root in _runs(folder)]
    configs = {root: load_config(root / "config.toml") for root in roots}
    rounds = {root: _read(RunFolder(root).rounds) for root in roots}
    rows = [_row(root, config, rounds[root]) for root, config in configs.items()]
    return Tables(
        pd.DataFrame(rows).astype(dict.fromkeys(FIGURES, "float64")).sort_values("run", ignore_index=True),
        _joined([table.assign(run=configs[root].name) for root, table in rounds.items()]),
        _joined([_read(RunFolder(root).leakage) for root in roots]),
    )


def guarantee(run: RunFolder) -> dict[str, float | None]:
    """User-level epsilon over the whole run against the server, and its delta; null where nothing is guaranteed."""
    manifest = read_manifest(run) if run.manifest.exists() else {}  # `flwr run` writes none
    stated = manifest.get("threat_model", {}).get("privacy", {})
    epsilon = stated.get("server", {}).get("epsilon_run")
    return {"epsilon": epsilon, "delta": None if epsilon is None else stated["delta"]}


def last_round(table: pd.DataFrame) -> dict[str, float | None]:
    """Accuracy in [0, 1] and loss on held-out photos after the last round of a rounds table; null without one."""
    last: Mapping[Any, Any] = table.iloc[-1].to_dict() if len(table) else {}
    values = {figure: float(last.get(figure, math.nan)) for figure in ("accuracy", "loss")}
    return {figure: value if math.isfinite(value) else None for figure, value in values.items()}


def _runs(folder: Path) -> list[Path]:
    """The run folders at or below `folder`; a run holds no other run."""
    if (folder / "config.toml").is_file():
        return [folder]
    roots = sorted(path.parent for path in folder.glob("**/config.toml"))
    if not roots:
        raise ConfigError(
            f"there is no run in {folder}; give a run folder such as runs/quickstart, or a folder of runs"
        )
    return roots


def _row(root: Path, config: Config, rounds: pd.DataFrame) -> dict[str, Any]:
    row = {"run": config.name, "folder": str(root), "seed": config.seed, "defense": name(measures(config))}
    row |= {"rounds": len(rounds), **last_round(rounds), **guarantee(RunFolder(root))}
    return row | dict(leaves(config.model_dump(mode="json", exclude={"name", "seed", "defenses", "attacks"})))


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        return pd.DataFrame()
    with path.open("rb") as file:  # by its path it is opened twice: a run at work may replace it meanwhile
        return pd.read_parquet(file)


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    full = [table for table in tables if len(table)]
    return pd.concat(full, ignore_index=True) if full else pd.DataFrame()
