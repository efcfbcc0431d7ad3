"""`fl-sim train-attributes`: attribute classifiers for photographs."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.console import AsJson, ConfigFile, Overrides, bars, messages, print_facts
from fl_sim.config import load


def train_attributes(
    out: Annotated[Path, typer.Option(help="Safetensors file for the classifiers.")],
    config: ConfigFile = None,
    override: Overrides = None,
    attributes: Annotated[
        str, typer.Option(help="Binary attributes of the dataset, with commas between.")
    ] = "eyeglasses,smiling,male,young",
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of 64 photos.")] = 600,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 means one per core.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train attribute classifiers for photographs on a dataset's public people, to judge reconstructions.

    For example: fl-sim train-attributes --out attributes.safetensors -o dataset.name=folder -o dataset.root=FACES
    """
    from experiments.train import commands

    settings, names = load(config, override or []), [name.strip() for name in attributes.split(",") if name.strip()]
    with bars() as progress:
        facts = commands.attributes(settings, out, names, steps, threads, progress)
    print_facts(facts, as_json)
    messages.print(
        f"classifiers: {out}; use them with -o leakage.attributes=trained -o leakage.attributes_weights={out}"
    )
