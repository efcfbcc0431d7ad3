"""Exact statistics of shares: of how many users something holds, out of so few that a bootstrap would mislead.

A bootstrap of 0 of 6 has no width; the exact interval (Clopper and Pearson 1934) ends at 46 %.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.stats import beta, binom

from experiments.statistics.bootstrap import Values
from experiments.statistics.interval import UNKNOWN, Interval

LEVEL = 0.05  # error of an interval and of a test
ENOUGH_USERS = 15  # to say something by naming nobody: none of 15 leaves at most 22 %


@lru_cache(maxsize=4096)  # a table asks for few counts, thousands of times
def lower_limit(count: float, users: int, error: float) -> float:
    """The one-sided Clopper-Pearson lower limit in [0, 1]: the true share is below it with probability `error`."""
    return 0.0 if count <= 0 else float(beta.ppf(error, count, users - count + 1))


@lru_cache(maxsize=4096)
def upper_limit(count: float, users: int, error: float) -> float:
    """The one-sided Clopper-Pearson upper limit in [0, 1]: the true share is above it with probability `error`."""
    return 1.0 if count >= users else float(beta.isf(error, count + 1, users - count))


def share(values: Values) -> Interval:
    """The mean of `values` (users,) in [0, 1] and its exact 95 % interval; NaN: a user without a value, left out.

    A user's value is 0 or 1, or the mean of that over rounds. Sums of values in between spread no wider than those of
    0 and 1 with the same mean (Hoeffding 1956), so their interval is that of the whole counts below and above.
    """
    known = values[np.isfinite(values)]
    if len(known) == 0:
        return UNKNOWN
    total = round(float(known.sum()), 9)  # a third and two thirds are 1, whatever their last bits
    return Interval(
        mean=float(known.mean()),
        low=lower_limit(np.floor(total), len(known), LEVEL / 2),
        high=upper_limit(np.ceil(total), len(known), LEVEL / 2),
    )


def share_of(count: int, users: int) -> Interval:
    """The share of `count` of `users` and its exact 95 % interval."""
    return share(np.repeat([1.0, 0.0], [count, users - count]))


def more_than_chance(named: int, users: int, chance: float) -> float:
    """p of the one-sided exact binomial test of "guessing names as many": P(at least `named` of `users`)."""
    return float(binom.sf(named - 1, users, chance))


def holm(p_values: Sequence[float]) -> list[float]:
    """`p_values` corrected for their number (Holm 1979), in the order given: each at most 1, none below its own."""
    order = np.argsort(np.asarray(p_values), kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    steps = np.maximum.accumulate(np.asarray(p_values)[order] * factors) if len(p_values) else np.zeros(0)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(steps, 1.0)
    return [float(value) for value in corrected]
