"""Runs of the same users side by side: what one leaks beside the other, user by user, and what it costs.

`compare([BASELINE, RUN, ...])` reads the runs; a `Comparison` is a table for the terminal, JSON, DataFrames and a page.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.evaluate.columns import records
from experiments.show.compare.changes import Pair, Tested, compare_pairs
from experiments.show.compare.same_users import common, names, read_runs
from experiments.show.compare.sentences import caveats, conclusion
from experiments.show.compare.sides import Side, side
from experiments.statistics.interval import UNKNOWN, Interval


@dataclass(frozen=True)
class Comparison:
    """Runs of the same users; the first is the baseline."""

    sides: list[Side]  # the baseline first
    pairs: list[Pair]  # each other run beside it
    left_out: list[int]  # rounds that not all runs measured

    @property
    def users(self) -> list[int]:
        """Who was attacked in all runs, in the same rounds."""
        return self.sides[0].users

    @property
    def rounds(self) -> list[int]:
        return sorted(int(number) for number in self.sides[0].table["round"].unique())

    @property
    def conclusions(self) -> list[str]:
        """A sentence for each run but the baseline."""
        return [conclusion(pair) for pair in self.pairs]

    @property
    def notes(self) -> list[str]:
        """What must be known beside the conclusions."""
        found = [caveat for pair in self.pairs for caveat in caveats(pair)]
        if self.left_out:
            numbers = ", ".join(str(number) for number in self.left_out)
            found.append(f"Compared over the rounds that all runs attacked; without round {numbers}.")
        return list(dict.fromkeys(found))

    def table(self) -> pd.DataFrame:
        """A row a run: its strongest attack, what that tells, the change to the baseline, accuracy and epsilon.

        Columns FIGURE, FIGURE_low, FIGURE_high are a mean and its 95 % interval; p are two-sided, corrected (Holm).
        """
        pairs: list[Pair | None] = [None, *self.pairs]
        return pd.DataFrame([_row(one, pair) for one, pair in zip(self.sides, pairs, strict=True)])

    def by_user(self) -> pd.DataFrame:
        """A row a user and run: what the strongest attack of the run tells. `identified` is null without an answer."""
        rows = [
            {
                "user": user,
                "run": one.name,
                "attack": one.strongest.attack,
                "facial_similarity": alike,
                "identified": hit,
            }
            for one in self.sides
            for user, alike, hit in zip(self.users, one.strongest.similarity, one.strongest.identified, strict=True)
        ]
        return pd.DataFrame(rows).astype({"identified": "boolean"})

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "users": self.users,
            "rounds": self.rounds,
            "baseline": self.sides[0].name,
            "runs": [
                {**row, "verdict": one.verdict.facts(), **_concluded(pair)}
                for row, one, pair in zip(records(self.table()), self.sides, [None, *self.pairs], strict=True)
            ],
            "by_user": records(self.by_user()),
            "notes": self.notes,
        }

    def __repr__(self) -> str:
        return "\n".join([*self.conclusions, *self.notes])

    def _repr_html_(self) -> str:
        from experiments.show.compare.page import fragment  # and so jinja2

        return fragment(self)


def compare(folders: Sequence[Path]) -> Comparison:
    """The runs in `folders`, the baseline first. ConfigError where they are not finished, or not of the same users."""
    runs = read_runs(folders)
    tables = common(runs)
    sides = [side(name, run, table) for name, run, table in zip(names(runs), runs, tables, strict=True)]
    measured = {number for run in runs for number in run.measured_rounds}
    left_out = sorted(measured - {int(number) for number in tables[0]["round"].unique()})
    return Comparison(sides, compare_pairs(sides[0], sides[1:]), left_out)


def _row(one: Side, pair: Pair | None) -> dict[str, Any]:
    best = one.strongest
    identified, answered = best.count
    row: dict[str, Any] = {"run": one.name, "attack": best.attack, "arm": best.arm, "users": len(one.users)}
    row |= _figure("facial_similarity", best.likeness)
    row |= {"identified": identified, "answers": answered, **_figure("rank1", best.share)}
    row |= _changed(None if pair is None else pair.strongest)
    row |= {"accuracy": one.accuracy, "epsilon": one.epsilon, "epsilon_audited": one.epsilon_audited}
    return row | {"delta": one.delta}


def _changed(tested: Tested | None) -> dict[str, Any]:
    if tested is None:
        return {**_figure("difference", UNKNOWN), "p_similarity": None, "p_identified": None}
    likeness = tested.likeness
    return {**_figure("difference", likeness.difference), "p_similarity": likeness.p, "p_identified": tested.share.p}


def _figure(name: str, measured: Interval) -> dict[str, float | None]:
    ends = measured.as_json()
    return {name: ends["mean"], f"{name}_low": ends["low"], f"{name}_high": ends["high"]}


def _concluded(pair: Pair | None) -> dict[str, Any]:
    if pair is None:
        return {}
    attacks = [{"attack": one.before.attack, **_changed(one)} for one in pair.by_attack]
    differing = {key: [before, after] for key, before, after in pair.settings}
    return {"kind": pair.kind, "conclusion": conclusion(pair), "differs": differing, "by_attack": attacks}
