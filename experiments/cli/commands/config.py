"""`fl-sim config`: every key that a run takes."""

import json
import shutil
from typing import Annotated

import typer

from experiments.cli import listing
from experiments.cli.console import AsJson

Prefix = Annotated[
    str, typer.Argument(metavar="[PREFIX]", help="Such as dataset, attacks.user_diffusion, defenses.clip, or one key.")
]


def config(
    prefix: Prefix = "",
    as_toml: Annotated[
        bool, typer.Option("--toml", help="Print a commented file to fill in, for fl-sim run --config.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the keys of a run: what each takes, its default and its meaning; those of attacks and defenses too.

    For example: fl-sim config dataset; fl-sim config attacks.user_diffusion; fl-sim config --toml > mine.toml
    """
    if as_json:
        print(json.dumps([listing.as_json(key) for key in listing.listed(prefix)], indent=2))
    elif as_toml:
        print(listing.template(prefix), end="")
    else:
        width = min(shutil.get_terminal_size().columns, 100)
        print("\n\n".join(listing.entry(key, width) for key in listing.listed(prefix)))
