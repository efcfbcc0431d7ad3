"""From the leakage table to the figures of the report: per attack and arm, with 95 % intervals over users.

Intervals of shares of users are exact (experiments.statistics.shares), those of other figures bootstrapped."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import pandas as pd

from experiments.evaluate.realism import SHARPNESS, SWD
from experiments.statistics.bootstrap import Values, interval, intervals_of_means, median, normalised
from experiments.statistics.interval import Interval
from experiments.statistics.shares import share

Figures = dict[str, Interval]  # by name
Arms = dict[str, Figures]  # by arm


class Aggregates(TypedDict):
    """By attack: over all rounds, and of each round, whose number is a string as JSON has it."""

    overall: dict[str, Arms]
    rounds: dict[str, dict[str, Arms]]


UNIT = ["run", "seed", "user"]  # one person
SHARES = ("rank1", "rank5", "verified_at_far_1e2", "verified_at_far_1e3")  # their intervals are exact
MORE = (  # means of columns as such
    "verified_at_far_1e2",
    "verified_at_far_1e3",
    "psnr",
    "ssim",
    "lpips",
    "face_probability",
    *SHARPNESS,
    *SWD,
    "draws_similarity",
    "draws_spread",
    "seconds",
)


def aggregate(table: pd.DataFrame) -> Aggregates:
    """The figures of each arm of each attack.

    The figures: `facial_similarity`; `rank1` and `rank5`, shares of users found at that rank or better (a
    reconstruction that failed is one not found); `median_rank` (its `mean` is the median);
    `normalised_leakage`; `attr_NAME`, the share inferred rightly; and those of the columns MORE that hold anything.
    The order of the rows does not matter.
    """
    rounds = sorted(int(number) for number in table["round"].unique())
    return {"overall": _attacks(table), "rounds": {str(n): _attacks(table[table["round"] == n]) for n in rounds}}


def normalised_leakage(similarity: pd.DataFrame, arm: str) -> Interval:
    """(arm - wrong_update) / (own_photo - wrong_update) of mean facial similarities: 0 nothing of this user, 1 a photo.

    `similarity` has a row a user and a column an arm. The baseline is what the same attack makes of *another* user's
    update, not `prior_only`: it has the same artefacts, and all that any update of that task and model shows, so what
    remains is of this person alone. It also exists for attacks without a prior, and needs no attack besides. Where a
    round holds one update (a single user, the sum of all) there is no other one, and so no figure.
    """
    columns = similarity.reindex(columns=[arm, "wrong_update", "own_photo"])
    return interval(columns.to_numpy(dtype=np.float64), normalised)


def _attacks(table: pd.DataFrame) -> dict[str, Arms]:
    return {str(attack): _arms(rows) for attack, rows in table.groupby("attack", sort=True)}


def _arms(rows: pd.DataFrame) -> Arms:
    """The figures of each arm of one attack."""
    scores = pd.DataFrame({name: rows[name] for name in [*UNIT, "round", "arm", "facial_similarity"]})
    ranks = rows["rank"].astype("float64")
    scores["rank1"], scores["rank5"], scores["median_rank"] = (
        (ranks <= 1).astype(float),
        (ranks <= 5).astype(float),
        ranks,
    )
    for name in MORE:
        if name in rows and rows[name].notna().any():
            scores[name] = rows[name].astype("float64")
    for name in attribute_names(rows):
        scores[f"attr_{name}"] = read_rightly(rows, name)
    scores = scores.sort_values([*UNIT, "round", "arm"])  # sums in one order
    people = scores.drop(columns="round").groupby([*UNIT, "arm"], sort=True).mean()  # a user's rounds first
    similarity = people["facial_similarity"].unstack("arm").sort_index()  # noqa: PD010, by index level
    names, arms = [str(name) for name in people], people.index.get_level_values("arm").to_numpy()
    return {
        str(arm): _figures(names, people[arms == arm].to_numpy(dtype=np.float64).T.copy())
        | {"normalised_leakage": normalised_leakage(similarity, str(arm))}
        for arm in sorted(set(arms))
    }


def _figures(names: Sequence[str], values: Values) -> Figures:
    """`values` (figures, users)."""
    means = [index for index, name in enumerate(names) if not (_is_share(name) or name == "median_rank")]
    measured = dict(zip(means, intervals_of_means(values[means]), strict=True))
    for index, name in enumerate(names):
        if _is_share(name):
            measured[index] = share(values[index])
        elif name == "median_rank":
            measured[index] = interval(values[index], median)
    return {name: measured[index] for index, name in enumerate(names)}


def _is_share(figure: str) -> bool:
    return figure in SHARES or figure.startswith("attr_")


def attribute_names(table: pd.DataFrame) -> list[str]:
    """The NAMEs of the columns attr_NAME_true."""
    return [str(name)[5:-5] for name in table.columns if str(name).startswith("attr_") and str(name).endswith("_true")]


def read_rightly(rows: pd.DataFrame, attribute: str) -> pd.Series:
    """1.0 where the attribute is inferred rightly, 0.0 where it is not; NaN where that is not known."""
    true, inferred = (rows[f"attr_{attribute}_{side}"].astype("float64") for side in ("true", "inferred"))
    return (true == inferred).astype("float64").where(true.notna() & inferred.notna())
