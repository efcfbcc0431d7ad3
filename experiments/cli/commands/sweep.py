"""`fl-sim sweep` and `fl-sim frontier`: many runs side by side, and what defenses buy and cost in them."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from experiments.cli import early
from experiments.cli.console import AsJson, Overrides, bars, messages, note
from fl_sim.config import ConfigError

Study = Annotated[str, typer.Argument(metavar="SWEEP", help="A TOML file, or a shipped study such as defenses_quick.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a sweep, such as runs/defenses_quick.")]


def sweep(
    study: Study,
    override: Overrides = None,
    workers: Annotated[
        str, typer.Option(help="ray: a cell per CPU (of RAY_ADDRESS, or this machine); local: one after the other.")
    ] = "ray",
    runs: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Run a grid of defenses, attacks and seeds, and draw its frontier. Resumes a stopped sweep.

    For example: fl-sim sweep defenses_quick -o base.dataset.users=8
    """
    if workers not in {"ray", "local"}:
        raise ConfigError(f"--workers is {workers!r}; choose ray or local")
    early.check_study(study, override or [])
    from experiments.plan.study import open_study
    from experiments.studies import runner
    from experiments.studies import sweep as sweeping

    def say(sentence: str) -> None:
        messages.print(sentence, soft_wrap=True, markup=False)

    started = time.monotonic()
    name, content = open_study(study, override or [])
    sweeping.check(name, content)
    with bars() as progress:
        outcome = runner.run(
            name,
            content,
            runs,
            "sweep",
            sweeping.rows,
            workers,  # type: ignore[arg-type]
            progress,
            note,
            say,
        )
    if len(outcome.table):
        _draw(outcome.folder, as_json)
    elif as_json:
        print("[]")
    messages.print(f"table: {outcome.folder / 'sweep.parquet'}   ({time.monotonic() - started:.0f} s)")
    if outcome.problems:
        raise typer.Exit(1)


def frontier(folder: Folder, as_json: AsJson = False) -> None:
    """Draw leakage against utility and against epsilon for a finished sweep: DIR/frontier.html.

    For example: fl-sim frontier runs/defenses_quick
    """
    _draw(folder, as_json)


def _draw(folder: Path, as_json: bool) -> None:
    from experiments.show.frontier import rows, summary, write_frontier
    from experiments.show.frontier.answers import answers

    page, points = write_frontier(folder)
    if as_json:
        print(json.dumps(rows(points)))
    else:
        console = Console(highlight=False)
        console.print(summary(points))
        console.print(answers(points).headline, markup=False, soft_wrap=True)
    messages.print(f"frontier: {page}")
