"""The runs of a study, and their leakage as one tidy table.

One row per run, attack, arm (and round, where rounds are the axis): what was varied, the number of users, and
each figure of `experiments.statistics.aggregate` as FIGURE, FIGURE_low, FIGURE_high (mean over users, 95 % interval).
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.plan.setup import prepare
from experiments.plan.study import Cell, Study, Variant, expand, variants
from experiments.run import pipeline
from experiments.run.preflight import preflight
from experiments.statistics.aggregate import UNIT, aggregate
from fl_sim.runs import RunFolder, write_atomically

Tell = Callable[[str], None]


def run(name: str, study: Study, runs: Path, tell: Tell) -> tuple[pd.DataFrame, list[str]]:
    """Run what is not done yet under `runs/NAME/CELL`; the table, also written to `runs/NAME`, and what failed.

    Raises ConfigError, before the first run, for whatever cannot work in any of them.
    """
    cells = expand(name, study)
    for sentence in dict.fromkeys(_notes(cells)):
        tell(f"note: {sentence}")
    tables, problems = [], []
    for number, cell in enumerate(cells, 1):
        tell(f"run {number} of {len(cells)}: {cell.name}")
        folder = RunFolder(runs / name / cell.name)
        outcome = pipeline.complete(cell.config, folder, lambda stage, done, total: None, lambda sentence: None)
        problems += [f"{cell.name}: {problem}" for problem in outcome.problems]
        tables.append(rows(cell, variants(study), outcome.table, by_round=study.axis == "round"))
    table = pd.concat(tables, ignore_index=True)
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_atomically(runs / name / "study.parquet", buffer.getvalue())
    write_atomically(runs / name / "study.csv", table.to_csv(index=False).encode())
    return table, problems


def rows(cell: Cell, labels: list[Variant], table: pd.DataFrame, by_round: bool) -> pd.DataFrame:
    """The rows of one run, from its leakage table; labels that are there from another study are left out."""
    figures = aggregate(table)
    scopes: dict[int | None, Any] = {None: figures["overall"]}
    if by_round:
        scopes = {int(number): found for number, found in figures["rounds"].items()}
    users = len(table[UNIT].drop_duplicates())
    found = []
    for server_round, attacks in scopes.items():
        for variant in labels:
            for arm, measured in attacks.get(variant.label, {}).items():
                row: dict[str, Any] = {"cell": cell.name, **{key: str(value) for key, value in cell.keys.items()}}
                row |= {"attack": variant.attack, "setting": variant.setting or None, "label": variant.label}
                row |= {"value": str(variant.value) if variant.setting else None, "round": server_round}
                row |= {"arm": arm, "users": users}
                for figure, interval in measured.items():
                    row |= {figure: interval["mean"], f"{figure}_low": interval["low"]}
                    row[f"{figure}_high"] = interval["high"]
                found.append(row)
    return pd.DataFrame(found).astype({"round": "Int64"})


def _notes(cells: list[Cell]) -> list[str]:
    notes: list[str] = []
    for cell in cells:
        preflight(prepare(cell.config), notes.append)
    return notes
