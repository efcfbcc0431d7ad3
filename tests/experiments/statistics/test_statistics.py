"""Laws of the bootstrap intervals and of the aggregates."""

import json

import numpy as np
import pandas as pd
import pytest

from experiments.statistics import bootstrap
from experiments.statistics.aggregate import aggregate
from experiments.statistics.bootstrap import (
    EXACT,
    PERMUTATIONS,
    interval,
    intervals_of_means,
    mean,
    median,
    normalised,
    paired,
    sign_flip,
    users_needed,
)
from experiments.statistics.interval import UNKNOWN, Comparison, Interval, dumps


def test_interval_of_a_normal_sample_is_that_of_the_textbook() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 200)
    got = interval(values, mean)
    half = 1.96 * values.std(ddof=1) / 200**0.5
    assert got.mean == pytest.approx(values.mean())
    assert got.low == pytest.approx(values.mean() - half, abs=0.05)
    assert got.high == pytest.approx(values.mean() + half, abs=0.05)


def test_interval_covers_the_truth_19_times_in_20() -> None:
    samples = np.random.default_rng(1).normal(0.0, 1.0, (300, 40))
    covered = [got.low <= 0 <= got.high for got in (interval(sample, mean) for sample in samples)]
    assert 0.89 <= np.mean(covered) <= 0.98


def test_interval_of_one_user_is_a_point_and_of_none_is_null() -> None:
    assert interval(np.array([0.5]), mean) == Interval(0.5, 0.5, 0.5)
    for none in (np.array([]), np.array([np.nan, np.nan])):
        assert interval(none, mean).as_json() == UNKNOWN.as_json()


@pytest.mark.parametrize("statistic", [(mean, np.nanmean), (median, np.nanmedian)])
def test_mean_and_median_agree_with_numpy_and_skip_missing_values(statistic: tuple) -> None:
    ours, reference = statistic
    values = np.random.default_rng(2).normal(size=(50, 9))
    values[np.random.default_rng(3).random((50, 9)) < 0.3] = np.nan
    np.testing.assert_allclose(ours(values), reference(values, axis=-1))


def test_normalised_leakage_is_0_at_the_floor_1_at_the_ceiling_and_undefined_below() -> None:
    floor, ceiling = np.array([0.1, -0.1]), np.array([0.7, 0.9])
    assert normalised(np.column_stack([floor, floor, ceiling])) == pytest.approx(0.0)
    assert normalised(np.column_stack([ceiling, floor, ceiling])) == pytest.approx(1.0)
    assert normalised(np.column_stack([(floor + ceiling) / 2, floor, ceiling])) == pytest.approx(0.5)
    assert np.isnan(normalised(np.column_stack([ceiling, ceiling, floor])))


def leakage_table(users: int = 6, rounds: int = 3) -> pd.DataFrame:
    draw = np.random.default_rng(4)
    level = {"attack": 0.5, "wrong_update": 0.1, "own_photo": 0.9}
    return pd.DataFrame(
        {
            "run": "r", "seed": 0, "round": number, "user": user, "attack": "a", "arm": arm,
            "facial_similarity": level[arm] + draw.normal(0, 0.05), "rank": int(draw.integers(1, 8)),
            "attr_hat_true": user % 2, "attr_hat_inferred": int(draw.integers(0, 2)),
        }
        for number in range(1, rounds + 1) for user in range(users) for arm in level
    ).astype({"rank": "Int64", "attr_hat_true": "Int64", "attr_hat_inferred": "Int64"})  # fmt: skip


def test_aggregates_are_json_and_do_not_depend_on_the_order_of_rows() -> None:
    table = leakage_table()
    got = aggregate(table)
    assert json.loads(dumps(got), parse_constant=pytest.fail).keys() == got.keys()  # no NaN
    assert aggregate(table.sample(frac=1, random_state=1)) == got
    assert set(got["rounds"]) == {"1", "2", "3"}
    figures = {"facial_similarity", "rank1", "rank5", "median_rank", "normalised_leakage", "attr_hat"}
    assert set(got["overall"]["a"]["attack"]) == figures
    for arm in got["overall"]["a"].values():
        assert all(value.low <= value.mean <= value.high for value in arm.values())


def test_aggregate_means_are_those_of_pandas() -> None:
    table = leakage_table()
    rows = table[(table["arm"] == "attack") & (table["round"] == 2)]
    got = aggregate(table)["rounds"]["2"]["a"]["attack"]
    assert got["facial_similarity"].mean == pytest.approx(rows["facial_similarity"].mean())
    assert got["rank1"].mean == pytest.approx((rows["rank"] == 1).mean())
    assert got["rank5"].mean == pytest.approx((rows["rank"] <= 5).mean())
    assert got["median_rank"].mean == pytest.approx(rows["rank"].median())
    assert got["attr_hat"].mean == pytest.approx((rows["attr_hat_true"] == rows["attr_hat_inferred"]).mean())


def test_users_are_the_unit_not_their_rounds() -> None:
    table = leakage_table(rounds=1)
    repeated = pd.concat([table.assign(round=number) for number in range(1, 11)])
    once, ten = aggregate(table)["overall"]["a"]["attack"], aggregate(repeated)["overall"]["a"]["attack"]
    for name, value in once.items():
        assert ten[name].as_json() == pytest.approx(value.as_json()), name


