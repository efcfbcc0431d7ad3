"""Laws of the audited epsilon: nothing proves nothing, and no more is proved than what is true."""

import math

import numpy as np
import pytest
from dp_accounting import get_epsilon_gaussian
from scipy.stats import norm

from experiments.statistics.audited_epsilon import audited_epsilon
from experiments.statistics.shares import LEVEL, lower_limit

DELTA = 1e-5


@pytest.mark.parametrize("gaussian", [False, True])
@pytest.mark.parametrize(("named", "users"), [(0, 0), (0, 24), (1, 24), (1, 100)])
def test_what_guessing_names_proves_nothing(named: int, users: int, gaussian: bool) -> None:
    assert audited_epsilon(named, users, 100, DELTA, gaussian) == 0.0


def test_between_two_people_it_is_the_classical_bound_of_membership() -> None:
    share = lower_limit(38, 40, LEVEL)  # true positives; false positives are the rest
    assert audited_epsilon(38, 40, 2, DELTA) == pytest.approx(math.log((share - DELTA) / (1 - share)))
    mu = norm.ppf(share) - norm.ppf(1 - share)
    assert audited_epsilon(38, 40, 2, DELTA, gaussian=True) == pytest.approx(get_epsilon_gaussian(1 / mu, DELTA))


@pytest.mark.parametrize("gaussian", [False, True])
def test_more_users_more_people_and_fewer_attempts_prove_more(gaussian: bool) -> None:
    def proved(users: int = 24, among: int = 100, tried: int = 1) -> float:
        return audited_epsilon(users // 2, users, among, DELTA, gaussian, tried)

    assert proved() < proved(users=48) < proved(users=480)
    assert proved() < proved(among=1000)
    assert proved(tried=9) < proved()


def test_a_gaussian_mechanism_is_held_to_more() -> None:
    assert audited_epsilon(24, 24, 100, DELTA, gaussian=True) > audited_epsilon(24, 24, 100, DELTA)


@pytest.mark.parametrize("deviation", [0.4, 1.0, 3.0])
def test_the_true_epsilon_is_exceeded_in_at_most_one_audit_of_twenty(deviation: float) -> None:
    """1,000 audits: 30 users among 20 people who are 1 apart (clipped to half of that), by the best attack there is."""
    people, users, audits = 20, 30, 1000
    draw = np.random.default_rng(7)
    centres = np.eye(people) / math.sqrt(2)  # (people, people), each two 1 apart: the sensitivity
    truth = get_epsilon_gaussian(deviation, DELTA)
    who = draw.integers(0, people, (audits, users))
    seen = centres[who] + draw.normal(0, deviation, (audits, users, people))
    named = (seen.argmax(-1) == who).sum(-1)  # maximum likelihood
    for gaussian in (False, True):
        audited = [audited_epsilon(int(count), users, people, DELTA, gaussian) for count in named]
        assert np.mean(np.array(audited) > truth) <= 0.05


def test_the_best_of_several_attacks_is_corrected_for() -> None:
    """Nine useless attacks on ten people: the best of them proves something in at most one audit of twenty."""
    draw = np.random.default_rng(8)
    best = draw.binomial(24, 1 / 10, (1000, 9)).max(-1)
    proved = [audited_epsilon(int(count), 24, 10, DELTA, tried=9) > 0 for count in best]
    assert np.mean(proved) <= 0.05


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="named <= users"):
        audited_epsilon(3, 2, 100, DELTA)
