"""The table of a study: the figures of its cells, in long form.

One row per run, attack, arm (and round, where rounds are the axis): what was varied, the number of users, and
each figure of `experiments.statistics.aggregate` as FIGURE, FIGURE_low, FIGURE_high (mean over users, 95 % interval).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from experiments.plan.study import Cell, Study, Variant, variants
from experiments.statistics.aggregate import UNIT, Arms, aggregate
from fl_sim.runs import RunFolder


def rows(cell: Cell, study: Study, run: RunFolder) -> pd.DataFrame:
    """The rows of one finished run."""
    return long_form(cell, variants(study), pd.read_parquet(run.leakage), by_round=study.axis == "round")


def long_form(cell: Cell, labels: Sequence[Variant], table: pd.DataFrame, by_round: bool) -> pd.DataFrame:
    """The same from its leakage table; labels that are there from another study are left out."""
    figures = aggregate(table)
    scopes: dict[int | None, Mapping[str, Arms]] = {None: figures["overall"]}
    if by_round:
        scopes = {int(number): attacks for number, attacks in figures["rounds"].items()}
    users = len(table[UNIT].drop_duplicates())
    lines = []
    for server_round, attacks in scopes.items():
        for variant in labels:
            for arm, measured in attacks.get(variant.label, {}).items():
                line: dict[str, Any] = {"cell": cell.name, **{key: str(value) for key, value in cell.keys.items()}}
                line |= {"attack": variant.attack, "setting": variant.setting or None, "label": variant.label}
                line |= {"value": str(variant.value) if variant.setting else None, "round": server_round}
                line |= {"arm": arm, "users": users}
                for figure, interval in measured.items():
                    line |= {figure: interval.mean, f"{figure}_low": interval.low, f"{figure}_high": interval.high}
                lines.append(line)
    return pd.DataFrame(lines).astype({"round": "Int64"})
