"""`fl-sim train-prior`: the diffusion prior of the attacks."""

from pathlib import Path
from typing import Annotated

import typer

from fl_sim.config import load
from fl_sim.console import AsJson, ConfigFile, Overrides, bars, messages, print_facts


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
    with bars() as progress:
        facts = training.prior(settings.dataset, out, photos, options, seed, threads, progress)
    print_facts(facts, as_json)
    messages.print(f"prior: {out}; use it with -o attacks.user_diffusion.prior={out}")
