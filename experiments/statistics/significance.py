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

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from experiments.evaluate.arms import CONTROLS
from experiments.statistics.audited_epsilon import audited_epsilon
from experiments.statistics.bootstrap import interval, mean, sign_flip
from experiments.statistics.groups import INFERENCE, Group, over_rounds, per_round, tested_columns
from experiments.statistics.interval import Interval
from experiments.statistics.shares import LEVEL, holm, more_than_chance, share_of


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
    tested = tested_columns(table)
    groups = [*per_round(tested), *over_rounds(tested)]
    named = [_named(group) for group in groups]
    p_named = holm(
        [
            more_than_chance(hits[group.arm], users, min(group.guesses / size, 1.0))
            for group, (hits, users, size) in zip(groups, named, strict=True)
        ]
    )
    p_alike = _corrected([_closest(group, "facial_similarity", CONTROLS) for group in groups])
    p_attributes = _corrected([_closest(group, "attributes", (*CONTROLS, "base_rate")) for group in groups])
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
    groups = per_round(tested_columns(table))
    for group in groups:
        own = group.rows[group.rows["arm"] == group.arm]
        if (own["group_size"] > 1).any():
            continue
        hits, users, gallery = _named(group)
        delta = float(own["delta"].iloc[0])
        column[own.index] = audited_epsilon(hits[group.arm], users, gallery, delta, gaussian, len(groups))
    return column


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


def share_named(own: pd.DataFrame) -> tuple[Interval, int]:
    """Of users named by the rows of one arm and round, with the exact interval, and the number of independent answers.

    A picture of a sum names at most one of its users, so a user is named with at most the chance that the sum gives
    away any, and on average with that by their number.
    """
    # The users of each run have numbers, and captures, of their own.
    whose = zip(own["run"], own["seed"], own["capture"].fillna(own["user"]), strict=True)
    ranks: dict[tuple[object, ...], list[float]] = {}
    for update, rank in zip(whose, own["rank"].astype("float64"), strict=True):
        ranks.setdefault(update, []).append(rank)
    named = sum(1.0 in of_sum for of_sum in ranks.values())
    answers = sum(not all(map(math.isnan, of_sum)) for of_sum in ranks.values())
    surely, perhaps = share_of(named, len(ranks)), share_of(named + len(ranks) - answers, len(ranks))
    each = len(own) / max(len(ranks), 1)  # users of a sum
    share = float((own["rank"] == 1).fillna(False).mean())
    return Interval(share, surely.low / each, perhaps.high), answers


def _named(group: Group) -> tuple[dict[str, int], int, int]:
    """(users at rank 1 by arm, users attacked, people in the gallery)."""
    arms, first = group.rows["arm"].to_numpy(), (group.rows["rank"] == 1).to_numpy()
    hits = {arm: int((first & (arms == arm)).sum()) for arm in (group.arm, *CONTROLS, "own_photo")}
    sizes = group.rows["gallery_size"].dropna()
    return hits, int((arms == group.arm).sum()), int(sizes.max()) if len(sizes) else 2


def _closest(group: Group, column: str, controls: Sequence[str]) -> float | None:
    """p of "by `column` the group's arm tells no more of its users than the closest of `controls`", uncorrected."""
    people = group.people[column]
    compared = [sign_flip((people[group.arm] - people[arm]).to_numpy()) for arm in controls if arm in people]
    return max((p for p in compared if p is not None), default=None)


def _corrected(p_values: Sequence[float | None]) -> list[float | None]:
    corrected = iter(holm([p for p in p_values if p is not None]))
    return [None if p is None else next(corrected) for p in p_values]


def _finding(
    group: Group,
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
