"""What every tracker of experiments is given of a run: TensorBoard, MLflow."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError
from torch import Tensor

from attacker.capture.store import read_reconstruction
from attacker.observation import pixels
from experiments.show.report.gallery import USERS
from experiments.show.report.run_data import RunData
from experiments.statistics.interval import Interval

TRAINING = ("accuracy", "loss", "accepted", "rejected", "seconds")


def training(run_data: RunData) -> Iterator[tuple[str, float, int]]:
    """(training/FIGURE, value, round) of all that is finite."""
    if run_data.rounds is None:
        return
    for row in run_data.rounds.to_dict("records"):
        for name in TRAINING:
            if name in row and math.isfinite(row[name]):
                yield f"training/{name}", float(row[name]), int(row["round"])


def leakage(run_data: RunData) -> Iterator[tuple[str, str, str, Interval, int]]:
    """(attack, arm, figure, mean over users with its interval, round)."""
    for server_round, attacks in run_data.aggregates.get("rounds", {}).items():
        for attack, arms in attacks.items():
            for arm, figures in arms.items():
                for figure, interval in figures.items():
                    yield attack, arm, figure, interval, int(server_round)


def reconstructions(run_data: RunData) -> Iterator[tuple[str, int, Tensor, int]]:
    """(label, user, image (3, H, W) as bytes, round) of the first users who were measured."""
    if run_data.leakage is None:
        return
    shown = sorted(run_data.leakage["user"].unique())[:USERS]
    rows = run_data.leakage[run_data.leakage["user"].isin(shown)]
    for _, row in rows[["round", "user", "capture"]].drop_duplicates().iterrows():
        server_round, user, capture = (int(row[name]) for name in ("round", "user", "capture"))
        for label in run_data.labels:
            try:
                image = read_reconstruction(run_data.run, label, server_round, capture).images[0]
            except (OSError, ValueError, SafetensorError):
                continue  # not attacked, or the file is damaged
            yield label, user, pixels(image), server_round


@contextmanager
def private() -> Iterator[None]:
    """What is made meanwhile is for its owner alone."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)
