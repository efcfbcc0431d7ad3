"""`load_runs`: runs on disk as tidy tables."""

import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from fake_run import fake_run

from experiments import load_runs
from experiments.plan.setup import prepare
from experiments.show import tables
from fl_sim.config import ConfigError, dump, load
from fl_sim.runs import write_manifest


def test_runs_rounds_and_leakage_are_joined_by_run_and_lose_nothing(tmp_path: Path) -> None:
    first, second = (
        fake_run(tmp_path / name, users=2, rounds=rounds, photos=2) for name, rounds in (("a", 1), ("b", 3))
    )
    runs, rounds, leakage = load_runs(tmp_path)
    assert list(runs["run"]) == ["a", "b"]
    assert list(runs["rounds"]) == [1, 3]
    assert list(runs["dataset.users"]) == [2, 2]
    assert runs["epsilon"].isna().all()
    assert runs["epsilon"].dtype == "float64"
    last = pd.read_parquet(second.rounds)["accuracy"].iloc[-1]
    assert runs.set_index("run").loc["b", "accuracy"] == last
    assert len(rounds.merge(runs[["run"]], on="run")) == len(rounds) == 4
    whole = pd.concat([pd.read_parquet(first.leakage), pd.read_parquet(second.leakage)], ignore_index=True)
    pd.testing.assert_frame_equal(leakage, whole)
    assert len(load_runs(first.root, str(second.root)).runs) == 2


def test_a_run_with_a_defense_is_called_by_it_and_has_its_epsilon(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "made", users=2, rounds=1, photos=2)
    chain = [{"name": "local_dp", "epsilon": 3.0, "delta": 1e-5, "max_norm": 1.0}, {"name": "prune", "keep": 0.5}]
    config = load(run.config).model_copy(update={"defenses": chain})
    run.config.write_text(dump(config))
    run.manifest.unlink()
    write_manifest(run, threat_model={"privacy": prepare(config).accountant.facts()})
    runs = load_runs(run.root).runs
    assert runs["defense"].item() == "local_dp+prune"
    assert 0 < runs["epsilon"].item() < 10
    assert runs["delta"].item() == 1e-5


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run in"):
        load_runs(tmp_path)


def test_importing_experiments_loads_nothing_heavy() -> None:
    heavy = "{'pandas', 'torch', 'flwr', 'ray'} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, experiments; print({heavy})"], capture_output=True, text=True
    )
    assert done.stdout.strip() == "set()", done.stderr


def test_a_last_round_without_a_usable_evaluation_has_no_accuracy() -> None:
    table = pd.DataFrame({"accuracy": [0.5, math.nan], "loss": [1.0, math.inf]})
    assert tables.last_round(table) == {"accuracy": None, "loss": None}
