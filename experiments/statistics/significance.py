"""Whether an attack tells more of its users than guessing and the controls do: tests and proofs, attack by attack.

Each attack and round is tested on its own, and the p-values of a table are corrected for their number (Holm):

naming      the exact binomial test of the users at rank 1 against guessing among gallery_size people
likeness    the sign-flip test of facial similarity, user by user, against the control that comes closest
attributes  the same test of the share of a user's attributes that are read rightly

A leak may be thin, and of another user each round: with several rounds, users who are named in any of them are counted
too, against as many guesses. An attack on single photos is also read by all its images together, one that draws
what the update leaves open by the mean face behind its draws, and what is inferred from updates without a picture
(`leakage.attribute_inference`) counts as an attack too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from experiments.evaluate.arms import BELIEVABLE, CONTROLS, PICTURES
from experiments.statistics.aggregate import UNIT, attribute_names
from experiments.statistics.audited_epsilon import audited_epsilon
from experiments.statistics.bootstrap import interval, mean, paired
from experiments.statistics.interval import Interval
from experiments.statistics.shares import LEVEL, holm, more_than_chance, share_of

OPTIONAL = (
    "knowledge",
    "matching_loss",
    "epsilon",
    "epsilon_audited",
    "delta",
    "capture",
    "group_size",
)  # which tables of older versions lack
INFERENCE = "attribute_inference"  # the arm that looks at updates and draws nothing


@dataclass(frozen=True)
class Finding:
    """What one attack tells of its users in one round, or in any."""

    attack: str
    arm: str  # one of experiments.evaluate.arms.BELIEVABLE
    knowledge: str  # of the users' defenses
    server_round: int | None  # None: any of the rounds
    named: int  # users at rank 1; a reconstruction that failed names nobody
    users: int
    answers: int  # updates of which it left a picture, or said something; users of one sum have one between them
    unanswered: int  # users of whose update it left none
    gallery: int  # people among whom they are looked for
    named_by_controls: dict[str, int]
    named_by_photo: int | None  # by a real photo of theirs: what the judge can do; None where there was none
    share: Interval  # of users named, exact; where there is no answer, the upper end counts as if it named the user
    similarity: Interval
    p_named: float  # corrected, one-sided
    p_alike: float | None  # corrected, one-sided; None without a control
    p_attributes: float | None  # corrected, one-sided; None without attributes
    matching_loss: float | None  # median over users: 0 where pictures explain their updates; None: the attack has none
    epsilon: float | None  # promised for the updates that the attack saw; None: no guarantee
    epsilon_audited: float | None  # proved by the measurement, corrected; None where it cannot be audited
    delta: float

    @property
    def silence(self) -> str:
        """Of how many users it left no answer, in words; empty where it answered of all."""
        when = "" if self.server_round is None else f" in round {self.server_round}"
        return f"no answer for {self.unanswered} of {self.users} users{when}" if self.unanswered else ""

    @property
    def names(self) -> bool:
        """Whether it names more users than guessing would, and than any control does."""
        return self.p_named < LEVEL and self.named > max(self.named_by_controls.values(), default=0)

    @property
    def resembles(self) -> bool:
        """Whether its pictures are more like their users than those of every control."""
        return self.p_alike is not None and self.p_alike < LEVEL

    @property
    def reads_attributes(self) -> bool:
        """Whether attributes are read off it better than off every control."""
        return self.p_attributes is not None and self.p_attributes < LEVEL

    @property
    def breaks_promise(self) -> bool:
        """Whether the measurement disproves the epsilon that the defense promises."""
        return None not in (self.epsilon, self.epsilon_audited) and self.epsilon_audited > self.epsilon  # type: ignore[operator]


def findings(table: pd.DataFrame) -> list[Finding]:
    """A finding for each attack, round and reading of a leakage table, in that order; then those for any round."""
    known = with_optional(table)
    groups = [*_groups(known), *_over_rounds(known)]
    named = [_named(group) for group in groups]
    p_named = holm(
        [
            more_than_chance(hits[group.arm], users, min(group.guesses / size, 1.0))
            for group, (hits, users, size) in zip(groups, named, strict=True)
        ]
    )
    p_alike = _corrected([_paired(group, "facial_similarity", CONTROLS) for group in groups])
    p_attributes = _corrected([_paired(group, "attributes", (*CONTROLS, "base_rate")) for group in groups])
    return [
        _finding(group, *counts, p, q, r)
        for group, counts, p, q, r in zip(groups, named, p_named, p_alike, p_attributes, strict=True)
    ]


def audit(table: pd.DataFrame, gaussian: bool) -> pd.Series:
    """The column `epsilon_audited` of a leakage table, on the rows of the arms BELIEVABLE.

    Corrected for the number of attacks, rounds and readings. Null where an update is the sum of several users, whose
    outcomes are not independent. `gaussian`: whether the users' mechanism is Gaussian noise on a clipped update.
    """
    column = pd.Series(np.nan, index=table.index, dtype="float64")
    groups = _groups(table)
    for group in groups:
        own = group.rows[group.rows["arm"] == group.arm]
        if (own["group_size"] > 1).any():
            continue
        hits, users, gallery = _named(group)
        delta = float(own["delta"].iloc[0])
        column[own.index] = audited_epsilon(hits[group.arm], users, gallery, delta, gaussian, len(groups))
    return column


def with_optional(table: pd.DataFrame) -> pd.DataFrame:
    """`table` with all columns OPTIONAL, empty where it lacks them."""
    return table.reindex(columns=list(dict.fromkeys([*table, *OPTIONAL])))


def as_json(finding: Finding) -> dict[str, Any]:
    """A finding as JSON."""
    return {
        "attack": finding.attack,
        "arm": finding.arm,
        "knowledge": finding.knowledge,
        "round": finding.server_round,
        "named": finding.named,
        "users": finding.users,
        "answers": finding.answers,
        "unanswered": finding.unanswered,
        "gallery_size": finding.gallery,
        "named_by_controls": finding.named_by_controls,
        "rank1": finding.share.as_json(),
        "facial_similarity": finding.similarity.as_json(),
        "p_named": finding.p_named,
        "p_alike": finding.p_alike,
        "p_attributes": finding.p_attributes,
        "matching_loss": finding.matching_loss,
        "epsilon": finding.epsilon if finding.epsilon is not None and np.isfinite(finding.epsilon) else None,
        "epsilon_audited": finding.epsilon_audited,
        "delta": finding.delta if np.isfinite(finding.delta) else None,
    }


class _Group(NamedTuple):
    """What one finding is about."""

    attack: str
    arm: str
    server_round: int | None  # None: any of them
    rows: pd.DataFrame  # all arms of the attack in the round; of any round: a row a user and arm
    guesses: int = 1  # rounds in which a user may be named


def _groups(table: pd.DataFrame) -> list[_Group]:
    groups = []
    inferred = set()  # rounds: what is inferred without a picture is the same beside each attack
    for (attack, server_round), rows in table.groupby(["attack", "round"]):
        if _is_control(rows):
            continue
        number = int(str(server_round))
        for arm in BELIEVABLE:
            if (rows["arm"] != arm).all() or (arm == INFERENCE and number in inferred):
                continue
            groups.append(_Group("attribute inference" if arm == INFERENCE else str(attack), arm, number, rows))
            if arm == INFERENCE:
                inferred.add(number)
    return groups


def _over_rounds(table: pd.DataFrame) -> list[_Group]:
    """The attacks of several rounds, a row a user and arm: the best rank, the mean similarity. Not of sums of users."""
    groups = []
    for attack, rows in table.groupby("attack"):
        rounds = int(rows.groupby(UNIT)["round"].nunique().max())
        if rounds < 2 or _is_control(rows) or (rows["group_size"] > 1).any():
            continue
        people = rows.groupby([*UNIT, "arm"], as_index=False).agg(
            rank=("rank", "min"),
            facial_similarity=("facial_similarity", "mean"),
            gallery_size=("gallery_size", "max"),
            matching_loss=("matching_loss", "median"),
            knowledge=("knowledge", "first"),
            delta=("delta", "max"),
        )
        people = people.assign(capture=people["user"], epsilon=np.nan, epsilon_audited=np.nan)
        arms = [arm for arm in PICTURES if (people["arm"] == arm).any()]
        groups += [_Group(str(attack), arm, None, people, rounds) for arm in arms]
    return groups


def _is_control(rows: pd.DataFrame) -> bool:
    """Whether the rows are of the prior alone, which looks at no update: its answers are those of its own control."""
    own, drawn = (rows.loc[rows["arm"] == arm].sort_values(UNIT) for arm in ("attack", "prior_only"))
    return len(own) > 0 and np.array_equal(own["facial_similarity"].to_numpy(), drawn["facial_similarity"].to_numpy())


def share_named(own: pd.DataFrame) -> tuple[Interval, int]:
    """Of users named by the rows of one arm and round, with the exact interval, and the number of independent answers.

    A picture of a sum names at most one of its users, so a user is named with at most the chance that the sum gives
    away any, and on average with that by their number.
    """
    sums = own.assign(hit=(own["rank"] == 1).fillna(False), answered=own["rank"].notna())
    # The users of each run have numbers, and captures, of their own.
    sums = sums.groupby([own["run"], own["seed"], own["capture"].fillna(own["user"])])[["hit", "answered"]].any()
    named, answers = int(sums["hit"].sum()), int(sums["answered"].sum())
    surely, perhaps = share_of(named, len(sums)), share_of(named + len(sums) - answers, len(sums))
    each = len(own) / max(len(sums), 1)  # users of a sum
    share = float((own["rank"] == 1).fillna(False).mean())
    return Interval(share, surely.low / each, perhaps.high), answers


def _named(group: _Group) -> tuple[dict[str, int], int, int]:
    """(users at rank 1 by arm, users attacked, people in the gallery)."""
    ranks = group.rows["rank"]
    hits = {arm: int((ranks[group.rows["arm"] == arm] == 1).sum()) for arm in (group.arm, *CONTROLS, "own_photo")}
    sizes = group.rows["gallery_size"].dropna()
    return hits, int((group.rows["arm"] == group.arm).sum()), int(sizes.max()) if len(sizes) else 2


def _paired(group: _Group, column: str, controls: Sequence[str]) -> float | None:
    """p of "by `column` the group's arm tells no more of its users than the closest of `controls`", uncorrected."""
    rows = group.rows.assign(attributes=_read_rightly(group.rows)) if column == "attributes" else group.rows
    people = rows.pivot_table(index=UNIT, columns="arm", values=column, dropna=False)
    people = people.reindex(columns=[group.arm, *controls]).astype("float64")
    compared = [paired(people[arm].to_numpy(), people[group.arm].to_numpy()).p for arm in controls]
    return max((p for p in compared if p is not None), default=None)


def _read_rightly(rows: pd.DataFrame) -> pd.Series:
    """The share of a row's attributes that are inferred rightly; NaN where none is known."""
    right = []
    for name in attribute_names(rows):
        true, inferred = rows[f"attr_{name}_true"].astype("float64"), rows[f"attr_{name}_inferred"].astype("float64")
        right.append((true == inferred).astype("float64").where(true.notna() & inferred.notna()))
    return pd.concat(right, axis=1).mean(axis=1) if right else pd.Series(np.nan, index=rows.index)


