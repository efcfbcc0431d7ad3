"""Means over users with 95 % bootstrap intervals.

The user is the unit: a user's rounds are averaged before any user is drawn, since the rounds of one person
are not independent. Resampling is the same for every figure and any order of the table, so that ratios are
paired and reports are repeatable.
"""

from collections.abc import Callable
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from fl_sim.seeds import derive

RESAMPLES = 2000
Values = NDArray[np.float64]


class Interval(TypedDict):
    """A figure and its 95 % interval; None where it cannot be computed."""

    mean: float | None
    low: float | None
    high: float | None


def resamples(users: int, count: int = RESAMPLES) -> NDArray[np.int64]:
    """(count, users) indices of users drawn with replacement; the same for the same number of users."""
    return np.random.default_rng(derive(0, "bootstrap", users)).integers(0, users, (count, users))


def interval(values: Values, statistic: Callable[[Values], Values]) -> Interval:
    """`statistic` of the users and its percentile bootstrap interval (Efron 1979).

    `values` is (users,) or (users, k), one row a user in a fixed order; `statistic` maps (..., users) or
    (..., users, k) to (...), and may give NaN where it is undefined.
    """
    if len(values) == 0:
        return Interval(mean=None, low=None, high=None)
    drawn = statistic(values[resamples(len(values))])
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, (0.025, 0.975)) if len(drawn) else (np.nan, np.nan)
    return Interval(mean=_number(float(statistic(values))), low=_number(float(low)), high=_number(float(high)))


def mean(values: Values) -> Values:
    """Mean over users, (..., users) to (...), without those that have no value."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        result: Values = np.where(known, values, 0.0).sum(-1) / known.sum(-1)
    return result


def median(values: Values) -> Values:
    """Median over users, (..., users) to (...), without those that have no value."""
    ordered = np.sort(np.where(np.isfinite(values), values, np.inf), axis=-1)  # users without a value last
    known = np.isfinite(ordered).sum(-1)
    low, high = np.maximum(known - 1, 0) // 2, np.minimum(known // 2, values.shape[-1] - 1)
    middle = [np.take_along_axis(ordered, index[..., None], -1)[..., 0] for index in (low, high)]
    result: Values = np.where(known > 0, (middle[0] + middle[1]) / 2, np.nan)
    return result


def normalised(values: Values) -> Values:
    """(arm - floor) / (ceiling - floor) of the means over users; (..., users, 3) to (...), the three in that order.

    A ratio of means, not a mean of ratios: single users' denominators may be close to zero. NaN where the
    ceiling does not lie above the floor.
    """
    arm, floor, ceiling = (mean(values[..., index]) for index in range(3))
    with np.errstate(divide="ignore", invalid="ignore"):
        result: Values = np.where(ceiling > floor, (arm - floor) / (ceiling - floor), np.nan)
    return result


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
