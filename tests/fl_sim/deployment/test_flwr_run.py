"""`flwr run .` for real: Flower's command line, a SuperLink of its own, and the apps that pyproject.toml names."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from flower_cli import run_app

from attacker.capture.store import CaptureStore
from fl_sim.runs import RunFolder

PROJECT = Path(__file__).parents[3]
CONFIG = """
name = "small"
[dataset]
users = 2
photos = 4
image_size = 32
[federation]
rounds = 2
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_flwr_run_captures_a_whole_run(flower_environment, tmp_path):
    config = tmp_path / "small.toml"
    config.write_text(CONFIG)

    run_app(flower_environment, PROJECT, tmp_path, 2, f"config='{config}' runs='{tmp_path}'")
    run = RunFolder(tmp_path / "small")
    store = CaptureStore(run)
    assert store.finished_rounds() == [1, 2]
    assert store.users(1) == store.users(2) == [0, 1]
    assert pd.read_parquet(run.rounds)["accepted"].tolist() == [2, 2]
    assert run.config.exists()
    attack = ["attack", str(run.root), "--workers", "local", "-o", "attacks={prior_only={steps=2}}", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.cli.app", *attack],
        env=flower_environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["rounds"]) == {"1", "2"}
