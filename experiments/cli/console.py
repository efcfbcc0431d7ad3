"""What all commands share: their common options, progress on stderr, results on stdout."""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from experiments.show.answer import Answer
from fl_sim.runs import RunFolder, read_manifest

messages = Console(stderr=True, highlight=False)
SECONDS_BETWEEN_LINES = 20  # of progress where there is no terminal to draw bars in


def _complete_key(context: typer.Context, incomplete: str) -> list[str]:
    """What the shell offers behind -o: keys, of a sweep those of its base."""
    from experiments.cli.listing import listed

    before = "base." if context.info_name == "sweep" else ""
    found = (f"{before}{key.name}=" for key in listed() if not key.name.startswith("defenses."))
    return [key for key in found if key.startswith(incomplete)]


ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="TOML file with the configuration; defaults where it is silent.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "-o",
        "--override",
        metavar="KEY=VALUE",
        help="Set one key, such as dataset.users=16; fl-sim config lists them. Repeatable.",
        autocompletion=_complete_key,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/quickstart.")]


def note(sentence: str) -> None:
    messages.print(f"note: {sentence}", soft_wrap=True, markup=False)  # sentences name [tables]


@contextmanager
def bars() -> Iterator[Callable[[str, int, int], None]]:
    """A progress callback (stage, done, total): a bar a stage in a terminal, else a line now and then; on stderr."""
    if not messages.is_terminal:
        yield _lines()
        return
    columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=messages) as drawn:
        tasks: dict[str, TaskID] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = drawn.add_task(stage, total=total)
            drawn.update(tasks[stage], completed=done, total=total)

        yield progress


def _lines() -> Callable[[str, int, int], None]:
    told: dict[str, float] = {}

    def progress(stage: str, done: int, total: int) -> None:
        if done == total or time.monotonic() - told.get(stage, -math.inf) > SECONDS_BETWEEN_LINES:
            told[stage] = time.monotonic()
            messages.print(f"{stage}: {done}/{total}")

    return progress


def finish(folder: RunFolder, outcome: Any, as_json: bool, seconds: float) -> None:
    print_answer(outcome.said, as_json)
    for line in [] if as_json else _privacy(folder):
        messages.print(line, soft_wrap=True)
    messages.print(f"report: {outcome.report}   ({seconds:.0f} s)")
    for problem in outcome.problems:
        messages.print(f"[red]failed:[/] {problem}", soft_wrap=True)
    if outcome.problems:
        raise typer.Exit(1)


def _privacy(folder: RunFolder) -> list[str]:
    from experiments.statistics.summary import privacy_lines

    told = read_manifest(folder).get("threat_model", {}).get("privacy")  # absent from runs of older versions
    return privacy_lines(told) if told else []


NOTHING: dict[str, Any] = {"verdict": None, "findings": [], "overall": {}, "rounds": {}}  # figures where none is known


def print_answer(said: Answer | None, as_json: bool) -> None:
    """The verdict and the figures of a run; None: nothing was measured."""
    if as_json:
        print(json.dumps(NOTHING if said is None else said.figures))
    else:
        text = "Nothing was measured: no attack has left a reconstruction." if said is None else said.text
        Console(highlight=False).print(Text.from_ansi(text), soft_wrap=True)


def print_facts(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(facts))
    else:
        for name, value in facts.items():
            print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
