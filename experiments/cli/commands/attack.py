"""`fl-sim attack`: the captures of an existing run, attacked again."""

import time
from typing import Annotated

import typer

from experiments.cli import early
from experiments.cli.console import AsJson, Overrides, Run, bars, finish, note
from fl_sim.config import load
from fl_sim.runs import RunFolder, config_of


def attack(
    folder: Run,
    override: Overrides = None,
    workers: Annotated[
        str | None, typer.Option(help="Attack workers: ray, local or inprocess.", metavar="BACKEND")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Attack all anew and replace results, whatever settings or prior made them.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Attack the captures of an existing run again, with another attack or prior.

    For example: fl-sim attack runs/quickstart -o attacks.long.name=user_diffusion -o attacks.long.steps=400
    """
    target = RunFolder(folder)
    more = [f"workers.backend={workers}"] if workers else []
    settings = load(config_of(target), [*(override or []), *more])
    early.check_names(settings)
    early.check_attack(settings, target)
    from experiments.run import pipeline

    started = time.monotonic()
    with bars() as progress:
        outcome = pipeline.attack(target, settings, force, progress, note)
    finish(target, outcome, as_json, time.monotonic() - started)
