"""Processes that outlive the command that started them: started, recorded, found again, ended."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from fl_sim.deployment import State
from fl_sim.deployment.programs import environment
from fl_sim.runs import write_atomically

GRACE = 20.0  # seconds from the request to end until a process is killed


@dataclass(frozen=True)
class Process:
    """One process of a deployment, as deployment.json records it."""

    name: str
    pid: int
    command: list[str]

    def alive(self) -> bool:
        """Whether it runs still: under this pid, and with this command, for pids are used again."""
        arguments = subprocess.run(
            ["ps", "-ww", "-o", "stat=,args=", "-p", str(self.pid)], capture_output=True, text=True, check=False
        ).stdout.strip()
        # An interpreter may stand before a script; a zombie has ended.
        return arguments.endswith(" ".join(self.command)) and not arguments.startswith("Z")


@dataclass(frozen=True)
class Deployment:
    """What `fl-sim up` has started."""

    superlink: str  # HOST:PORT
    users: int
    processes: list[Process]

    def alive(self) -> list[Process]:
        return [process for process in self.processes if process.alive()]


def start(state: State, name: str, command: Sequence[str]) -> Process:
    """Start `command` in a session of its own, its output in the state's logs."""
    log = state.log(name)
    write_atomically(log, b"")
    with log.open("ab") as file:
        process = subprocess.Popen(
            command,
            env=environment(state.root / "flower"),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    return Process(name, process.pid, list(command))


def end(processes: Sequence[Process]) -> None:
    """End those that are still alive, and all that they started; returns when they are gone.

    Flower's own children watch for the end of their parent, but take one that nobody has waited for to be alive.
    """
    ours = [process for process in processes if process.alive()]
    ours += _descendants({process.pid for process in ours})
    for process in reversed(ours):
        if process.alive():
            os.kill(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    while (left := [process for process in ours if process.alive()]) and time.monotonic() < deadline:
        time.sleep(0.2)
    for process in left:
        os.kill(process.pid, signal.SIGKILL)


def _descendants(pids: set[int]) -> list[Process]:
    """Children, their children and so on."""
    listing = subprocess.run(["ps", "-A", "-ww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=False)
    everybody = [line.split(None, 2) for line in listing.stdout.splitlines()]
    found: list[Process] = []
    while pids:
        below = [
            Process("", int(pid), [command[0].strip()]) for pid, parent, *command in everybody if int(parent) in pids
        ]
        found += below
        pids = {process.pid for process in below}
    return found


def record(state: State, deployment: Deployment) -> None:
    write_atomically(state.record, json.dumps(asdict(deployment), indent=2).encode())


def recorded(state: State) -> Deployment | None:
    """What was started with this state folder and not yet stopped."""
    if not state.record.exists():
        return None
    table = json.loads(state.record.read_text(encoding="utf-8"))
    return Deployment(table["superlink"], table["users"], [Process(**one) for one in table["processes"]])
