"""The ServerApp is killed at any moment: the run goes on from the last finished round, to the same end bit for bit."""

import json

import pandas as pd
import pytest
from processes import killed_at_write
from tiny_faces import tiny_config

from attacker.capture.store import CaptureStore
from experiments.plan.setup import prepare
from experiments.run.federation import run_federation
from fl_sim.runs import RunFolder


def content(run):
    """What a run leaves but for times and node ids; index lines, files, rounds."""
    rows = [json.loads(line) for line in (run.captures / "index.jsonl").read_text().splitlines()]
    lines = [{key: row[key] for key in row if key not in {"node", "seconds"}} for row in rows]
    files = {str(path.relative_to(run.root)): path.read_bytes() for path in run.captures.rglob("*.safetensors")}
    return lines, files, pd.read_parquet(run.rounds).drop(columns="seconds").to_csv()


@pytest.mark.parametrize("update", ["gradient", pytest.param("weights", marks=pytest.mark.slow)])
def test_killed_at_any_write_it_resumes_to_the_same_parameters(update, tmp_path):
    config = tiny_config(
        federation={"rounds": 2, "update": update},
        dataset={"users": 2},
        defenses=[{"name": "gaussian_noise", "std": 0.01}],
    )
    whole = RunFolder(tmp_path / "whole")
    run_federation(prepare(config), whole)
    kills, lost = 0, []
    while True:
        run = RunFolder(tmp_path / f"killed-{kills + 1}")
        if not killed_at_write(kills + 1, lambda run=run: run_federation(prepare(config), run)):
            break
        kills += 1
        before = CaptureStore(run).finished_rounds()
        calls = []
        run_federation(prepare(config), run, lambda done, total, calls=calls: calls.append(done))
        lost.append(len(before) - calls[0])
        assert content(run) == content(whole)
        assert not list(run.captures.rglob(".*"))  # nothing half written stays
    assert kills == 2 * (2 + 3) + 1  # a round: its updates, the next model, the index, rounds.parquet; the first model
    assert set(lost) <= {0, 1}  # a round that was captured, but not evaluated yet, is done again
