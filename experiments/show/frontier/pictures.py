"""What a number means: a few users as the strongest attacker sees them through every defense."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from safetensors import SafetensorError

from attacker.capture.store import read_reconstruction
from clients.datasets import open_dataset
from experiments.show.frontier.points import Point
from experiments.show.report.gallery import data_uri
from fl_sim.config import ConfigError, load
from fl_sim.runs import RunFolder

USERS = 4  # shown


@dataclass(frozen=True)
class Shown:
    """One small picture; a user who is named by it is marked."""

    source: str  # data URI of a PNG; empty: there is none of this user
    alt: str
    named: bool


def users(table: pd.DataFrame, point: Point) -> list[int]:
    """Who is shown, in this order, on the whole page: the first users that the strongest attacker attacked first."""
    return sorted(set(_attacked(table, point)["user"]))[:USERS]


def photos(folder: Path, point: Point, users: Sequence[int]) -> list[Shown]:
    """A private photo of each of the `users`; none where they are real people's."""
    config = load(folder / point.cells[0] / "config.toml")
    if config.dataset.name != "synthetic":
        return []
    dataset = open_dataset(config.dataset, config.seed)
    return [Shown(data_uri(dataset.user(user).private.photos[0]), f"a photo of user {user}", False) for user in users]


def reconstructions(folder: Path, table: pd.DataFrame, point: Point, users: Sequence[int]) -> list[Shown]:
    """What the strongest attacker made of these `users`, in the first round that was attacked; empty: of nobody."""
    rows, run = _attacked(table, point).set_index("user").to_dict("index"), RunFolder(folder / point.cells[0])
    shown = []
    for user in users:
        source, alt, named = "", f"user {user} through {point.name}: no reconstruction", False
        with suppress(KeyError, OSError, SafetensorError, ConfigError):  # it failed, or the folder was tidied up
            row = rows[user]
            made = read_reconstruction(run, point.strongest.label, int(row["round"]), int(row["capture"]))
            source, named = data_uri(made.images[0]), bool(pd.notna(row["rank"]) and row["rank"] == 1)
            alt = f"user {user} through {point.name}{', named' if named else ''}"
        shown.append(Shown(source, alt, named))
    return shown if any(one.source for one in shown) else []


def _attacked(table: pd.DataFrame, point: Point) -> pd.DataFrame:
    """The rows of the strongest attacker in its first cell and the first round that was attacked, a user each."""
    of_point = (table["cell"] == point.cells[0]) & (table["label"] == point.strongest.label)
    rows = table[of_point & (table["arm"] == "attack")]
    first: pd.DataFrame = rows[rows["round"] == rows["round"].min()].drop_duplicates("user")
    return first
