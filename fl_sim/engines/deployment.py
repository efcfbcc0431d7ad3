"""A running SuperLink: the same ServerApp and ClientApps, on the machines where its SuperNodes are.

What is sent there is an app without code, which names the apps of this project and holds the whole config as text:
fl-sim is installed where they run. The ServerApp writes the captures, so its machine must see the run folder under
the same path, or be this one.
"""

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import tomli_w
from flwr.serverapp import Grid

from fl_sim.config import Config, dump
from fl_sim.deployment import DeploymentError
from fl_sim.deployment.flower import Connection
from fl_sim.runs import RunFolder, versions, write_atomically

Progress = Callable[[int, int], None]  # (finished rounds, all rounds)
LOOK = 0.5  # seconds between two looks at what the ServerApp has written
SETTLE = 300.0  # seconds that the SuperLink may take to call a run finished after its log has ended

# flwr 1.41 ends the process of a run 5 seconds after its apps have returned, also where it could not yet tell the
# SuperLink so: on a busy machine, or while it removes what it has installed for the run. A completed run is then
# recorded as failed, with this.
UNTOLD = "No heartbeat received from the task"


def run(config: Config, folder: RunFolder, connection: Connection, progress: Progress | None = None) -> str:
    """Run the federation of `config` on the SuperLink; Flower's id of the run. DeploymentError if it does not complete.

    If this process is stopped, so is the run.
    """
    rounds = config.federation.rounds
    with _app(config, folder) as app:
        run_id = str(connection.ask("run", str(app))["run-id"])
    log = folder.root / "federation.log"
    write_atomically(log, b"")
    try:
        with log.open("ab") as file:
            _follow(connection.log(run_id, file), folder, lambda done: progress(done, rounds) if progress else None)
        status = _settled(connection, run_id)
    except BaseException:
        with suppress(DeploymentError):  # it may have ended meanwhile, or the SuperLink has
            connection.ask("stop", run_id)
        raise
    untold = status.get("status-details") == UNTOLD and _finished(folder) == rounds
    if status["status"] != "finished:completed" and not untold:
        reason = _error(log) or status.get("status-details") or "Flower gives no reason"
        raise DeploymentError(f"Flower's run {run_id} ended as {status['status']}: {reason} (all of it in {log})")
    return run_id


def await_users(grid: Grid, users: int, timeout: float) -> None:
    """Wait until the SuperNodes of all users are connected: rounds without some of them would be other rounds.

    DeploymentError after `timeout` seconds, or if there are more.
    """
    deadline = time.monotonic() + timeout
    while (found := len(list(grid.get_node_ids()))) < users and time.monotonic() < deadline:
        time.sleep(1)
    if found != users:
        raise DeploymentError(
            f"{found} SuperNodes are connected, dataset.users is {users}; give -o dataset.users={found}, or start "
            f"as many as there are users (fl-sim up --users {users})"
        )


def _follow(following: "subprocess.Popen[bytes]", folder: RunFolder, finished: Callable[[int], None]) -> None:
    """Tell `finished` how many rounds are, whenever that changes, until the process `following` ends."""
    told = -1
    try:
        while following.poll() is None:
            done = _finished(folder)
            if done != told:
                finished(done)
            told = done
            time.sleep(LOOK)
    finally:
        following.terminate()
        following.wait()


def _finished(folder: RunFolder) -> int:
    """How many rounds are finished: the ServerApp writes a row for each."""
    return len(pd.read_parquet(folder.rounds, columns=["round"])) if folder.rounds.exists() else 0


@contextmanager
def _app(config: Config, folder: RunFolder) -> Iterator[Path]:
    """A folder with the app to send."""
    app = {
        "publisher": "fl-sim",
        "components": {"serverapp": "experiments.run.federation:app", "clientapp": "clients.app:app"},
        "config": {"toml": dump(config), "runs": str(folder.root.resolve().parent)},
    }
    project = {"name": "fl-sim-run", "version": versions()["fl-sim"], "dependencies": []}
    with tempfile.TemporaryDirectory(prefix="fl-sim-") as path:
        text = tomli_w.dumps({"project": project, "tool": {"flwr": {"app": app}}})
        Path(path, "pyproject.toml").write_text(text, encoding="utf-8")
        yield Path(path)


def _settled(connection: Connection, run_id: str) -> Any:
    """The final status of a run whose log has ended."""
    deadline = time.monotonic() + SETTLE
    while not (status := connection.status(run_id))["status"].startswith("finished"):
        if time.monotonic() > deadline:
            raise DeploymentError(f"Flower's run {run_id} has no log any more, but is {status['status']}")
        time.sleep(LOOK)
    return status


def _error(log: Path) -> str:
    """The exception with which the ServerApp ended, in its own words; empty if there is none in the log."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    raised = [line.strip() for line in lines if line[:1].isalpha() and ("Error: " in line or "Exception: " in line)]
    return raised[-1].removeprefix(f"{DeploymentError.__module__}.DeploymentError: ") if raised else ""
