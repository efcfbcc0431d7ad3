"""What measuring the leakage of a user costs, in passes of the shipped face recogniser.

    python -m experiments.benchmarks.judging [--users 64] [--json]

A made-up run of one round, as the quickstart leaves one: `user_diffusion` with its answer, the mean face and four
draws, `inverting_gradients` with an image a label, `prior_only`; their pictures are photos of the users and noise. CPU
seconds of `experiments.run.leakage.measure` a user, after one measurement of other pictures, which opened the gallery
and drew the photos, to those of one embedding of 64 photos.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from attacker.capture.store import Capture, CaptureStore, write_reconstruction
from attacker.observation import Reconstruction
from clients.datasets import open_dataset
from experiments.evaluate.embedders import synthetic
from experiments.run import leakage
from fl_sim.config import Config, parse
from fl_sim.runs import RunFolder
from fl_sim.seeds import generator
from fl_sim.threads import one_thread

DRAWS, LABELS, PHOTOS = 4, 2, 30
EMBEDDED = 64  # photos of one pass of the recogniser


def made_up(root: Path, users: int, number: int) -> tuple[RunFolder, Config]:
    """A run in `root` whose one round three attacks have answered, and its config; of another `number`, otherwise."""
    config = parse(Config, {"name": "judging", "dataset": {"users": users, "photos": PHOTOS}})
    run, dataset, weights = RunFolder(root), open_dataset(config.dataset, config.seed), {"weight": torch.zeros(2)}
    store = CaptureStore(run)
    store.save_model(1, weights)
    captures = [Capture(user, user, "accepted", "", PHOTOS, 0.0, 8, 0.1, weights) for user in range(users)]
    store.save_round(1, captures, "gradient", 0.1, weights)
    store.wait()
    for user in range(users):
        photos, noise = dataset.user(user).private.photos, generator(0, "judging", user, number)
        seen = (photos + 0.1 * torch.randn(photos.shape, generator=noise)).clamp(0, 1)
        weight = torch.full((LABELS,), 1 / LABELS)
        drawn = seen[:DRAWS]
        answers = {
            "user_diffusion": Reconstruction(seen[:LABELS], weight, 0.1, 2.0, drawn, seen.mean(0)),
            "inverting_gradients": Reconstruction(seen[DRAWS : DRAWS + LABELS], weight, 0.1, 2.0),
            "prior_only": Reconstruction(seen[-1:].flip(-1), torch.ones(1), 0.0, 2.0),
        }
        for label, answer in answers.items():
            write_reconstruction(run, label, 1, user, answer, {"name": label, "prior": "synthetic64"})
    return run, config


def benchmark(users: int) -> dict[str, float]:
    """CPU seconds of a user's leakage and of one pass of the recogniser, and their ratio."""
    with tempfile.TemporaryDirectory() as folder, one_thread():
        leakage.measure(*made_up(Path(folder, "before"), users, 0))
        run, config = made_up(Path(folder, "run"), users, 1)
        judged = _seconds(lambda: leakage.measure(run, config)) / users
    embed, photos = synthetic(), torch.rand(EMBEDDED, 3, 64, 64, generator=generator(0, "photos"))
    with one_thread():
        embed(photos)
        a_pass = min(_seconds(lambda: embed(photos)) for _ in range(5))
    return {"user": judged, "pass": a_pass, "ratio": judged / a_pass}


def _seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of this process."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description="What measuring the leakage of a user costs.")
    parser.add_argument("--users", type=int, default=64)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    found = benchmark(given.users)
    if given.json:
        print(json.dumps(found))
        return
    print(f"a user's leakage    {1000 * found['user']:7.1f} CPU ms")
    print(f"{EMBEDDED} photos embedded  {1000 * found['pass']:7.1f} CPU ms")
    print(f"ratio               {found['ratio']:7.2f}")


if __name__ == "__main__":
    main()
