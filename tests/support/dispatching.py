"""A run with random updates, and an attack on it that takes as long as it is told, for tests of those who attack."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from attacker.capture.store import Capture, CaptureStore, read_reconstruction
from fl_sim import seeds
from fl_sim.runs import RunFolder, write_manifest

SLEEPER = """
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from attacker.attack import Needs
from attacker.observation import Reconstruction


@dataclass(frozen=True)
class Settings:
    seconds: float = 0.0
    broken_round: int = 0
    rounds: int = 1


def needs(settings):
    return Needs(rounds=settings.rounds)


def attack(observations, attacker, settings, generators, progress):
    assert torch.get_num_threads() == 1 or "TRACE" not in os.environ
    if observations[0].server_round == settings.broken_round:
        raise RuntimeError("no image came out\\nof this")
    if "TRACE" in os.environ:
        (Path(os.environ["TRACE"]) / f"{observations[0].server_round}-{observations[0].user}-{os.getpid()}").touch()
    time.sleep(settings.seconds)
    seen = [one for observation in observations for one in (observation, *observation.history)]
    mean = sum(one.gradient["0.weight"].mean() for one in seen)
    return [
        Reconstruction(torch.rand(1, 3, 8, 8, generator=generator), torch.ones(1), float(mean), 0.5)
        for generator in generators
    ]
"""


@contextmanager
def third_party(folder: Path) -> Iterator[Path]:
    """`folder` with the attack `mylab.sleeper`, importable here."""
    (folder / "mylab").mkdir(parents=True)
    (folder / "mylab" / "__init__.py").touch()
    (folder / "mylab" / "sleeper.py").write_text(SLEEPER)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name in ("mylab.sleeper", "mylab"):
        sys.modules.pop(name, None)


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, source: str) -> None:
    """Write the attack `package.module` below `folder`, for this process and those that it starts.

    Give each test a package of its own: this process remembers what it has imported.
    """
    package, module = name.split(".")
    (folder / package).mkdir()
    (folder / package / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    support = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (folder, support.parent.parent, support))))


def make_run(
    root: Path,
    seconds: float = 0.0,
    broken_round: int = 0,
    backend: str = "local",
    count: int = 2,
    retries: int = 1,
    workers: str = "",
) -> RunFolder:
    """A run of 2 rounds and the attacks `a` and `b`, with nothing captured yet; three users a job.

    `workers`: further lines of that section.
    """
    run = RunFolder(root)
    root.mkdir()
    run.config.write_text(
        f"""
        seed = 5
        [dataset]
        image_size = 32
        [model]
        name = "mlp"
        [federation]
        rounds = 2
        [workers]
        backend = "{backend}"
        count = {count}
        victims_per_job = 3
        retries = {retries}
        {workers}
        [attacks.a]
        name = "mylab.sleeper"
        seconds = {seconds}
        [attacks.b]
        name = "mylab.sleeper"
        broken_round = {broken_round}
        """
    )
    write_manifest(run, num_classes=2, image_size=32)
    return run


def capture(run: RunFolder, server_round: int, users: int = 5, scale: float = 1.0) -> None:
    """Finish a round: random updates of users 0, 1, ... and a rejected one."""
    store = CaptureStore(run)
    # Like a layer of the real thing, but small; attacks see what was captured, not the registry's model.
    shape = (4, 3)
    store.save_model(server_round, {"0.weight": torch.zeros(shape)})
    captures = []
    for user in range(users):
        update = {"0.weight": scale * torch.randn(shape, generator=seeds.generator(0, server_round, user))}
        captures.append(Capture(user, user, "accepted", "", 30, 1.0, 48, 0.1, update))
    captures.append(Capture(users, users, "rejected", "holds NaN", 30, None, 48, 0.1))
    store.save_round(server_round, captures, "gradient", 0.1, {"0.weight": torch.zeros(shape)})
    store.wait()


def results(run: RunFolder) -> dict[tuple[str, int, int], tuple[bytes, float]]:
    """Image bytes and matching loss of every (label, round, user) that has a reconstruction."""
    found = {}
    for path in run.reconstructions.rglob("user-*.safetensors"):
        key = (path.parts[-3], int(path.parts[-2].split("-")[1]), int(path.stem.split("-")[1]))
        reconstruction = read_reconstruction(run, *key)
        found[key] = (reconstruction.images.numpy().tobytes(), reconstruction.matching_loss)
    return found


def wait_for(found: Any, seconds: float = 240) -> Any:
    """The first true value of `found()`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.05)
    raise AssertionError("waited in vain")
