"""The points of a frontier that no other beats: drawn as a line, and labelled in the margin of the chart."""

from collections.abc import Sequence

from experiments.show.frontier.points import Point
from experiments.show.report import svg
from experiments.show.report.figures import PANEL

LABELS = 8  # points labelled at most


def unbeaten(points: Sequence[Point]) -> list[Point]:
    """Points than which no other is as accurate and leaks as little, and is better in one; least leakage first."""
    known = [(point, *place) for point in points if (place := _place(point)) is not None]
    best = [
        (leakage, accuracy, point)
        for point, accuracy, leakage in known
        if not any(
            a >= accuracy and b <= leakage and (a > accuracy or b < leakage)
            for other, a, b in known
            if other is not point
        )
    ]
    return [point for _, _, point in sorted(best, key=lambda each: each[:2])]


def line(best: Sequence[Point], across: svg.Scale, upward: svg.Scale) -> list[str]:
    """The border of what the points of `unbeaten` beat: all that lies above it, on its left."""
    parts, before = [], None
    for point in best:
        place = _place(point)
        if place is None:
            continue
        x, y = across.percent(place[0]), upward.pixels(place[1], PANEL)
        left, low = before if before is not None else ("0%", y)
        parts.append(svg.line(left, low, left, y, "pareto"))
        parts.append(svg.line(left, y, x, y, "pareto"))
        before = (x, y)
    if before is not None:
        parts.append(svg.line(before[0], before[1], before[0], 0, "pareto"))
    return parts


def labels(best: Sequence[Point], kinds: dict[str, str], across: svg.Scale, upward: svg.Scale) -> list[str]:
    """The strengths of those points in the right margin, each with a stroke to its point; `kinds`: class by name."""
    placed = [(point, place) for point in best[:LABELS] if (place := _place(point)) is not None]
    heights = [upward.pixels(leakage, PANEL) for _, (_, leakage) in placed]
    parts = []
    for (point, (accuracy, _)), y, at in zip(placed, heights, svg.spread(heights, 15, 4, PANEL - 2), strict=True):
        parts.append(svg.line(across.percent(accuracy), y, "100%", at, "leader"))
        parts.append(
            svg.text("100%", at + 4, point.strength or point.defense, f"label {kinds.get(point.name, 'ink')}", 6)
        )
    return parts


def _place(point: Point) -> tuple[float, float] | None:
    """(accuracy, leakage to the strongest attacker); None where one of them is not known."""
    leakage = point.strongest.leakage
    return None if point.accuracy is None or not leakage.known else (point.accuracy, leakage.mean)
