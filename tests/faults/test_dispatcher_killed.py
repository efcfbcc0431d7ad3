"""The dispatcher of the attacks is killed: it is told, its workers end, and attacking again does the rest alike."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from dispatching import install, results, wait_for
from tiny_faces import tiny_config

from attacker.workers.jobs import Job, Workbench, attempt
from experiments.plan.setup import prepare
from experiments.run.dispatching import Beside
from experiments.run.federation import run_federation
from fl_sim.config import dump
from fl_sim.runs import RunFolder, write_manifest

ATTACK = """
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from attacker.observation import Reconstruction


@dataclass(frozen=True)
class Settings:
    pids: str = ""


def attack(observations, attacker, settings, generators, progress):
    Path(settings.pids).write_text(str(os.getpid()))
    time.sleep(0.5)
    return [Reconstruction(torch.rand(1, 3, 8, 8, generator=one), torch.ones(1), 0.0, 0.5) for one in generators]
"""


def ended(pid):
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.slow
def test_a_killed_dispatcher_is_told_and_the_rest_is_done_alike(tmp_path, monkeypatch):
    install(monkeypatch, tmp_path, "killedlab.sleeper", ATTACK)
    pids = tmp_path / "pids"
    config = tiny_config(
        attacks={"a": {"name": "killedlab.sleeper", "pids": str(pids)}},
        workers={"backend": "local", "count": 1, "victims_per_job": 1},
    )
    run, whole = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "whole")
    run_federation(prepare(config), run)
    run.config.write_text(dump(config))
    write_manifest(run, num_classes=2)
    shutil.copytree(run.root, whole.root)
    for number in (1, 2):
        for user in range(4):
            assert attempt(Workbench(whole.root), Job("a", number, (user,)))[1] is None

    dispatch = Beside(run, config, lambda *done: None, follow=False, force=False, await_faces=False)
    wait_for(lambda: len(results(run)) > 1, seconds=120)
    os.kill(dispatch.process.pid, signal.SIGKILL)
    dispatch.wait()
    assert ["exit code -9" in problem and "fl-sim attack" in problem for problem in dispatch.problems] == [True]
    worker = int(pids.read_text())
    wait_for(lambda: ended(worker), seconds=30)
    done = {path: path.stat().st_mtime_ns for path in run.reconstructions.rglob("user-*")}
    assert 1 < len(done) < 8

    again = Beside(run, config, lambda *done: None, follow=False, force=False, await_faces=False)
    again.wait()
    assert again.problems == []
    assert again.done == 8
    assert results(run) == results(whole)
    assert {path: path.stat().st_mtime_ns for path in done} == done  # not made twice


@pytest.mark.slow
def test_a_damaged_reconstruction_is_made_again_and_a_damaged_capture_fails_alone(tmp_path):
    config = tiny_config(
        attacks={"dlg": {"steps": 1}}, workers={"backend": "local", "count": 1, "victims_per_job": 1}, seed=1
    )
    run = RunFolder(tmp_path / "run")
    run_federation(prepare(config), run)
    run.config.write_text(dump(config))
    write_manifest(run, num_classes=2)
    bench = Workbench(run.root)
    assert attempt(bench, Job("dlg", 1, (0,)))[1] is None
    made = run.reconstruction("dlg", 1, 0)
    whole = made.read_bytes()

    from attacker import attacks
    from attacker.workers.jobs import is_done

    attack = attacks.load("dlg", config.attacks["dlg"])
    for damaged in (whole[:-9], whole[:30], b"", b"{}" * 9):
        made.write_bytes(damaged)
        assert not is_done(run, config, attack, Job("dlg", 1, (0,)))
    run.capture(1, 1).write_bytes(run.capture(1, 1).read_bytes()[:-4])
    problems = {user: attempt(bench, Job("dlg", 1, (user,)))[1] for user in range(4)}
    assert [user for user, problem in problems.items() if problem is not None] == [1]
    assert "user-0001.safetensors is damaged" in problems[1]
