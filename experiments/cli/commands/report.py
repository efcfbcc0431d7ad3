"""`fl-sim report`: the table and the report of an existing run, made anew."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.console import AsJson, Run, bars, config_of, messages, print_leakage
from fl_sim.config import ConfigError, load
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
    mlflow: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Write it as a run of MLflow too: a server, file:FOLDER or sqlite:///FILE."),
    ] = None,
    faces: Annotated[bool, typer.Option("--faces", help="With --mlflow: write the pictures of users, too.")] = False,
) -> None:
    """Measure an existing run again, and write its table and report anew.

    For example: fl-sim report runs/quickstart
    """
    from experiments.run import leakage
    from experiments.show import mlflow as tracking
    from experiments.show import tensorboard as events
    from experiments.show.report import write_report

    target = RunFolder(folder)
    if tensorboard is not None:
        events.check()
    if faces and mlflow is None:
        raise ConfigError("--faces says what --mlflow writes; give --mlflow URI with it")
    settings = load(config_of(target))
    client = None if mlflow is None else tracking.connect(mlflow)
    with bars() as progress:
        table = leakage.measure(target, settings, lambda done, total: progress("leakage", done, total))
    page = write_report(target, with_private_photos)
    print_leakage(target, table, as_json)
    messages.print(f"report: {page}")
    if tensorboard is not None:
        messages.print(f"curves and pictures: {events.write(target, tensorboard)}; tensorboard --logdir {tensorboard}")
    if client is not None:
        messages.print(f"MLflow: run {tracking.write(target, client, faces)} of {tracking.EXPERIMENT} at {mlflow}")
