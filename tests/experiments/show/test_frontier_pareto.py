"""The Pareto line of a frontier, and the axes and words that fit its data."""

import itertools
import math
from dataclasses import replace

import pandas as pd
import pytest
from fake_sweep import fake_sweep
from hypothesis import given
from hypothesis import strategies as st

from experiments.show.frontier import charts
from experiments.show.frontier.answers import answers
from experiments.show.frontier.pareto import labels, line, unbeaten
from experiments.show.frontier.points import Level, Point, points
from experiments.show.report import svg
from experiments.statistics.interval import UNKNOWN, Interval


def point(accuracy: float | None, leakage: float | None, name: str = "one") -> Point:
    share = UNKNOWN if leakage is None else Interval(leakage, leakage, leakage)
    level = Level("attack", "attack", "none", share, share, 0, 4, pd.Series(dtype=float), None, (None, None), 1)
    return Point(name, "", ["c"], accuracy, None, None, 4, 100, [level], 0.0, "", "nothing")


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(-0.2, 1.2)), min_size=1, max_size=12))
def test_each_point_is_beaten_or_on_the_line(places: list[tuple[float, float]]) -> None:
    found = [point(*place) for place in places]
    best = unbeaten(found)
    assert best

    def beats(one: Point, other: Point) -> bool:
        a, b = (x.strongest.leakage.mean for x in (one, other))
        c, d = (x.accuracy or 0.0 for x in (one, other))
        return c >= d and a <= b and (c > d or a < b)

    for one in found:
        assert any(beats(other, one) for other in best) == all(one is not other for other in best)
    leakages = [one.strongest.leakage.mean for one in best]
    accuracies = [one.accuracy or 0.0 for one in best]
    assert leakages == sorted(leakages)
    assert accuracies == sorted(accuracies)  # who leaks less is less accurate, else it would beat the other


def test_what_is_not_known_is_not_on_the_line() -> None:
    known = point(0.5, 0.5)
    assert unbeaten([known, point(None, 0.1), point(0.9, None)]) == [known]
    assert unbeaten([point(None, 0.1)]) == []
    assert line([], svg.Scale(0, 1), svg.Scale(0, 1)) == []


def test_labels_of_the_line_keep_their_distance() -> None:
    best = [replace(point(0.1 * i, 0.01 * i, f"d{i}"), strength=f"std {i}") for i in range(5)]
    parts = labels(best, {}, svg.Scale(0, 1), svg.Scale(0, 1))
    heights = sorted(float(part.split('y="')[1].split('"')[0]) for part in parts if part.startswith("<text"))
    assert len(heights) == 5
    assert all(b - a >= 15 for a, b in itertools.pairwise(heights))


def test_axes_fit_the_data() -> None:
    found = points(fake_sweep())
    scale = charts._heights(found)
    ends = [one.strongest.leakage.mean for one in found]
    assert scale.low <= min(ends) <= max(ends) <= scale.high
    assert scale.low >= -0.5
    assert scale.high <= 1.5
    across = charts._across([0.7, 0.7])
    assert across.low < 0.7 < across.high
    across = charts._across([0.4, 0.8])
    assert 0.3 < across.low < 0.4
    assert 0.8 < across.high < 0.9


@pytest.mark.parametrize(("power", "said"), [(-1, "0.1"), (0, "1"), (1, "10"), (3, "10³"), (-12, "10⁻¹²")])
def test_powers_are_written_alike(power: int, said: str) -> None:
    assert charts._power(power) == said


def test_an_accuracy_that_rises_is_no_cost() -> None:
    table = fake_sweep(users=16)
    assert "accuracy 0.20, 0.90 without" in answers(points(table)).headline
    table.loc[table["strength"] == "std 1.0", "accuracy"] = 0.95
    assert "accuracy 0.95; it costs none: 0.90 without" in answers(points(table)).headline
    assert not math.isnan(points(table)[-1].accuracy or math.nan)


@pytest.mark.parametrize("users", [10, 16])
def test_the_faces_of_the_first_screen_are_of_the_point_in_the_headline(users: int) -> None:
    found = points(fake_sweep(users=users))
    said = answers(found)
    assert said.about is not None
    assert said.about.name in said.headline
    assert answers([one for one in found if one.defense != "noise"]).about is None
