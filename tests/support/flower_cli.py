"""Flower's own command line, against a SuperLink of its own."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

FLWR = Path(sys.executable).parent / "flwr"


def run_app(environment: Mapping[str, str], app: Path, folder: Path, nodes: int, run_config: str = "") -> None:
    """`flwr run` the app in a simulation, called from `folder`; returns when it has completed."""

    def flwr(*arguments: str) -> str:
        done = subprocess.run(
            [FLWR, *arguments], env=environment, cwd=folder, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    size = f"num-supernodes={nodes} client-resources-num-cpus=1"
    more = ["--run-config", run_config] if run_config else []
    with _superlink(environment, folder):
        flwr("run", str(app), "local", "--federation-config", size, *more)
        deadline = time.monotonic() + 400
        run = {"status": ""}
        while not run["status"].startswith("finished") and time.monotonic() < deadline:
            time.sleep(15)  # to ask takes seconds of a core
            run = json.loads(flwr("ls", "local", "--format", "json"))["runs"][0]
        said = "" if run["status"] == "finished:completed" else flwr("log", run["run-id"], "local", "--show")
    assert run["status"] == "finished:completed", f"{run}\n{said}"


@contextmanager
def _superlink(environment: Mapping[str, str], folder: Path) -> Iterator[None]:
    """What `flwr run` would start itself, but it waits no more than 15 seconds, which a busy machine exceeds."""
    port = environment["FLWR_LOCAL_SUPERLINK_HTTP_API_PORT"]
    command = [FLWR.parent / "flower-superlink", "--insecure", "--simulation", "--isolation", "subprocess"]
    command += ["--host", "127.0.0.1", "--port", port, "--database", folder / "superlink.db"]
    command += ["--disable-runtime-dependency-installation"]  # of all of torch, which it takes too long to remove
    with (folder / "superlink.log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                break
            time.sleep(0.5)
        yield
    finally:
        process.terminate()
        process.wait(30)
