"""`fl-sim train-model`: the model under attack, trained before the federation starts."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.console import AsJson, ConfigFile, Overrides, bars, messages, print_facts
from fl_sim.config import load


def train_model(
    out: Annotated[Path, typer.Option(help="Safetensors file for the weights.")],
    config: ConfigFile = None,
    override: Overrides = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of 32 photos.")] = 2000,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 means one per core.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train the model under attack on people who are never users, to attack a federation that has learnt much already.

    For example: fl-sim train-model --out smile.safetensors -o dataset.name=folder -o dataset.root=FACES
    """
    from experiments.train import commands

    settings = load(config, override or [])
    with bars() as progress:
        facts = commands.model(settings, out, steps, threads, progress)
    print_facts(facts, as_json)
    messages.print(f"model: {out}; use it with -o model.weights={out}")
