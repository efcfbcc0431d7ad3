"""The product as a user meets it: `fl-sim run` with real Flower, real Ray, the shipped weights."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest

from experiments.evaluate.arms import CAPTIONS
from fl_sim.runs import RunFolder

pytestmark = pytest.mark.slow

SMALL = [
    "dataset.users=3", "dataset.photos=6", "federation.rounds=2", "workers.victims_per_job=2",
    "leakage.attribute_inference=6", "threat_model.public_people=20",
    "attacks.user_diffusion.steps=4", "attacks.user_diffusion.draw_steps=2",
    "attacks.inverting_gradients.steps=4", "attacks.prior_only.steps=2",
]  # fmt: skip
WITHOUT_TIMES = ["run", "seconds"]


def fl_sim(*arguments, folder, check=True):
    command = [sys.executable, "-m", "experiments.cli.app", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=280, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert not check or done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


def run(name, *more, folder, overrides=()):
    options = [part for key in [*SMALL, f"name={name}", *overrides] for part in ("-o", key)]
    done = fl_sim("run", "--json", *options, *more, folder=folder)
    return json.loads(done.stdout), RunFolder(folder / "runs" / name)


@pytest.fixture(scope="module")
def by_ray(tmp_path_factory):
    """The run that the others are compared with: Flower's simulation, Ray workers."""
    return run("by-ray", folder=tmp_path_factory.mktemp("end"))


def leakage(folder):
    return pd.read_parquet(folder.leakage).drop(columns=WITHOUT_TIMES)


def test_one_command_yields_table_report_and_figures(by_ray):
    figures, folder = by_ray
    table = pd.read_parquet(folder.leakage)
    assert set(figures["rounds"]) == {"1", "2"}
    assert set(figures["overall"]) == {"user_diffusion", "inverting_gradients"}
    arms = set(CAPTIONS) - {"best_member"}  # that one is of sums of several users
    assert set(table["arm"]) == arms  # each attack leaves an image a label
    # Users, rounds; of the two attacks one draws photos, and so takes a mean for determined.
    assert len(table) == 3 * 2 * (len(arms) + len(arms - {"determined"}))
    assert table.loc[table["arm"] == "own_photo", "rank"].eq(1).all()
    assert table["facial_similarity"].notna().all()
    assert folder.report.stat().st_size > 50_000
    assert len(pd.read_parquet(folder.rounds)) == 2
    assert (folder.root / "leakage.csv").exists()


def test_engine_and_workers_do_not_change_the_result(by_ray, tmp_path):
    _, other = run("otherwise", "--engine", "inprocess", "--workers", "local", folder=tmp_path,
                   overrides=["workers.count=1"])  # fmt: skip
    pd.testing.assert_frame_equal(leakage(by_ray[1]), leakage(other), check_exact=True)


def test_a_finished_run_is_taken_up_not_repeated(by_ray):
    figures, folder = by_ray
    stamps = {path: path.stat().st_mtime_ns for path in folder.root.rglob("*.safetensors")}
    assert run("by-ray", folder=folder.root.parent.parent)[0] == figures
    assert {path: path.stat().st_mtime_ns for path in folder.root.rglob("*.safetensors")} == stamps


def test_captures_can_be_attacked_again_but_not_become_others(by_ray):
    _, folder = by_ray
    before = leakage(folder)
    options = ["-o", "attacks.again.name=user_diffusion", "-o", "attacks.again.steps=2", "--workers", "local"]
    fl_sim("attack", folder.root, *options, folder=folder.root)
    after = leakage(folder)
    assert set(after["attack"]) == {"user_diffusion", "inverting_gradients", "again"}
    kept = after[after["attack"] != "again"].reset_index(drop=True)
    tried = "epsilon_audited"  # corrected for how many were tried
    pd.testing.assert_frame_equal(before.drop(columns=tried), kept.drop(columns=tried), check_exact=True)
    refused = fl_sim("attack", folder.root, "-o", "seed=5", folder=folder.root, check=False)
    assert refused.returncode == 2
    assert "may change only" in refused.stderr


def test_another_config_under_the_same_name_is_refused(by_ray):
    _, folder = by_ray
    where = folder.root.parent.parent
    refused = fl_sim("run", "-o", "name=by-ray", "-o", "dataset.users=5", folder=where, check=False)
    assert refused.returncode == 2
    assert "another config" in refused.stderr
