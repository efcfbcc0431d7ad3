"""The points of a frontier: what each defense at each strength leaks, costs and guarantees."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from experiments.statistics import Comparison, Interval, Values, interval, mean, normalised, paired
from experiments.studies.defended import UNDEFENDED

PERSON = ["seed", "user"]  # of one dataset: the same person under every defense
KNOWLEDGE = ("none", "mechanism", "parameters")
CHANCE_LEVEL = 0.05  # naming so many users by guessing alone must be rarer than this to count


@dataclass(frozen=True)
class Level:
    """What one attack with one knowledge of the defense reaches."""

    label: str  # of the attack in the runs
    attack: str
    knowledge: str
    leakage: Interval  # (attack - wrong update) / (own photo - wrong update): 0 nothing of this user, 1 a real photo
    rank1: Interval  # share of users who are named
    named: int
    excess: pd.Series  # by person: similarity of the attack less that of the wrong update


@dataclass(frozen=True)
class Point:
    """One defense at one strength; its seeds are pooled."""

    defense: str
    strength: str  # empty where there is only one
    setting: str  # what else the sweep varies
    cells: list[str]  # run folders
    accuracy: float | None  # of the global model on held-out photos after the last round
    epsilon: float | None  # at `delta`, of a user over the whole run; None: no guarantee
    delta: float | None
    users: int
    gallery: int  # people among whom a user is named
    levels: list[Level]

    @property
    def name(self) -> str:
        return " ".join(part for part in (self.defense, self.strength) if part)

    @property
    def series(self) -> str:
        """The line that it lies on."""
        return ", ".join(part for part in (self.defense, self.setting) if part)

    @cached_property
    def strongest(self) -> Level:
        """The attack and knowledge that leak most: a defense is as good as it is against that attacker."""
        return max(self.levels, key=_strength)

    def knowing(self, knowledge: str) -> Level | None:
        """The strongest attack with that knowledge."""
        return max((level for level in self.levels if level.knowledge == knowledge), key=_strength, default=None)

    @property
    def at_chance(self) -> bool:
        """Whether guessing would often name as many users as the strongest attacker does (a binomial tail)."""
        named, guess = max(level.named for level in self.levels), 1 / self.gallery
        tail = sum(
            math.comb(self.users, k) * guess**k * (1 - guess) ** (self.users - k) for k in range(named, self.users + 1)
        )
        return tail > CHANCE_LEVEL


def points(table: pd.DataFrame) -> list[Point]:
    """One point a defense and strength, in the order of the table."""
    found = []
    for (defense, setting, strength), rows in table.groupby(["defense", "setting", "strength"], sort=False):
        levels = [_level(str(label), own) for label, own in rows.groupby("label", sort=False)]
        first = rows.drop_duplicates("cell")
        found.append(
            Point(
                defense=str(defense),
                strength=str(strength),
                setting=str(setting),
                cells=[str(cell) for cell in first["cell"]],
                accuracy=_number(first["accuracy"].mean()),
                epsilon=_number(first["epsilon"].max()),
                delta=_number(first["delta"].max()),
                users=len(rows[PERSON].drop_duplicates()),
                gallery=int(rows["gallery_size"].max()),
                levels=levels,
            )
        )
    return found


def undefended(found: Sequence[Point], setting: str = "") -> Point | None:
    """The point without a defense in that setting."""
    return next((one for one in found if one.defense == UNDEFENDED and one.setting == setting), None)


def series(found: Sequence[Point]) -> dict[str, list[Point]]:
    """The points of each defense, weakest first as the sweep lists them; without the undefended."""
    lines: dict[str, list[Point]] = {}
    for one in found:
        if one.defense != UNDEFENDED:
            lines.setdefault(one.series, []).append(one)
    return lines


def less_than(a: Level, b: Level) -> Comparison:
    """Whether A leaks less than B about the same people."""
    both = pd.concat([a.excess, b.excess], axis=1, join="inner").to_numpy(dtype=np.float64)
    return paired(both[:, 0], both[:, 1])


def adapting(one: Point) -> Comparison | None:
    """What knowing the defense is worth to the attacker; None where no attack knows it, or it is worth nothing."""
    blind = one.knowing("none")
    if blind is None or one.strongest.knowledge == "none":
        return None
    return less_than(blind, one.strongest)


def _level(label: str, rows: pd.DataFrame) -> Level:
    people = rows.groupby([*PERSON, "arm"])["facial_similarity"].mean().unstack("arm").sort_index()  # noqa: PD010
    people = people.reindex(columns=["attack", "wrong_update", "own_photo"]).astype("float64")
    ranks = rows[rows["arm"] == "attack"].groupby(PERSON)["rank"].min()  # named in one round is named
    hits: Values = np.asarray((ranks == 1).fillna(False), dtype=np.float64)
    return Level(
        label=label,
        attack=str(rows["attack"].iloc[0]),
        knowledge=str(rows["knowledge"].iloc[0]),
        leakage=interval(people.to_numpy(), normalised),
        rank1=interval(hits, mean),
        named=int(hits.sum()),
        excess=people["attack"] - people["wrong_update"],
    )


def _strength(level: Level) -> tuple[float, float]:
    middle, named = level.leakage["mean"], level.rank1["mean"]
    return (-math.inf if middle is None else middle, 0.0 if named is None else named)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
