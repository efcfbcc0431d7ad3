"""Flower's simulation engine: clients as Ray actors in a private cluster that lives as long as the run."""

import logging
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

OBJECT_STORE = 256 * 1024**2  # bytes; holds the messages under way, one an actor. Ray's default is 30 % of memory


def run(server_app: ServerApp, client_app: ClientApp, num_users: int) -> None:
    """Run `server_app` against `num_users` simulated nodes; raises what it raises.

    Flower runs the ServerApp in a thread of its own. If this one is interrupted (Ctrl-C), that one must
    not go on waiting for replies which nobody will send.
    """
    stopped = threading.Event()
    stoppable = ServerApp()

    @stoppable.main()
    def main(grid: Grid, context: Context) -> None:
        pull = grid.pull_messages

        def pull_unless_stopped(message_ids: Iterable[str]) -> Iterable[Message]:
            if stopped.is_set():
                raise SystemExit  # ends the thread quietly, through the `finally` blocks of the ServerApp
            return pull(message_ids)

        grid.pull_messages = pull_unless_stopped  # type: ignore[method-assign]
        server_app(grid, context)

    with _quiet(), tempfile.TemporaryDirectory(prefix="fl", ignore_cleanup_errors=True) as folder:
        from flwr.simulation import run_simulation

        init_args: dict[str, Any] = {
            "address": "local",  # never a cluster that happens to run on this machine
            "_temp_dir": folder,  # its sockets lie below: a path of at most about 40 characters
            "object_store_memory": OBJECT_STORE,
            "include_dashboard": False,
            "log_to_driver": False,
            "logging_level": logging.ERROR,
        }
        try:
            run_simulation(
                server_app=stoppable,
                client_app=client_app,
                num_supernodes=num_users,
                backend_config={"init_args": init_args, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
            )
        except BaseException:
            stopped.set()
            raise


@contextmanager
def _quiet() -> Iterator[None]:
    """No telemetry, and Flower's log from errors upwards; the environment is as before afterwards."""
    from flwr.supercore import telemetry

    before = dict(os.environ)
    os.environ.update(FLWR_TELEMETRY_ENABLED="0", FLWR_DISABLE_UPDATE_CHECK="1", RAY_USAGE_STATS_ENABLED="0")
    telemetry.FLWR_TELEMETRY_ENABLED = "0"  # it read the environment when it was imported
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        os.environ.clear()
        os.environ.update(before)
