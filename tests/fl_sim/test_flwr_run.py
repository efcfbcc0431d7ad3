"""`flwr run .` for real: Flower's command line, a SuperLink of its own, and the apps that pyproject.toml names."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from attacker.store import CaptureStore
from fl_sim.runs import RunFolder

PROJECT = Path(__file__).parents[2]
FLWR = Path(sys.executable).parent / "flwr"
CONFIG = """
name = "small"
[dataset]
users = 2
photos = 4
image_size = 32
[federation]
rounds = 2
"""


@pytest.fixture
def environment(tmp_path):
    """A home for Flower below tmp_path and a free port; the SuperLink that `flwr run` leaves behind is ended."""
    if not Path("/proc/self/environ").exists() or not FLWR.exists():
        pytest.skip("needs flwr beside this Python, and /proc to find the SuperLink that it leaves behind")
    home = tmp_path / "flwr"
    home.mkdir()
    (home / "config.toml").write_text('[superlink]\ndefault = "local"\n[superlink.local]\naddress = ":local:"\n')
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    yield {
        **os.environ,
        "PATH": f"{FLWR.parent}{os.pathsep}{os.environ['PATH']}",  # Flower calls its other programs by name
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(port),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    mark = f"FLWR_HOME={home}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            ours = mark in (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if ours:
            os.kill(int(process.name), signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_flwr_run_captures_a_whole_run(environment, tmp_path):
    config = tmp_path / "small.toml"
    config.write_text(CONFIG)

    def flwr(*arguments):
        done = subprocess.run(
            [FLWR, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    nodes = "num-supernodes=2 client-resources-num-cpus=1"
    flwr(
        "run",
        str(PROJECT),
        "local",
        "--federation-config",
        nodes,
        "--run-config",
        f"config='{config}' runs='{tmp_path}'",
    )
    deadline = time.monotonic() + 240
    status = ""
    while not status.startswith("finished") and time.monotonic() < deadline:
        time.sleep(3)
        status = json.loads(flwr("ls", "local", "--format", "json"))["runs"][0]["status"]
    assert status == "finished:completed"
    run = RunFolder(tmp_path / "small")
    store = CaptureStore(run)
    assert store.finished_rounds() == [1, 2]
    assert store.users(1) == store.users(2) == [0, 1]
    assert pd.read_parquet(run.rounds)["accepted"].tolist() == [2, 2]
    assert run.config.exists()
    attack = ["attack", str(run.root), "--workers", "local", "-o", "attacks={prior_only={steps=2}}", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "fl_sim.cli", *attack], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["rounds"]) == {"1", "2"}
