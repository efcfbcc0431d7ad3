"""Engines carry messages between one ServerApp and many ClientApps: the same apps, the same results.

`run(name, server_app, client_app, num_users)` returns when the ServerApp has; it raises what that raises.
"""

from collections.abc import Callable
from typing import Literal

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

Engine = Callable[[ServerApp, ClientApp, int], None]


def run(name: Literal["simulation", "inprocess"], server_app: ServerApp, client_app: ClientApp, num_users: int) -> None:
    """Run `server_app` against `num_users` clients, partitions 0 to num_users - 1."""
    engine: Engine
    if name == "simulation":
        from fl_sim.engines.simulation import run as engine
    else:
        from fl_sim.engines.inprocess import run as engine
    engine(server_app, client_app, num_users)
