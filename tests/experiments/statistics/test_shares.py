"""Laws of exact intervals, of the test against guessing, and of the correction for many tests."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from experiments.statistics.interval import UNKNOWN
from experiments.statistics.shares import holm, more_than_chance, share


def ones(count: int, users: int) -> np.ndarray:
    return np.array([1.0] * count + [0.0] * (users - count))


@pytest.mark.parametrize(("count", "users"), [(0, 6), (2, 6), (6, 6), (1, 24), (13, 16), (0, 1)])
def test_a_share_has_the_exact_interval_of_scipy(count: int, users: int) -> None:
    reference = binomtest(count, users).proportion_ci(method="exact")
    got = share(ones(count, users))
    assert (got.low, got.high) == pytest.approx((reference.low, reference.high))
    assert got.mean == pytest.approx(count / users)


def test_none_of_six_leaves_46_percent() -> None:
    assert share(ones(0, 6)).high == pytest.approx(0.459, abs=0.001)


def test_the_interval_covers_every_share_at_least_19_times_in_20() -> None:
    for truth in (0.01, 0.1, 0.37, 0.8, 0.99):
        counts = range(17)
        covered = [k for k in counts if (got := share(ones(k, 16))).low <= truth <= got.high]
        assert sum(binom.pmf(covered, 16, truth)) >= 0.95


def test_means_over_rounds_have_the_interval_of_the_whole_counts_around_them() -> None:
    got = share(np.array([1 / 3, 2 / 3, 1.0, 0.5]))  # 2.5 of 4
    low, high = share(ones(2, 4)), share(ones(3, 4))
    assert (got.low, got.high) == (low.low, high.high)
    assert share(np.array([1 / 3, 2 / 3])) == share(ones(1, 2))


def test_users_without_a_value_do_not_count() -> None:
    assert share(np.array([1.0, np.nan, 0.0])) == share(ones(1, 2))
    assert share(np.array([np.nan])).as_json() == UNKNOWN.as_json()


def test_the_test_against_guessing_is_that_of_scipy() -> None:
    for named, users in [(0, 6), (2, 6), (1, 24), (16, 16)]:
        reference = binomtest(named, users, 0.01, alternative="greater").pvalue
        assert more_than_chance(named, users, 0.01) == pytest.approx(reference)


def test_two_of_six_among_100_people_are_no_accident() -> None:
    assert more_than_chance(2, 6, 1 / 100) == pytest.approx(0.0015, abs=0.0001)


def test_holm_is_between_nothing_and_bonferroni() -> None:
    values = [0.01, 0.04, 0.03, 0.005]
    assert holm(values) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
    assert all(p <= got <= min(1, p * 4) for p, got in zip(values, holm(values), strict=True))
