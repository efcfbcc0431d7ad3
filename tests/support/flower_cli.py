"""Flower's own command line, and a home for it."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

FLWR = Path(sys.executable).parent / "flwr"


def run_app(environment: Mapping[str, str], app: Path, folder: Path, nodes: int, run_config: str = "") -> None:
    """`flwr run` the app in a simulation of its own, called from `folder`; returns when it has completed."""

    def flwr(*arguments: str, attempts: int = 4) -> str:
        done = subprocess.run(
            [FLWR, *arguments], env=environment, cwd=folder, capture_output=True, text=True, timeout=300
        )
        if attempts > 1 and "Failed to start local SuperLink" in done.stdout + done.stderr:
            return flwr(*arguments, attempts=attempts - 1)  # Flower gives it 15 seconds, which a busy machine exceeds
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    size = f"num-supernodes={nodes} client-resources-num-cpus=1"
    more = ["--run-config", run_config] if run_config else []
    flwr("run", str(app), "local", "--federation-config", size, *more)
    deadline = time.monotonic() + 240
    run = {"status": ""}
    while not run["status"].startswith("finished") and time.monotonic() < deadline:
        time.sleep(3)
        run = json.loads(flwr("ls", "local", "--format", "json"))["runs"][0]
    assert run["status"] == "finished:completed", run
