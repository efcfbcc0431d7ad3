"""What a number means: a few users as the strongest attacker sees them through every defense."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from safetensors import SafetensorError

from attacker.capture.store import read_reconstruction
from clients.datasets import open_dataset
from experiments.show.frontier.points import Point
from experiments.show.report.gallery import data_uri
from fl_sim.config import load
from fl_sim.runs import RunFolder

USERS = 4  # shown


@dataclass(frozen=True)
class Shown:
    """One small picture; a user who is named by it is marked."""

    source: str  # data URI of a PNG
    alt: str
    named: bool


def photos(folder: Path, point: Point) -> list[Shown]:
    """A private photo of each user who is shown; none where they are real people's."""
    config = load(folder / point.cells[0] / "config.toml")
    if config.dataset.name != "synthetic":
        return []
    dataset = open_dataset(config.dataset, config.seed)
    users = range(min(USERS, dataset.num_users))
    return [Shown(data_uri(dataset.user(user).private.photos[0]), f"a photo of user {user}", False) for user in users]


def reconstructions(folder: Path, table: pd.DataFrame, point: Point) -> list[Shown]:
    """What the strongest attacker made of the first users, in the first round that was attacked."""
    cell, label = point.cells[0], point.strongest.label
    rows = table[(table["cell"] == cell) & (table["label"] == label) & (table["arm"] == "attack")]
    rows = rows[rows["round"] == rows["round"].min()].sort_values("user").head(USERS)
    shown = []
    for user, server_round, rank in zip(rows["user"], rows["round"], rows["rank"], strict=True):
        try:
            made = read_reconstruction(RunFolder(folder / cell), label, int(server_round), int(user))
        except (OSError, SafetensorError):
            continue  # it failed, or the folder was tidied up
        named = bool(pd.notna(rank) and rank == 1)
        alt = f"user {user} through {point.name}{', named' if named else ''}"
        shown.append(Shown(data_uri(made.images[0]), alt, named))
    return shown


def strips(folder: Path, table: pd.DataFrame, line: Sequence[Point]) -> list[tuple[Point, list[Shown]]]:
    return [(point, reconstructions(folder, table, point)) for point in line]
