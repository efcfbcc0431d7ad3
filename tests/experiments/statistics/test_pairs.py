"""Paired two-sided tests of the same users."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import permutation_test

from experiments.statistics.pairs import likeness, shares, users_needed

SIMILARITIES = arrays(np.float64, st.integers(1, 9), elements=st.floats(-1, 1, width=32))


def test_likeness_is_the_exact_paired_permutation_test() -> None:
    draw = np.random.default_rng(0)
    a = draw.normal(size=8)
    b = a + 0.4 + draw.normal(size=8) * 0.5
    reference = permutation_test(
        (b, a), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", alternative="two-sided"
    )
    found = likeness(a, b)
    assert found.p == pytest.approx(reference.pvalue)
    assert found.difference.mean == pytest.approx(np.mean(b - a))


@given(SIMILARITIES)
def test_the_order_of_the_sides_turns_the_difference_and_keeps_p(a: np.ndarray) -> None:
    b = np.roll(a, 1) * 0.5
    there, back = likeness(a, b), likeness(b, a)
    assert there.p == back.p
    assert there.difference.mean == pytest.approx(-back.difference.mean, abs=1e-12)
    assert likeness(a, a).p == 1.0


@given(st.integers(1, 14))
def test_the_clearest_outcome_has_the_smallest_p(users: int) -> None:
    none, all_of_them = np.zeros(users), np.ones(users)
    for change in (likeness(none, all_of_them), shares(all_of_them, none)):
        assert change.p == pytest.approx(change.smallest_p)
        assert change.can_tell(2) == (users >= users_needed(2))


def test_mcnemar_looks_at_the_users_in_whom_the_sides_differ() -> None:
    a = np.array([1.0, 1, 1, 1, 1, 1, 1, 1, 0, 1])
    b = np.array([0.0, 0, 0, 0, 0, 0, 0, 1, 0, 1])
    assert shares(a, b).p == pytest.approx(2 / 2**7)  # 7 lost, none gained
    assert shares(a, a).p == 1.0


def test_a_user_without_an_answer_is_in_no_test() -> None:
    a, b = np.array([1.0, 1, np.nan]), np.array([0.0, np.nan, 0])
    for change in (likeness(a, b), shares(a, b)):
        assert change.users == 1
        assert change.difference.mean == -1
    assert shares(a[1:], b[1:]).p is None
    assert likeness(a[1:], b[1:]).p is None
