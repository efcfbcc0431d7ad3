"""Flower's simulation engine: clients as Ray actors in a private cluster that lives as long as the run."""

import logging
import math
import os
import signal
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fl_sim import import_path
from fl_sim.engines import Stopped
from fl_sim.socket_folder import socket_folder

ATTEMPTS = 3  # Ray gives its own start 30 seconds, which a busy machine exceeds now and then
REPLACED = {"max_restarts": -1, "max_task_retries": 1}  # a client's process that dies, and the message it died of
LOOK = 0.01  # seconds between two looks at whether all nodes are registered
OBJECT_STORE = 256 * 1024**2  # bytes; holds the messages under way, one an actor. Ray's default is 30 % of memory


def run(server_app: ServerApp, client_app: ClientApp, num_users: int, timeout: float = math.inf) -> None:
    """Run `server_app` against `num_users` simulated nodes; raises what it raises.

    A client that takes longer than `timeout` seconds for a message is killed: it would keep its actor from the others,
    and Flower from ending. A process that died, by that or by itself, is replaced and asked once more.

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
                raise Stopped
            return pull(message_ids)

        grid.pull_messages = pull_unless_stopped  # type: ignore[method-assign]
        # Flower starts this thread first and registers the nodes then: round 1 must not be one of the first few users.
        while len(list(grid.get_node_ids())) < num_users:
            if stopped.wait(LOOK):
                return
        with suppress(Stopped):  # as it leaves the thread, its traceback may be printed
            server_app(grid, context)

    below = socket_folder()
    with _quiet(), tempfile.TemporaryDirectory(prefix="fl-", dir=below, ignore_cleanup_errors=True) as folder:
        from flwr.simulation import run_simulation

        _start_ray(folder)  # Flower uses the Ray it finds, and shuts it down at the end
        try:
            run_simulation(
                server_app=stoppable,
                client_app=client_app if math.isinf(timeout) else _Limited(client_app, timeout),
                num_supernodes=num_users,
                # Flower hands these to Ray as options of the actors, which it would not replace by itself.
                backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0, **REPLACED}},
            )
        except BaseException:
            stopped.set()
            raise


class _Limited(ClientApp):
    """`app`, in a process that the kernel ends if one message takes more than `seconds`."""

    def __init__(self, app: ClientApp, seconds: float) -> None:
        super().__init__()
        self._app, self._seconds = app, seconds

    def __call__(self, message: Message, context: Context) -> Message:
        signal.setitimer(signal.ITIMER_REAL, self._seconds)  # nobody handles SIGALRM: it kills, whatever hangs
        try:
            return self._app(message, context)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def _start_ray(folder: str) -> None:
    """A Ray cluster of this process alone, its files below `folder`. RuntimeError if one is running already."""
    import ray

    if ray.is_initialized():
        raise RuntimeError("Ray is already running in this process, and Flower would shut it down; call ray.shutdown()")
    # Workers inherit it: they must find what this process finds, a third party's dataset or model too.
    os.environ["PYTHONPATH"] = import_path.as_variable()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            ray.init(
                address="local",  # never a cluster that happens to run on this machine
                _temp_dir=folder,
                object_store_memory=OBJECT_STORE,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                job_config=import_path.ray_job(),
            )
            # Errors that Ray sees itself come on stdout whatever log_to_driver says, and one of them is an actor that
            # Flower ends, for Ray would try that call again. With --json, stdout must be JSON.
            ray._private.worker._worker_logs_enabled = False
            return
        except Exception:
            ray.shutdown()
            if attempt == ATTEMPTS:
                raise


@contextmanager
def _quiet() -> Iterator[None]:
    """No telemetry; no log, for what goes wrong in a client is in the index of the captures and what goes wrong
    elsewhere is raised. The environment is as before afterwards.
    """
    from flwr.supercore import telemetry

    before = dict(os.environ)
    os.environ.update(
        FLWR_TELEMETRY_ENABLED="0",
        FLWR_DISABLE_UPDATE_CHECK="1",
        RAY_USAGE_STATS_ENABLED="0",
        RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",  # the coming default; Ray warns where it is unset
    )
    telemetry.FLWR_TELEMETRY_ENABLED = "0"  # it read the environment when it was imported
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        os.environ.clear()
        os.environ.update(before)
