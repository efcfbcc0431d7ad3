"""The points of a frontier: what each defense at each strength leaks, costs and guarantees."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from experiments.evaluate.arms import PICTURES
from experiments.plan.defended import UNDEFENDED
from experiments.statistics.aggregate import normalised_leakage
from experiments.statistics.audited_epsilon import audited_epsilon
from experiments.statistics.bootstrap import paired
from experiments.statistics.groups import with_optional
from experiments.statistics.interval import Comparison, Interval
from experiments.statistics.significance import findings, share_named
from experiments.statistics.verdict import Kind, verdict

PERSON = ["seed", "user"]  # of one dataset: the same person under every defense
KNOWLEDGE = ("none", "mechanism", "parameters")
REALISM = ("face_probability", "sharpness_middle")
DELTA = 1e-5  # of an audited epsilon where no defense promises one


@dataclass(frozen=True)
class Level:
    """What one attack with one knowledge of the defense reaches."""

    label: str  # of the attack in the runs
    attack: str
    knowledge: str
    leakage: Interval  # normalised: 0 nothing of this user, 1 a real photo
    rank1: Interval  # share of users who are named, exact
    named: int  # in the round, and by the reading, in which most are
    users: int  # attacked in that round
    excess: pd.Series  # by person: similarity of the attack less that of the wrong update
    promised: float | None  # epsilon at delta of the updates that the attack saw; None: no guarantee
    realism: tuple[float | None, ...]  # means over pictures of the columns REALISM, of experiments.evaluate.realism
    rounds: int  # attacked, times two where all images together are read besides


@dataclass(frozen=True)
class Point:
    """One defense at one strength; its seeds are pooled."""

    defense: str
    strength: str  # empty where there is only one
    cells: list[str]  # run folders
    accuracy: float | None  # of the global model on held-out photos after the last round
    epsilon: float | None  # at `delta`, of a user over the whole run; None: no guarantee
    delta: float | None
    users: int
    gallery: int  # people among whom a user is named
    levels: list[Level]
    epsilon_audited: float  # at `delta`, proved by the attack that names most
    known_to_nobody: str  # defenses that no attack is adapted to; empty: none
    status: Kind  # the verdict on its attackers alone: corrected for all points, many cells would make each look safe

    @property
    def name(self) -> str:
        return " ".join(part for part in (self.defense, self.strength) if part)

    @cached_property
    def strongest(self) -> Level:
        """The attack and knowledge that leak most: a defense is as good as it is against that attacker."""
        return max(self.levels, key=_strength)

    def knowing(self, knowledge: str) -> Level | None:
        """The strongest attack with that knowledge."""
        return max((level for level in self.levels if level.knowledge == knowledge), key=_strength, default=None)

    @property
    def at_chance(self) -> bool:
        """Whether no attacker names more users than guessing would, and than any control does."""
        return self.status != "named"

    @property
    def most_named(self) -> Level:
        """The attack and knowledge that name most users."""
        return max(self.levels, key=lambda level: (level.named, level is self.strongest))

    @property
    def breaks_promise(self) -> bool:
        """Whether the measurement disproves an epsilon that the defense promises."""
        promised = [level.promised for level in self.levels if level.promised is not None]
        return bool(promised) and self.epsilon_audited > max(promised)


def points(table: pd.DataFrame) -> list[Point]:
    """One point a defense and strength, in the order of the table."""
    measured = []
    table = with_optional(table)
    for (defense, strength), rows in table.groupby(["defense", "strength"], sort=False):
        levels = [_level(str(label), own) for label, own in rows.groupby("label", sort=False)]
        first = rows.drop_duplicates("cell")
        users, gallery = len(rows[PERSON].drop_duplicates()), int(rows["gallery_size"].max())
        most = max(levels, key=lambda level: level.named)
        delta = _number(first["delta"].max())
        measured.append(
            Point(
                defense=str(defense),
                strength=str(strength),
                cells=[str(cell) for cell in first["cell"]],
                accuracy=_number(first["accuracy"].mean()),
                epsilon=_number(first["epsilon_run"].max()),
                delta=delta,
                users=users,
                gallery=gallery,
                levels=levels,
                epsilon_audited=audited_epsilon(
                    most.named,
                    most.users,
                    gallery,
                    delta or DELTA,
                    gaussian=bool((first["mechanism"].fillna("") == "gaussian").all()),
                    tried=sum(level.rounds for level in levels),
                ),
                known_to_nobody=str(first["known_to_nobody"].iloc[0]),
                status=_status(rows),
            )
        )
    return measured


def undefended(points: Sequence[Point]) -> Point | None:
    """The point without a defense."""
    return next((point for point in points if point.defense == UNDEFENDED), None)


def series(points: Sequence[Point]) -> dict[str, list[Point]]:
    """The points of each defense, weakest first as the sweep lists them; without the undefended."""
    lines: dict[str, list[Point]] = {}
    for point in points:
        if point.defense != UNDEFENDED:
            lines.setdefault(point.defense, []).append(point)
    return lines


def less_than(a: Level, b: Level) -> Comparison:
    """Whether A leaks less than B about the same people."""
    both = pd.concat([a.excess, b.excess], axis=1, join="inner").to_numpy(dtype=np.float64)
    return paired(both[:, 0], both[:, 1])


def adapting(point: Point) -> Comparison | None:
    """What knowing the defense is worth to the attacker; None where no attack knows it, or it is worth nothing."""
    blind = point.knowing("none")
    if blind is None or point.strongest.knowledge == "none":
        return None
    return less_than(blind, point.strongest)


def _level(label: str, rows: pd.DataFrame) -> Level:
    people = rows.groupby([*PERSON, "arm"])["facial_similarity"].mean().unstack("arm").sort_index()  # noqa: PD010
    people = people.reindex(columns=["attack", "wrong_update", "own_photo"]).astype("float64")
    own = rows[rows["arm"].isin(PICTURES)]
    readings = [reading for _, reading in own.groupby(["round", "arm"])]
    shares = [share_named(reading) for reading in readings]
    hits = [int((reading["rank"] == 1).sum()) for reading in readings]
    most = hits.index(max(hits))
    return Level(
        label=label,
        attack=str(rows["attack"].iloc[0]),
        knowledge=str(rows["knowledge"].iloc[0]),
        leakage=normalised_leakage(people, "attack"),
        rank1=shares[most][0],
        named=hits[most],
        users=len(readings[most]),
        excess=people["attack"] - people["wrong_update"],
        promised=_number(rows["epsilon"].max()),
        realism=tuple(_number(rows.loc[rows["arm"] == "attack", name].mean()) for name in REALISM),
        rounds=len(readings),
    )


def _status(rows: pd.DataFrame) -> Kind:
    """The verdict of experiments.statistics.verdict on the rows of one point; its seeds are pooled."""
    first = rows.iloc[0]
    unknown = [name for name in str(first["known_to_nobody"]).split(", ") if name]
    judged = verdict(findings(rows.assign(attack=rows["label"])), unknown, bool(first["distorted"]))
    return "unexplained" if judged is None else judged.kind  # None: no attack of it looks at an update


def _strength(level: Level) -> tuple[float, float]:
    leakage, named = level.leakage, level.rank1
    return (leakage.mean if leakage.known else -math.inf, named.mean if named.known else 0.0)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
