"""`fl-sim report`: the table and the report of an existing run, made anew."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.console import AsJson, Run, bars, config_of, messages, print_leakage
from fl_sim.config import load
from fl_sim.runs import RunFolder


def report(
    folder: Run,
    as_json: AsJson = False,
    with_private_photos: Annotated[
        bool,
        typer.Option(
            "--with-private-photos", help="Embed private photos of real people, which are left out by default."
        ),
    ] = False,
    tensorboard: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write curves and reconstructions for TensorBoard too; never a private photo."
        ),
    ] = None,
) -> None:
    """Measure an existing run again, and write its table and report anew.

    For example: fl-sim report runs/quickstart
    """
    from experiments.run import leakage
    from experiments.show import tensorboard as events
    from experiments.show.report import write_report

    target = RunFolder(folder)
    if tensorboard is not None:
        events.check()
    settings = load(config_of(target))
    with bars() as progress:
        table = leakage.measure(target, settings, lambda done, total: progress("leakage", done, total))
    page = write_report(target, with_private_photos)
    print_leakage(target, table, as_json)
    messages.print(f"report: {page}")
    if tensorboard is not None:
        messages.print(f"curves and pictures: {events.write(target, tensorboard)}; tensorboard --logdir {tensorboard}")
