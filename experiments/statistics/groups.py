"""What of a leakage table is tested together: an attack's rows of one round, or of all, and how its users are read."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from experiments.evaluate.arms import BELIEVABLE, PICTURES
from experiments.statistics.aggregate import UNIT, attribute_names, read_rightly

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
COMPARED = ["facial_similarity", "attributes"]  # user by user


class Group(NamedTuple):
    """What one finding is about."""

    attack: str
    arm: str
    server_round: int | None  # None: any of them
    rows: pd.DataFrame  # all arms of the attack in the round; of any round: a row a user and arm
    people: pd.DataFrame  # a row a user, columns (figure, arm): what is compared user by user
    guesses: int = 1  # rounds in which a user may be named


def with_optional(table: pd.DataFrame) -> pd.DataFrame:
    """`table` with all columns OPTIONAL, empty where it lacks them."""
    return table.reindex(columns=list(dict.fromkeys([*table, *OPTIONAL])))


def tested_columns(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of a leakage table that are tested, and `attributes`: the share of a row's that are read rightly."""
    columns = [*UNIT, "attack", "round", "arm", "rank", "facial_similarity", "gallery_size"]
    tested = with_optional(table)[[*columns, *OPTIONAL]].assign(attributes=_read_rightly(table))
    # Strings of Arrow, and whole numbers that may be null, take pandas several times as long.
    texts = dict.fromkeys(("run", "attack", "arm", "knowledge"), object)
    return tested.astype({"rank": "float64", "facial_similarity": "float64", **texts})


def per_round(table: pd.DataFrame) -> list[Group]:
    """Each attack, round and reading of `tested_columns`, in that order; without the prior alone."""
    groups = []
    inferred = set()  # rounds: what is inferred without a picture is the same beside each attack
    for (attack, server_round), rows in table.groupby(["attack", "round"]):
        people = _by_person(rows)
        if _is_control(people):
            continue
        number, arms = int(str(server_round)), set(rows["arm"])
        for arm in BELIEVABLE:
            if arm not in arms or (arm == INFERENCE and number in inferred):
                continue
            groups.append(Group("attribute inference" if arm == INFERENCE else str(attack), arm, number, rows, people))
            if arm == INFERENCE:
                inferred.add(number)
    return groups


def over_rounds(table: pd.DataFrame) -> list[Group]:
    """The attacks of several rounds, a row a user and arm: best rank, mean similarity. Not of sums of users."""
    groups = []
    for attack, rows in table.groupby("attack"):
        rounds = int(rows.groupby(UNIT)["round"].nunique().max())
        if rounds < 2 or _is_control(_by_person(rows)) or (rows["group_size"] > 1).any():
            continue
        over = rows.groupby([*UNIT, "arm"], as_index=False).agg(
            rank=("rank", "min"),
            facial_similarity=("facial_similarity", "mean"),
            gallery_size=("gallery_size", "max"),
            matching_loss=("matching_loss", "median"),
            knowledge=("knowledge", "first"),
            delta=("delta", "max"),
        )
        over = over.assign(capture=over["user"], epsilon=np.nan, epsilon_audited=np.nan, attributes=np.nan)
        arms = [arm for arm in PICTURES if (over["arm"] == arm).any()]
        groups += [Group(str(attack), arm, None, over, _by_person(over), rounds) for arm in arms]
    return groups


def _is_control(people: pd.DataFrame) -> bool:
    """Whether they are of the prior alone, which looks at no update: its answers are those of its own control."""
    alike = people["facial_similarity"]
    return {"attack", "prior_only"} <= set(alike) and np.array_equal(
        alike["attack"], alike["prior_only"], equal_nan=True
    )


def _by_person(rows: pd.DataFrame) -> pd.DataFrame:
    people = rows.groupby([*UNIT, "arm"])[COMPARED].mean().unstack("arm")  # noqa: PD010, by index level
    assert isinstance(people, pd.DataFrame)
    return people


def _read_rightly(rows: pd.DataFrame) -> pd.Series:
    """The share of a row's attributes that are inferred rightly; NaN where none is known."""
    right = [read_rightly(rows, name) for name in attribute_names(rows)]
    return pd.concat(right, axis=1).mean(axis=1) if right else pd.Series(np.nan, index=rows.index)
