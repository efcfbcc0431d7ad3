"""Two measurements of the same users, compared user by user: two-sided tests and when they can tell nothing.

A user without a value on either side is left out of a test, and `users` says how many are in it.
"""

import itertools
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import binomtest

from experiments.statistics.bootstrap import Values, paired
from experiments.statistics.interval import UNKNOWN, Interval
from experiments.statistics.shares import LEVEL


@dataclass(frozen=True)
class Change:
    """How a figure changes from A to B over the same users."""

    users: int  # with a value on both sides
    difference: Interval  # mean over users of b - a; of a share without ends: those of A and of B are exact
    p: float | None  # two-sided, as tested: of "A and B are alike"; None without users

    @property
    def smallest_p(self) -> float:
        """The p of the clearest outcome that so many users allow: all of them change in one direction."""
        return min(1.0, 2.0 ** (1 - self.users))

    def can_tell(self, tests: int = 1) -> bool:
        """Whether the clearest outcome would be significant, were it one of `tests` (Bonferroni)."""
        return self.smallest_p * tests < LEVEL


def users_needed(tests: int) -> int:
    """The fewest users of whom the clearest outcome is significant, as one of `tests`."""
    return next(users for users in itertools.count(1) if 2.0 ** (1 - users) * tests < LEVEL)


def likeness(a: Values, b: Values) -> Change:
    """The sign-flip permutation test, two-sided, of a figure (users,) under A and under B, in the same order.

    Both of the one-sided tests of `bootstrap.paired`, the smaller p doubled.
    """
    there, back = paired(a, b), paired(b, a)
    users = int(np.isfinite(b - a).sum())
    if there.p is None or back.p is None:
        return Change(users, there.difference, None)
    return Change(users, there.difference, min(1.0, 2 * min(there.p, back.p)))


def shares(a: Values, b: Values) -> Change:
    """McNemar's exact test (1947) of what holds of a user (1) or not (0) under A and under B; NaN: no answer.

    Only users in whom A and B differ bear on it: were A and B alike, each of them could as well differ the other way.
    """
    known = np.isfinite(b - a)
    change = replace(UNKNOWN, mean=float((b - a)[known].mean())) if known.any() else UNKNOWN
    gained, lost = (int((known & (difference > 0)).sum()) for difference in (b - a, a - b))
    if not known.any():
        return Change(0, change, None)
    p = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return Change(int(known.sum()), change, p)
