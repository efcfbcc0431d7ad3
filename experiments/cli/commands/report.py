"""`fl-sim report`: what is known of an existing run, measured again where it has changed."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.console import AsJson, Run, bars, messages, print_answer
from experiments.show.answer import Answer, keep, kept, made_of
from fl_sim.config import ConfigError, load
from fl_sim.runs import RunFolder, config_of


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
    again: Annotated[
        bool, typer.Option("--again", help="Measure and write all anew, whether or not anything has changed.")
    ] = False,
    faces: Annotated[bool, typer.Option("--faces", help="With --mlflow: write the pictures of users, too.")] = False,
) -> None:
    """Tell what an existing run leaked; measure it again if captures, attacks or judges have changed.

    For example: fl-sim report runs/quickstart
    """
    target = RunFolder(folder)
    path = config_of(target)
    if faces and mlflow is None:
        raise ConfigError("--faces says what --mlflow writes; give --mlflow URI with it")
    client = None
    if tensorboard is not None:
        from experiments.show import tensorboard as events

        events.check()
    if mlflow is not None:
        from experiments.show import mlflow as tracking

        client = tracking.connect(mlflow)
    said = None if again else _unchanged(target, with_private_photos)
    if said is None:
        from experiments.run import pipeline

        with bars() as progress:
            _, _, said = pipeline.judge(target, load(path), progress, with_private_photos)
    print_answer(said, as_json)
    messages.print(f"report: {target.report}")
    if tensorboard is not None:
        messages.print(f"curves and pictures: {events.write(target, tensorboard)}; tensorboard --logdir {tensorboard}")
    if client is not None:
        messages.print(f"MLflow: run {tracking.write(target, client, faces)} of {tracking.EXPERIMENT} at {mlflow}")


def _unchanged(run: RunFolder, with_private_photos: bool) -> Answer | None:
    """The answer that still holds, after the page was written with or without private photos as asked; else None."""
    found = kept(run)
    if found is None:
        return None
    said, shown = found
    if shown != with_private_photos:
        from experiments.show.report import write_report

        made = made_of(run, load(run.config).leakage)
        write_report(run, with_private_photos)
        keep(run, said, made, with_private_photos)
    return said
