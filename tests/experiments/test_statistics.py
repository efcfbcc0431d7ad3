"""Laws of the bootstrap intervals and of the aggregates."""

import json

import numpy as np
import pandas as pd
import pytest

from experiments.aggregate import aggregate
from experiments.statistics import interval, mean, median, normalised


def test_interval_of_a_normal_sample_is_that_of_the_textbook() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 200)
    got = interval(values, mean)
    half = 1.96 * values.std(ddof=1) / 200**0.5
    assert got["mean"] == pytest.approx(values.mean())
    assert got["low"] == pytest.approx(values.mean() - half, abs=0.05)
    assert got["high"] == pytest.approx(values.mean() + half, abs=0.05)


def test_interval_covers_the_truth_19_times_in_20() -> None:
    samples = np.random.default_rng(1).normal(0.0, 1.0, (300, 40))
    covered = [got["low"] <= 0 <= got["high"] for got in (interval(sample, mean) for sample in samples)]
    assert 0.89 <= np.mean(covered) <= 0.98


def test_interval_of_one_user_is_a_point_and_of_none_is_null() -> None:
    assert interval(np.array([0.5]), mean) == {"mean": 0.5, "low": 0.5, "high": 0.5}
    assert interval(np.array([]), mean) == {"mean": None, "low": None, "high": None}
    assert interval(np.array([np.nan, np.nan]), mean) == {"mean": None, "low": None, "high": None}


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
    level = {"attack": 0.5, "prior_only": 0.1, "own_photo": 0.9}
    return pd.DataFrame(
        {
            "run": "r", "seed": 0, "round": number, "user": user, "attack": "a", "arm": arm,
            "facial_similarity": level[arm] + draw.normal(0, 0.05), "rank": int(draw.integers(1, 8)),
            "attr_hat_true": user % 2, "attr_hat_inferred": int(draw.integers(0, 2)),
        }
        for number in range(1, rounds + 1) for user in range(users) for arm in level
    ).astype({"rank": "Int64", "attr_hat_true": "Int64", "attr_hat_inferred": "Int64"})  # fmt: skip


def test_aggregate_is_json_and_does_not_depend_on_the_order_of_rows() -> None:
    table = leakage_table()
    got = aggregate(table)
    assert json.loads(json.dumps(got, allow_nan=False)) == got
    assert aggregate(table.sample(frac=1, random_state=1)) == got
    assert set(got["rounds"]) == {"1", "2", "3"}
    figures = {"facial_similarity", "rank1", "rank5", "median_rank", "normalised_leakage", "attr_hat"}
    assert set(got["overall"]["a"]["attack"]) == figures
    for arm in got["overall"]["a"].values():
        assert all(value["low"] <= value["mean"] <= value["high"] for value in arm.values())


def test_aggregate_means_are_those_of_pandas() -> None:
    table = leakage_table()
    rows = table[(table["arm"] == "attack") & (table["round"] == 2)]
    got = aggregate(table)["rounds"]["2"]["a"]["attack"]
    assert got["facial_similarity"]["mean"] == pytest.approx(rows["facial_similarity"].mean())
    assert got["rank1"]["mean"] == pytest.approx((rows["rank"] == 1).mean())
    assert got["rank5"]["mean"] == pytest.approx((rows["rank"] <= 5).mean())
    assert got["median_rank"]["mean"] == pytest.approx(rows["rank"].median())
    assert got["attr_hat"]["mean"] == pytest.approx((rows["attr_hat_true"] == rows["attr_hat_inferred"]).mean())


def test_users_are_the_unit_not_their_rounds() -> None:
    table = leakage_table(rounds=1)
    repeated = pd.concat([table.assign(round=number) for number in range(1, 11)])
    once, ten = aggregate(table)["overall"]["a"]["attack"], aggregate(repeated)["overall"]["a"]["attack"]
    for name, value in once.items():
        assert ten[name] == pytest.approx(value), name


def test_a_failed_reconstruction_counts_as_not_identified() -> None:
    table = leakage_table(users=4, rounds=1)
    table["rank"] = table["rank"].where(table["user"] > 0, pd.NA)
    table.loc[table["user"] > 0, "rank"] = 1
    table.loc[table["user"] == 0, "facial_similarity"] = np.nan
    got = aggregate(table)["overall"]["a"]["attack"]
    assert got["rank1"]["mean"] == 0.75
    assert got["median_rank"]["mean"] == 1
    assert got["facial_similarity"]["mean"] is not None


def test_without_prior_only_there_is_no_normalised_leakage() -> None:
    table = leakage_table()
    got = aggregate(table[table["arm"] != "prior_only"])["overall"]["a"]["attack"]["normalised_leakage"]
    assert got == {"mean": None, "low": None, "high": None}


def test_an_empty_table_has_no_figures() -> None:
    assert aggregate(leakage_table().iloc[:0]) == {"overall": {}, "rounds": {}}