def _corrected(p_values: Sequence[float | None]) -> list[float | None]:
    corrected = iter(holm([p for p in p_values if p is not None]))
    return [None if p is None else next(corrected) for p in p_values]


def _finding(
    group: _Group,
    hits: dict[str, int],
    users: int,
    gallery: int,
    p_named: float,
    p_alike: float | None,
    p_attributes: float | None,
) -> Finding:
    own = group.rows[group.rows["arm"] == group.arm]
    named, answers = share_named(own)
    promised, audited, loss = own["epsilon"].max(), own["epsilon_audited"].max(), own["matching_loss"].median()
    return Finding(
        attack=group.attack,
        arm=group.arm,
        knowledge="none" if group.arm == INFERENCE or own["knowledge"].isna().any() else own["knowledge"].iloc[0],
        server_round=group.server_round,
        named=hits[group.arm],
        users=users,
        answers=answers,
        unanswered=int(own["rank"].isna().sum()),
        gallery=gallery,
        named_by_controls={arm: hits[arm] for arm in CONTROLS if (group.rows["arm"] == arm).any()},
        named_by_photo=hits["own_photo"] if (group.rows["arm"] == "own_photo").any() else None,
        share=named,
        similarity=interval(own["facial_similarity"].to_numpy(dtype=np.float64), mean),
        p_named=p_named,
        p_alike=p_alike,
        p_attributes=p_attributes,
        matching_loss=None if pd.isna(loss) else float(loss),
        epsilon=None if pd.isna(promised) else float(promised),
        epsilon_audited=None if pd.isna(audited) else float(audited),
        delta=float(own["delta"].max()),
    )
