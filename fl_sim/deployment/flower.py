"""Flower's own command line, told the truth: what it says as JSON, and an error where it fails.

`flwr run` exits 0 for a run that fails later; whoever starts one asks `runs` how it ended.
"""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from fl_sim.config import ConfigError
from fl_sim.deployment import DeploymentError, State, state_folder
from fl_sim.deployment.processes import recorded
from fl_sim.deployment.programs import environment, program
from fl_sim.runs import write_atomically

NAME = "fl-sim"  # of the connections that this module writes
ANSWER = 300  # seconds to wait for an answer; starting takes most of it on a busy machine


@dataclass(frozen=True)
class Connection:
    """A SuperLink as Flower's command line finds it: the name of a connection in the config.toml of `home`."""

    name: str
    home: Path | None = None

    def ask(self, *arguments: str) -> dict[str, Any]:
        """What `flwr ARGUMENTS CONNECTION` answers; DeploymentError with its reason if it fails."""
        command = [program("flwr"), *arguments, self.name, "--format", "json"]
        try:
            done = subprocess.run(
                command, env=environment(self.home), capture_output=True, text=True, timeout=ANSWER, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise DeploymentError(
                f"flwr {arguments[0]} has not answered within {ANSWER} s; is the SuperLink up?"
            ) from error
        answer = _json(done.stdout)
        if done.returncode or not answer.get("success"):
            # Flower repeats what it was asked before it says, after an empty line, what is wrong.
            reason = str(answer.get("error-message") or done.stderr or done.stdout).strip().split("\n\n")[-1]
            raise DeploymentError(f"flwr {arguments[0]} on connection {self.name!r}: {' '.join(reason.split())}")
        return answer

    def log(self, run_id: str, file: Any) -> "subprocess.Popen[bytes]":
        """A process that writes the run's log into `file` and ends when the run does."""
        command = [program("flwr"), "log", run_id, self.name, "--stream"]
        return subprocess.Popen(command, env=environment(self.home), stdout=file, stderr=file)

    def status(self, run_id: str) -> Mapping[str, Any]:
        """How the run stands: `status` is pending, starting, running, finished:completed, finished:failed, ..."""
        found: Mapping[str, Any] = self.ask("ls", "--run-id", run_id)["runs"][0]
        return found


def find(superlink: str | None, users: int) -> Connection:
    """The SuperLink that `fl-sim run --superlink` names; None: the one that `fl-sim up` has started.

    ConfigError where none is up, or one with other than `users` SuperNodes.
    """
    here = state_folder()
    if superlink is not None:
        return connect(superlink, here)
    deployment = recorded(here)
    if deployment is None:
        raise ConfigError(
            "no deployment is up; start one with fl-sim up --users N, or name one with --superlink HOST:PORT"
        )
    if deployment.users != users:
        raise ConfigError(
            f"fl-sim up has started {deployment.users} SuperNodes, dataset.users is {users}; give "
            f"-o dataset.users={deployment.users}, or fl-sim down and fl-sim up --users {users}"
        )
    return connect(deployment.superlink, here)


def connect(superlink: str, state: State) -> Connection:
    """The SuperLink at HOST:PORT, whose certificate `state` vouches for, or a connection of Flower's config.toml."""
    host, colon, port = superlink.rpartition(":")
    if not colon:
        return Connection(superlink)
    if not (host and port.isdigit()):
        raise ConfigError(
            f"--superlink {superlink!r} is no address; give HOST:PORT, or a connection of Flower's config.toml"
        )
    if not state.authority.exists():
        raise ConfigError(
            f"{state.authority} is absent, so the certificate of {superlink} cannot be checked; copy the ca.crt of its "
            "authority there, or give a connection of Flower's config.toml"
        )
    home = state.root / "connections" / f"{host}-{port}"
    table = {"address": superlink, "root-certificates": str(state.authority.resolve())}
    write_atomically(home / "config.toml", tomli_w.dumps({"superlink": {"default": NAME, NAME: table}}).encode())
    return Connection(NAME, home)


def _json(text: str) -> dict[str, Any]:
    """The JSON object that Flower prints, whatever it prints before it; empty if there is none."""
    start = text.find("{")
    try:
        found = json.loads(text[start:]) if start >= 0 else {}
    except json.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
