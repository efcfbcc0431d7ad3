"""Engines carry messages between one ServerApp and many ClientApps: the same apps, the same results.

`run(name, server_app, client_app, num_users)` returns when the ServerApp has; it raises what that raises.
"""

import math
from typing import Literal

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fl_sim.config import ConfigError


class Stopped(SystemExit):
    """How an engine ends its ServerApp: quietly, through its `finally` blocks."""


def run(
    name: Literal["simulation", "inprocess"],
    server_app: ServerApp,
    client_app: ClientApp,
    num_users: int,
    timeout: float = math.inf,
) -> None:
    """Run `server_app` against `num_users` clients, partitions 0 to num_users - 1.

    `timeout` is the most seconds that a client may take for a message, where one can be stopped. ConfigError if
    something in the ServerApp calls `sys.exit`, with whatever code: rounds are missing then.
    """
    server_app = never_exiting(server_app)
    if name == "simulation":
        from fl_sim.engines import simulation

        simulation.run(server_app, client_app, num_users, timeout)
    else:
        from fl_sim.engines import inprocess

        inprocess.run(server_app, client_app, num_users)


def never_exiting(server_app: ServerApp) -> ServerApp:
    """`server_app`, whose exit is an error.

    Flower's simulation takes an exit for the end of the run, its deployment waits a minute for a heartbeat (flwr 1.41).
    """
    whole = ServerApp()

    @whole.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            server_app(grid, context)
        except Stopped:
            raise
        except SystemExit as end:
            raise ConfigError(
                f"something in the ServerApp called sys.exit({end.code!r}) before the run's end; a plug-in (a model, a "
                "dataset, a strategy) must raise an exception instead"
            ) from end

    return whole
