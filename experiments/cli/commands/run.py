"""`fl-sim run`: a federation under attack, from training to report."""

import time
from pathlib import Path
from typing import Annotated

import typer

from experiments.cli import early
from experiments.cli.console import AsJson, ConfigFile, Overrides, bars, finish, note
from fl_sim.config import ConfigError, load
from fl_sim.runs import RunFolder


def run(
    config: ConfigFile = None,
    override: Overrides = None,
    engine: Annotated[
        str | None, typer.Option(help="simulation (Flower's, on Ray), inprocess, or deployment.", metavar="ENGINE")
    ] = None,
    superlink: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT, or a connection of Flower's config.toml; without it what fl-sim up has started.",
            metavar="ADDRESS",
        ),
    ] = None,
    workers: Annotated[
        str | None, typer.Option(help="Attack workers: ray, local, inprocess, or none.", metavar="BACKEND")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Train a federation under attack, measure what leaked, write the report.

    Given again, a stopped run goes on; a finished one only tells its result.
    """
    more = [f"federation.engine={engine}"] if engine else []
    more += [f"workers.backend={workers}"] if workers else []
    settings = load(config, [*(override or []), *more])
    folder = RunFolder(runs / settings.name)
    early.check_names(settings)
    early.check_run(settings, folder)
    connection = None
    if settings.federation.engine == "deployment":
        from fl_sim.deployment.flower import find

        connection = find(superlink, settings.dataset.users)
    elif superlink is not None:
        raise ConfigError(
            f"--superlink is for --engine deployment; this run's engine is {settings.federation.engine!r}"
        )
    from experiments.run import pipeline

    started = time.monotonic()
    with bars() as progress:
        outcome = pipeline.run(settings, folder, progress, note, connection)
    finish(folder, outcome, as_json, time.monotonic() - started)
