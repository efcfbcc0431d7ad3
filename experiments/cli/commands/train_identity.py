"""`fl-sim train-identity`: the judge of synthetic faces."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.console import AsJson, bars, print_facts


def train_identity(
    out: Annotated[Path, typer.Option(help="Safetensors file for the encoder and its attribute classifiers.")],
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 600,
    seed: Annotated[int, typer.Option(min=0, help="Everything random follows from it.")] = 0,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 means one per core.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train the face recogniser and the attribute classifiers for synthetic faces."""
    from experiments.train import commands

    with bars() as progress:
        facts = commands.identity(out, steps, seed, threads, progress)
    print_facts(facts, as_json)
