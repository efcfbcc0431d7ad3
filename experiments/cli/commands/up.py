"""`fl-sim up`: a Flower deployment on this machine."""

from typing import Annotated

import typer

from experiments.cli.console import messages
from fl_sim.deployment import state_folder


def up(
    users: Annotated[int, typer.Option(min=1, help="SuperNodes to start, one per user.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the SuperLink, on 127.0.0.1.")] = 8000,
) -> None:
    """Start a SuperLink and SuperNodes on loopback, with TLS and node authentication; they run until fl-sim down."""
    from fl_sim.deployment import native  # and so cryptography

    where = state_folder()
    deployment = native.up(where, users, port, lambda sentence: messages.print(sentence, soft_wrap=True))
    print(f"{users} SuperNodes are connected to {deployment.superlink}; keys and logs are in {where.root}")
    print(f"fl-sim run --engine deployment -o dataset.users={users}")
