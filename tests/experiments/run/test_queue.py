"""Training never waits for attacks: captures queue up on disk, and the queue is told while training goes on."""

import threading

import pytest
from dispatching import install
from tiny_faces import tiny_config

from experiments.plan.setup import prepare
from experiments.run.dispatching import dispatcher
from experiments.run.federation import run_federation
from fl_sim.config import dump
from fl_sim.runs import RunFolder, write_manifest

ATTACK = """
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from attacker.observation import Reconstruction


@dataclass(frozen=True)
class Settings:
    trained: str = ""


def attack(observations, attacker, settings, generators, progress):
    end = time.monotonic() + 200
    while not Path(settings.trained).exists():
        if time.monotonic() > end:
            raise TimeoutError("training never ended")
        time.sleep(0.05)
    return [Reconstruction(torch.rand(1, 3, 8, 8, generator=one), torch.ones(1), 0.0, 0.5) for one in generators]
"""
ROUNDS, JOBS = 3, 2  # jobs a round: four users, two a job


@pytest.mark.slow
def test_all_rounds_are_trained_while_no_attack_ends(tmp_path, monkeypatch):
    """The attack takes until training is over, so that neither would end if training waited for it."""
    install(monkeypatch, tmp_path, "queuelab.patient", ATTACK)
    trained = tmp_path / "trained"
    config = tiny_config(
        federation={"rounds": ROUNDS},
        attacks={"a": {"name": "queuelab.patient", "trained": str(trained)}},
        workers={"backend": "local", "count": 1, "victims_per_job": 2},
    )
    run = RunFolder(tmp_path / "run")
    run.root.mkdir()
    run.config.write_text(dump(config))
    write_manifest(run, num_classes=2)
    told, changed = {"queued": 0, "attacks": 0}, threading.Condition()

    def progress(stage, done, total):
        assert total == ROUNDS * JOBS
        with changed:
            told[stage] = done
            changed.notify()

    def trains(done, total):
        """Each round is seen in the queue, beside all those before it."""
        with changed:
            assert changed.wait_for(lambda: told["queued"] == done * JOBS, timeout=120)
            assert told["attacks"] == 0
        if done == total:
            trained.touch()

    with dispatcher(run, config, progress, follow=True) as dispatch:
        run_federation(prepare(config), run, trains)
        assert trained.exists()
    assert dispatch.problems == []
    assert told == {"queued": 0, "attacks": ROUNDS * JOBS}
