"""Run a study: its runs, its table, its plot.

    python -m experiments.studies STUDY [-o base.KEY=VALUE ...] [--runs runs] [--json]

What is finished is not done again, so a stopped study goes on, and a study with one more run or attack in it
does only that. `runs/STUDY` holds study.csv, study.parquet, study.png, study.toml and a run folder for each cell.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from experiments.evaluate.arms import heading
from experiments.plan.study import Study, open_study, shipped
from experiments.statistics.interval import Interval
from experiments.studies import plot, results, runner
from experiments.studies.real_faces import add_options, base_with_faces
from fl_sim.config import ConfigError
from fl_sim.runs import write_atomically

BESIDE = ("prior_only", "own_photo")  # arms beside each attack in the terminal


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.studies", description="Run a study.")
    parser.add_argument("study", help=f"a TOML file, or one of {', '.join(shipped())}")
    parser.add_argument("-o", "--override", action="append", default=[], metavar="KEY=VALUE", help="of the study")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    add_options(parser)
    given = parser.parse_args(arguments)
    try:
        name, study = open_study(given.study, given.override)
        study = study.model_copy(update={"base": base_with_faces(study.base, given)})
        outcome = runner.run(name, study, given.runs, "study", results.rows, "configured", _silent, _note, _say)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if len(outcome.table):
        _show(study, outcome, given.json)
    return 1 if outcome.problems else 0


def _silent(stage: str, done: int, total: int) -> None:
    """No bar: each run that ends is said."""


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _note(sentence: str) -> None:
    print(f"note: {sentence}", file=sys.stderr, flush=True)


def _show(study: Study, outcome: runner.Outcome, as_json: bool) -> None:
    table, folder = outcome.table, outcome.folder
    write_atomically(folder / "study.csv", table.to_csv(index=False).encode())
    write_atomically(folder / "study.png", plot.draw(study, table))
    if as_json:
        print(table.to_json(orient="records"))
    else:
        Console(highlight=False).print(_summary(study.title, json.loads(table.to_json(orient="records"))))
    print(f"table and plot: {folder}/study.csv, study.png", file=sys.stderr)


def _summary(title: str, rows: list[dict[str, Any]]) -> Table:
    """What the attack and the prior alone reach, per run and attack label."""
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
    for column in ("run", "round", "attack"):
        table.add_column(column, overflow="fold")
    for column in ("similarity [95 %]", "rank-1", *map(heading, BESIDE)):
        table.add_column(column, justify="right", no_wrap=True)
    arms = {(row["cell"], row["round"], row["label"], row["arm"]): row for row in rows}
    for (cell, server_round, label, arm), row in arms.items():
        if arm != "attack" or row["facial_similarity"] is None:
            continue
        beside = [arms.get((cell, server_round, label, other)) for other in BESIDE]
        levels = ["-" if one is None else f"{one['facial_similarity']:.2f}" for one in beside]
        around = Interval(*(row[f"facial_similarity{end}"] for end in ("", "_low", "_high"))).spelled()
        table.add_row(cell, str(server_round or "all"), label, around, f"{row['rank1']:.0%}", *levels)
    return table


if __name__ == "__main__":
    sys.exit(main())
