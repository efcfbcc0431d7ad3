"""Means over users with 95 % bootstrap intervals.

The user is the unit: a user's rounds are averaged before any user is drawn, since the rounds of one person
are not independent. Resampling is the same for every figure and any order of the table, so that ratios are
paired and reports are repeatable. Two arms, or two defenses, on the same users are compared user by user: `paired`.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from experiments.statistics.interval import UNKNOWN, Comparison, Interval
from fl_sim.seeds import derive

RESAMPLES = 2000
EXACT = 14  # users up to which all 2^users ways to swap the two sides are counted
PERMUTATIONS = 10_000  # drawn for more users
AT_ONCE = 2**22  # values drawn at once, 34 MB
Values = NDArray[np.float64]


@lru_cache(maxsize=1)  # read-only, as below; of 1,000 users the two hold 100 MB, which drawing takes anyway
def resamples(users: int, count: int = RESAMPLES) -> NDArray[np.int64]:
    """(count, users) indices of users drawn with replacement; the same for the same number of users."""
    drawn = np.random.default_rng(derive(0, "bootstrap", users)).integers(0, users, (count, users))
    drawn.flags.writeable = False
    return drawn


def interval(values: Values, statistic: Callable[[Values], Values]) -> Interval:
    """`statistic` of the users and its percentile bootstrap interval (Efron 1979).

    `values` is (users,) or (users, k), one row a user in a fixed order; `statistic` maps (..., users) or
    (..., users, k) to (...), and may give NaN where it is undefined.
    """
    if len(values) == 0:
        return UNKNOWN
    drawn = statistic(values[resamples(len(values))])
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, (0.025, 0.975)) if len(drawn) else (np.nan, np.nan)
    return Interval(*(_finite(float(value)) for value in (statistic(values), low, high)))


def intervals_of_means(values: Values) -> list[Interval]:
    """`interval(row, mean)` of each row of `values` (figures, users), all at once."""
    figures, users = values.shape
    if users == 0:
        return [UNKNOWN] * figures
    at_once = max(1, AT_ONCE // (RESAMPLES * users))
    ends = np.full((figures, 2), np.nan)
    for first in range(0, figures, at_once):
        drawn = mean(np.take(values[first : first + at_once], resamples(users), axis=1))
        whole = np.isfinite(drawn).all(1)
        ends[first : first + at_once][whole] = np.quantile(drawn[whole], (0.025, 0.975), axis=1).T
        for index in np.flatnonzero(~whole & np.isfinite(drawn).any(1)):
            ends[first + index] = np.quantile(drawn[index][np.isfinite(drawn[index])], (0.025, 0.975))
    return [
        Interval(*(_finite(float(value)) for value in (point, *own)))
        for point, own in zip(mean(values), ends, strict=True)
    ]


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


def paired(a: Values, b: Values) -> Comparison:
    """Whether A leaks less than B, from what each user leaks under both: `a` and `b` (users,), in the same order.

    The difference has its bootstrap interval, p is `sign_flip`'s. Users without a value on either side are left out.
    """
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} users on one side, {len(b)} on the other; give the same users in the same order")
    differences: Values = (b - a)[np.isfinite(b - a)]
    return Comparison(difference=interval(differences, mean), p=sign_flip(differences))


def sign_flip(differences: Values) -> float | None:
    """p of the one-sided sign-flip permutation test (Fisher 1935) of `differences` (users,); None without users.

    Were there no difference, each user's could as well have the other sign; p is the share of all ways to give signs
    whose mean is at least the observed one. All 2^users ways up to EXACT users (so p is never below 2^-users), else a
    fixed draw of PERMUTATIONS, the observed one counted among them. Where none of these is as large, p is at most
    exp(-(sum d)^2 / (2 sum d^2)) (Hoeffding 1963), or many tests could find nothing once they are corrected for their
    number. Users without a value (NaN) are left out.
    """
    differences = differences[np.isfinite(differences)]
    if len(differences) == 0:
        return None
    signs = _signs(len(differences))
    # Equal sums may differ in their last bits by the order in which they were added up.
    slack = 1e-12 * float(np.abs(differences).sum())
    as_large = int((signs @ differences >= differences.sum() - slack).sum())
    if len(differences) <= EXACT:
        return as_large / len(signs)
    p = (as_large + 1) / (len(signs) + 1)
    if as_large:
        return p
    return min(p, math.exp(-(float(differences.sum()) ** 2) / (2 * float(np.square(differences).sum()))))


def users_needed(measured: Interval, users: int, half_width: float) -> int | None:
    """How many users an interval of `half_width` to each side of the mean takes, if more users spread like these.

    An interval narrows with the square root of the users: `measured` is that of `users` of them, of any statistic. None
    where it has no width or does not exist: users who all give the same say nothing of how users spread.
    """
    if half_width <= 0:
        raise ValueError(f"half_width is {half_width}; give the wished-for half width of the interval, above 0")
    width = measured.high - measured.low
    return math.ceil(users * (width / 2 / half_width) ** 2) if width > 0 else None


@lru_cache(maxsize=1)  # a table's tests are mostly of the same users, and drawing takes longer than testing
def _signs(users: int) -> Values:
    """(ways, users) of +1 and -1: all ways, or a draw of them that is the same for the same number of users."""
    if users <= EXACT:
        bits = np.arange(2**users)[:, None] >> np.arange(users) & 1
    else:
        bits = np.random.default_rng(derive(0, "permutation", users)).integers(0, 2, (PERMUTATIONS, users))
    signs: Values = 1.0 - 2.0 * bits.astype(np.float64)
    signs.flags.writeable = False
    return signs


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.nan
