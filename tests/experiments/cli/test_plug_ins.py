"""A defense, an attack and a model, a file each, from a folder that has nothing else but folders named as ours."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

DEFENSE = """
from fl_sim.traits import Traits


def make(factor=0.5):
    def defend(update, generator):
        return {name: value * factor for name, value in update.items()}

    defend.traits = Traits(keeps_norm=factor <= 1, scales=True)
    return defend
"""
ATTACK = """
from dataclasses import dataclass

import torch

from attacker.observation import Reconstruction


@dataclass(frozen=True)
class Settings:
    level: float = 0.5  # brightness in [0, 1]


def attack(observations, attacker, settings, generators, progress):
    size = attacker.image_size
    grey = torch.full((1, 3, size, size), settings.level)
    return [Reconstruction(grey, torch.ones(1), float("nan"), 0.0) for _ in observations]
"""
MODEL = """
from torch import nn


def make(num_classes, image_size):
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(3 * (image_size // 4) ** 2, num_classes))
"""
# As the installed program does, and unlike `python -m`, it does not look into the current folder by itself.
PROGRAM = "import sys; sys.argv[0] = 'fl-sim'; from experiments.cli.app import entry; entry()"
SMALL = [
    "dataset.users=2", "dataset.photos=3", "dataset.image_size=32", "federation.rounds=1", "leakage.gallery_size=5",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {"shrink": DEFENSE, "grey": ATTACK, "tiny": MODEL}.items():
        (tmp_path / f"{name}.py").write_text(text)
    for name in ("fl_sim", "clients", "attacker", "experiments"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('a folder of the user hides ours')")
    return tmp_path


def start(folder: Path, repository: Path, *words: str, **more: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    return subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM, *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,  # type: ignore[call-overload]
    )


def overrides(*more: str) -> list[str]:
    return [word for one in [*SMALL, *more] for word in ("-o", one)]


def test_a_plug_in_of_the_current_folder_is_explained(folder: Path, repository: Path) -> None:
    out, _ = start(folder, repository, "config", "attacks.grey").communicate()
    assert "attacks.grey.level = 0.5   (a number)\n    Brightness in [0, 1]." in out


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["simulation", "inprocess"])
def test_they_run(engine: str, folder: Path, repository: Path) -> None:
    plugged = overrides(
        "model.name=tiny:make", "defenses=[{name='shrink:make', factor=0.5}]", "attacks={grey={level=0.4}}"
    )
    workers = "ray" if engine == "simulation" else "local"
    out, err = start(
        folder, repository, "run", "--engine", engine, "--workers", workers, "--json", *plugged
    ).communicate()
    assert json.loads(out)["rounds"], err
    again = ["attack", "runs/quickstart", "--workers", "inprocess", "--json", "-o", "attacks.more.name=grey"]
    out, err = start(folder, repository, *again).communicate()
    assert json.loads(out)["rounds"], err


@pytest.mark.slow
def test_ctrl_c_says_what_to_do_next(folder: Path, repository: Path) -> None:
    words = ["run", "--engine", "inprocess", "--workers", "none", *overrides("federation.rounds=10000")]
    process = start(folder, repository, *words, start_new_session=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("rounds: "):
            break
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "error: stopped; give the same command again to go on from here"
