"""`fl-sim train-prior`: the diffusion prior of the attacks."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.console import AsJson, ConfigFile, Overrides, bars, messages, print_facts
from fl_sim.config import ConfigError, load

CHANNELS = "24,48,96,128"


def train_prior(
    out: Annotated[Path, typer.Option(help="Folder for the prior; given again, a stopped training goes on.")],
    config: ConfigFile = None,
    override: Overrides = None,
    photos: Annotated[int, typer.Option(min=64, help="Photos to train on, where the dataset has that many.")] = 36_000,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 8000,
    batch_size: Annotated[int, typer.Option(min=1, help="Photos per step.")] = 16,
    learning_rate: Annotated[float, typer.Option(min=0, help="Learning rate of the optimiser.")] = 5e-4,
    start: Annotated[
        str | None,
        typer.Option(help="Begin with the weights of this prior (a shipped name or a folder), of the same image size."),
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option(
            help=f"Of the U-Net's levels, finest first; multiples of 8, the last of 32. Without --start: {CHANNELS}."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Everything random follows from it.")] = 0,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 means one per core.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train a diffusion prior on people who are never users: synthetic ones, or a dataset's public people.

    It learns what a photo of a person may look like, given a damaged mean face or none.
    """
    from experiments.train import commands

    settings = load(config, override or [])
    if start is not None and channels is not None:
        raise ConfigError(
            f"--channels {channels} and --start {start} given; a prior brings its network: give one of the two"
        )
    network = _channels(channels or CHANNELS, settings.dataset.image_size) if start is None else start
    options = {
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
    }
    with bars() as progress:
        facts = commands.prior(settings.dataset, out, photos, network, options, seed, threads, progress)
    print_facts(facts, as_json)
    messages.print(f"prior: {out}; use it with -o attacks.user_diffusion.prior={out}")


def _channels(text: str, size: int) -> tuple[int, ...]:
    """The numbers in `text`. ConfigError where no U-Net for images of `size` pixels has them."""
    parts = text.split(",")
    numbers = tuple(int(part) for part in parts if part.strip().isdecimal())
    fine = len(numbers) == len(parts) and all(n > 0 and n % 8 == 0 for n in numbers) and numbers[-1] % 32 == 0
    if not fine or size % 2 ** (len(numbers) - 1):
        raise ConfigError(
            f"--channels {text} given; give a number for each level such as 24,48,96,128: multiples of 8, the last one "
            f"of 32, and at most as many levels as {size} px can be halved evenly, plus one"
        )
    return numbers
