"""The command line: `fl-sim run | attack | report | faces | doctor`, and `train-prior | train-identity | train-model |
train-attributes`.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

# Before Flower and Ray are imported: nothing of a privacy experiment is reported home.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from fl_sim.config import Config, ConfigError, load
from fl_sim.runs import RunFolder

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Measure how much of a person leaks from federated learning.\n\n"
    "Start with `fl-sim run`: 8 users, 3 rounds, every update attacked; then open runs/quickstart/report.html.",
)
messages = Console(stderr=True, highlight=False)
SECONDS_BETWEEN_LINES = 20  # of progress where there is no terminal to draw bars in

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="TOML file with the configuration; defaults where it is silent.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("-o", "--override", metavar="KEY=VALUE", help="Set one key, such as dataset.users=16. Repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/quickstart.")]


@app.command()
def run(
    config: ConfigFile = None,
    override: Overrides = None,
    engine: Annotated[
        str | None, typer.Option(help="simulation (Flower's, on Ray), inprocess, or deployment.", metavar="ENGINE")
    ] = None,
    workers: Annotated[str | None, typer.Option(help="Attack workers: ray, local, or none.", metavar="BACKEND")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Train a federation under attack, measure what leaked, write the report. Resumes a stopped run."""
    if engine == "deployment":
        raise ConfigError(
            "engine 'deployment' is driven by Flower itself: `flwr run . CONNECTION`, then `fl-sim attack runs/NAME`; "
            "fl-sim run starts simulation or inprocess"
        )
    more = [f"federation.engine={engine}"] if engine else []
    more += [f"workers.backend={workers}"] if workers else []
    settings = load(config, [*(override or []), *more])
    from experiments import pipeline

    folder = RunFolder(runs / settings.name)
    started = time.monotonic()
    with _bars() as progress:
        outcome = pipeline.run(settings, folder, progress, _note)
    _finish(folder, outcome, settings, as_json, time.monotonic() - started)


@app.command()
def attack(
    folder: Run,
    override: Overrides = None,
    workers: Annotated[str | None, typer.Option(help="Attack workers: ray or local.", metavar="BACKEND")] = None,
    force: Annotated[bool, typer.Option(help="Replace results that the same label has with other settings.")] = False,
    as_json: AsJson = False,
) -> None:
    """Attack the captures of an existing run again, with another attack or prior.

    For example: fl-sim attack runs/quickstart -o attacks.long.name=user_diffusion -o attacks.long.steps=400
    """
    target = RunFolder(folder)
    more = [f"workers.backend={workers}"] if workers else []
    settings = load(_config_of(target), [*(override or []), *more])
    from experiments import pipeline

    started = time.monotonic()
    with _bars() as progress:
        outcome = pipeline.attack(target, settings, force, progress, _note)
    _finish(target, outcome, settings, as_json, time.monotonic() - started)


@app.command()
def report(
    folder: Run,
    as_json: AsJson = False,
    with_private_photos: Annotated[
        bool, typer.Option(help="Embed private photos of real people, which are left out by default.")
    ] = False,
) -> None:
    """Measure an existing run again, and write its table and report anew."""
    from experiments import leakage
    from experiments.report import write_report

    target = RunFolder(folder)
    settings = load(_config_of(target))
    with _bars() as progress:
        table = leakage.measure(target, settings, lambda done, total: progress("leakage", done, total))
    page = write_report(target, with_private_photos)
    _print_leakage(table, as_json)
    messages.print(f"report: {page}")


@app.command("train-prior")
def train_prior(
    out: Annotated[Path, typer.Option(help="Folder for the prior; given again, a stopped training goes on.")],
    config: ConfigFile = None,
    override: Overrides = None,
    photos: Annotated[int, typer.Option(min=64, help="Photos to train on, where the dataset has that many.")] = 20_000,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of 16 photos.")] = 8000,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    learning_rate: Annotated[float, typer.Option(min=0)] = 5e-4,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 means one a core.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train a diffusion prior on people who are never users: synthetic ones, or a dataset's public people."""
    from fl_sim import training

    settings = load(config, override or [])
    options = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate}
    with _bars() as progress:
        facts = training.prior(settings.dataset, out, photos, options, seed, threads, progress)
    _print_facts(facts, as_json)
    messages.print(f"prior: {out}; use it with -o attacks.user_diffusion.prior={out}")


