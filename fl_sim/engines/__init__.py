"""Engines carry messages between one ServerApp and many ClientApps: the same apps, the same results.

`run(name, server_app, client_app, num_users)` returns when the ServerApp has; it raises what that raises.
"""

import math
from typing import Literal

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp


def run(
    name: Literal["simulation", "inprocess"],
    server_app: ServerApp,
    client_app: ClientApp,
    num_users: int,
    timeout: float = math.inf,
) -> None:
    """Run `server_app` against `num_users` clients, partitions 0 to num_users - 1.

    `timeout` is the most seconds that a client may take for a message, where one can be stopped.
    """
    if name == "simulation":
        from fl_sim.engines import simulation

        simulation.run(server_app, client_app, num_users, timeout)
    else:
        from fl_sim.engines import inprocess

        inprocess.run(server_app, client_app, num_users)