def test_a_failed_reconstruction_counts_as_not_identified() -> None:
    table = leakage_table(users=4, rounds=1)
    table["rank"] = table["rank"].where(table["user"] > 0, pd.NA)
    table.loc[table["user"] > 0, "rank"] = 1
    table.loc[table["user"] == 0, "facial_similarity"] = np.nan
    got = aggregate(table)["overall"]["a"]["attack"]
    assert got["rank1"].mean == 0.75
    assert got["median_rank"].mean == 1
    assert got["facial_similarity"].known


def test_without_another_update_there_is_no_normalised_leakage() -> None:
    table = leakage_table()
    got = aggregate(table[table["arm"] != "wrong_update"])["overall"]["a"]["attack"]["normalised_leakage"]
    assert got.as_json() == UNKNOWN.as_json()


def test_an_empty_table_has_no_figures() -> None:
    assert aggregate(leakage_table().iloc[:0]) == {"overall": {}, "rounds": {}}


def test_a_permutation_test_counts_every_way_to_swap_the_sides() -> None:
    a, b = np.array([0.1, 0.2, 0.3]), np.array([0.4, 0.6, 0.5])
    assert paired(a, b).p == 1 / 8  # all three differences positive: only one way of eight is as large
    assert paired(b, a).p == 1.0
    assert paired(a, np.array([0.4, 0.6, 0.2])).p == 2 / 8  # flipping the smallest, -0.1, is larger still
    assert paired(a, a) == Comparison(Interval(0.0, 0.0, 0.0), p=1.0)


@pytest.mark.parametrize(("users", "tries"), [(8, 400), (20, 60)])
def test_where_nothing_differs_p_is_below_alpha_no_more_often_than_alpha(users: int, tries: int) -> None:
    draw = np.random.default_rng(5)
    ps = [paired(draw.normal(size=users), draw.normal(size=users)).p for _ in range(tries)]
    for alpha in (0.05, 0.25, 0.5):
        assert np.mean([p <= alpha for p in ps]) == pytest.approx(alpha, abs=3 * (alpha * (1 - alpha) / tries) ** 0.5)


def test_a_comparison_is_symmetric_and_agrees_with_the_exact_one_where_ways_are_drawn() -> None:
    draw = np.random.default_rng(6)
    a, b = draw.normal(0.0, 1.0, 12), draw.normal(0.3, 1.0, 12)
    one, other = paired(a, b), paired(b, a)
    assert one.difference.mean == -other.difference.mean
    assert one.difference.low == pytest.approx(-other.difference.high)
    assert one.p + other.p == pytest.approx(1.0, abs=2**-11)  # only the observed way is in both tails
    order = draw.permutation(12)
    assert paired(a[order], b[order]).p == one.p
    padding = np.zeros(EXACT)  # users who do not differ change no sum, but make it too many ways to count
    drawn = paired(np.concatenate([a, padding]), np.concatenate([b, padding])).p
    assert drawn == pytest.approx(one.p, abs=0.02)


def test_users_without_a_value_are_left_out_of_a_comparison_and_unequal_sides_refused() -> None:
    a, b = np.array([0.1, np.nan, 0.3]), np.array([0.4, 0.6, 0.5])
    assert paired(a, b) == paired(a[[0, 2]], b[[0, 2]])
    assert paired(np.array([]), np.array([])).p is None
    with pytest.raises(ValueError, match="same users"):
        paired(a, b[:2])


def test_users_needed_is_the_textbook_number_and_keeps_its_promise() -> None:
    draw = np.random.default_rng(7)
    values = draw.normal(0.0, 1.0, 100)
    found = interval(0.2 * values / values.std(), mean)
    needed = users_needed(found, 100, 0.02)
    assert needed == pytest.approx((1.96 * 0.2 / 0.02) ** 2, rel=0.1)
    assert needed is not None
    more = interval(draw.normal(0.0, 0.2, needed), mean)
    assert (more.high - more.low) / 2 == pytest.approx(0.02, rel=0.15)
    assert users_needed(found, 100, 0.01) == pytest.approx(4 * needed, abs=4)
    assert users_needed(interval(np.ones(5), mean), 5, 0.1) is None
    with pytest.raises(ValueError, match="above 0"):
        users_needed(found, 100, 0.0)


def test_means_drawn_at_once_are_those_drawn_one_by_one_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(7, 12))
    values[1, 3:6], values[2], values[3, 1:] = np.nan, np.nan, np.nan  # some users, nobody, all but one without a value
    expected = [json.dumps(interval(row, mean).as_json()) for row in values]
    assert [json.dumps(one.as_json()) for one in intervals_of_means(values)] == expected
    monkeypatch.setattr(bootstrap, "AT_ONCE", 2 * bootstrap.RESAMPLES * 12)  # as with many users: a few at a time
    assert [json.dumps(one.as_json()) for one in intervals_of_means(values)] == expected
    assert not any(one.known for one in intervals_of_means(values[:, :0]))


def test_a_bound_is_told_where_no_drawn_permutation_is_as_large() -> None:
    """Of 24 equal differences one way of 2^24 is as large; the bound lies above that, below what draws can tell."""
    p = sign_flip(np.full(24, 0.3))
    assert p is not None
    assert 2**-24 < p < 1 / (PERMUTATIONS + 1)
    assert sign_flip(np.full(24, -0.3)) == 1.0