@app.command("train-identity")
def train_identity(
    out: Annotated[Path, typer.Option(help="Safetensors file for the encoder and its attribute classifiers.")],
    steps: Annotated[int, typer.Option(min=1)] = 600,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 means one a core.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train the face recogniser and the attribute classifiers for synthetic faces."""
    from fl_sim import training

    with _bars() as progress:
        facts = training.identity(out, steps, seed, threads, progress)
    _print_facts(facts, as_json)


@app.command("train-model")
def train_model(
    out: Annotated[Path, typer.Option(help="Safetensors file for the weights.")],
    config: ConfigFile = None,
    override: Overrides = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of 32 photos.")] = 2000,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 means one a core.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train the model under attack on people who are never users, to attack a federation that has learnt much already.

    For example: fl-sim train-model --out smile.safetensors -o dataset.name=folder -o dataset.root=FACES
    """
    from fl_sim import training

    settings = load(config, override or [])
    with _bars() as progress:
        facts = training.model(settings, out, steps, threads, progress)
    _print_facts(facts, as_json)
    messages.print(f"model: {out}; use it with -o model.weights={out}")


@app.command("train-attributes")
def train_attributes(
    out: Annotated[Path, typer.Option(help="Safetensors file for the classifiers.")],
    config: ConfigFile = None,
    override: Overrides = None,
    attributes: Annotated[
        str, typer.Option(help="Binary attributes of the dataset, with commas between.")
    ] = "eyeglasses,smiling,male,young",
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of 64 photos.")] = 600,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 means one a core.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train attribute classifiers for photographs on a dataset's public people, to judge reconstructions.

    For example: fl-sim train-attributes --out attributes.safetensors -o dataset.name=folder -o dataset.root=FACES
    """
    from fl_sim import training

    settings, names = load(config, override or []), [name.strip() for name in attributes.split(",") if name.strip()]
    with _bars() as progress:
        facts = training.attributes(settings, out, names, steps, threads, progress)
    _print_facts(facts, as_json)
    messages.print(
        f"classifiers: {out}; use them with -o leakage.attributes=trained -o leakage.attributes_weights={out}"
    )


@app.command()
def faces(
    out: Annotated[Path, typer.Option(help="PNG file to write.")] = Path("faces.png"),
    config: ConfigFile = None,
    override: Overrides = None,
    users: Annotated[int, typer.Option(min=1, help="Rows.")] = 8,
    photos: Annotated[int, typer.Option(min=1, help="Columns.")] = 8,
) -> None:
    """Write a sheet of a dataset's users as PNG: a row a user, a column a private photo."""
    from clients.datasets import open_dataset
    from clients.sheet import draw_sheet

    settings = load(config, override or [])
    draw_sheet(open_dataset(settings.dataset, settings.seed), users, photos).save(out)
    print(out)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Tell what is installed and reachable here, and what to do about what is not."""
    from fl_sim.doctor import examine

    findings = examine()
    if as_json:
        print(json.dumps([finding.__dict__ for finding in findings], indent=2))
    else:
        for finding in findings:
            mark = {"ok": "[green]ok[/]     ", "optional": "[yellow]absent[/] ", "broken": "[red]broken[/] "}
            remedy = f"  -> {finding.remedy}" if finding.remedy else ""
            line = f"{mark[finding.state]} {finding.subject}: {finding.found}{remedy}"
            Console(highlight=False).print(line, soft_wrap=True)
    if any(finding.state == "broken" for finding in findings):
        raise typer.Exit(1)


def main() -> None:
    """Entry point: every foreseen mistake ends in one sentence and an exit code, never in a traceback."""
    try:
        app()
    except (ConfigError, ValueError) as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail("stopped; give the same command again to go on from here", 130)
    except OSError as error:
        _fail(
            f"{error.strerror or error}: {error.filename or ''}; free or mend it, then give the same command again", 1
        )


def _fail(sentence: str, code: int) -> None:
    messages.print(f"[red]error:[/] {sentence}", soft_wrap=True)
    sys.exit(code)


def _note(sentence: str) -> None:
    messages.print(f"note: {sentence}", soft_wrap=True, markup=False)  # sentences name [tables]


def _config_of(folder: RunFolder) -> Path:
    if not folder.config.exists():
        raise ConfigError(f"{folder.root} is no run folder (it has no config.toml); give one such as runs/quickstart")
    return folder.config


@contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None]]:
    """A progress callback (stage, done, total): a bar a stage in a terminal, else a line now and then; on stderr."""
    if not messages.is_terminal:
        yield _lines()
        return
    columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=messages) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield progress


def _lines() -> Callable[[str, int, int], None]:
    told: dict[str, float] = {}

    def progress(stage: str, done: int, total: int) -> None:
        if done == total or time.monotonic() - told.get(stage, -math.inf) > SECONDS_BETWEEN_LINES:
            told[stage] = time.monotonic()
            messages.print(f"{stage}: {done}/{total}")

    return progress


def _finish(folder: RunFolder, outcome: Any, config: Config, as_json: bool, seconds: float) -> None:
    if len(outcome.table):
        _print_leakage(outcome.table, as_json)
    elif as_json:
        print(json.dumps({"overall": {}, "rounds": {}}))
    messages.print(f"report: {outcome.report}   ({seconds:.0f} s)")
    for problem in outcome.problems:
        messages.print(f"[red]failed:[/] {problem}", soft_wrap=True)
    if outcome.problems:
        raise typer.Exit(1)


def _print_leakage(table: Any, as_json: bool) -> None:
    from experiments.leakage import aggregate
    from experiments.summary import leakage_tables

    figures = aggregate(table)
    if as_json:
        print(json.dumps(figures))
    else:
        Console(highlight=False).print(leakage_tables(figures))


def _print_facts(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(facts))
    else:
        for name, value in facts.items():
            print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")


def entry() -> None:
    """`main` for a process of its own, which ends at once after a failure.

    Flower's simulation leaves threads that wait for replies until the round's timeout, if Ray dies under it.
    """
    try:
        main()
    except SystemExit as end:
        if end.code:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else 1)
        raise


if __name__ == "__main__":
    entry()
