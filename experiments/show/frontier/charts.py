"""The charts of a frontier: leakage against accuracy and epsilon, and what knowing a defense is worth."""

import itertools
import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

from experiments.show.frontier import pareto
from experiments.show.frontier.points import KNOWLEDGE, Level, Point, series, undefended
from experiments.show.report import svg
from experiments.show.report.captions import spell
from experiments.show.report.figures import PANEL, Panel, grid
from experiments.statistics.interval import Interval

Position = Callable[[Point], float | None]  # along the axis
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
TELLING = (-0.2, 1.2)  # of normalised leakage: 0 is nothing, 1 a real photo; wider intervals are cut there


def look(index: int) -> tuple[int, str]:
    """(shape, class) of the line `index`: distinct up to the square of the number of colours."""
    return index + index // svg.SERIES, f"mark s{index % svg.SERIES}"


def legend(points: Sequence[Point]) -> list[tuple[Markup, str]]:
    entries = [(svg.swatch(*look(index)), name) for index, name in enumerate(series(points))]
    return [*entries, (svg.swatch(0, "mark ink"), "no defense")] if undefended(points) is not None else entries


def utility(points: Sequence[Point]) -> Panel | None:
    """Leakage to the strongest attacker against held-out accuracy; the good corner is on the right, below."""
    known = [point.accuracy for point in points if point.accuracy is not None]
    if not known:
        return None
    scale, heights, best = _across(known), _heights(points), pareto.unbeaten(points)
    kinds = {point.name: kind.removeprefix("mark ") for point, (_, kind) in _looks(points)}
    behind = [*pareto.line(best, scale, heights), *pareto.labels(best, kinds, scale, heights)]
    return _scatter(points, "utility", "Leakage against accuracy", "held-out accuracy (good: right and low)", scale,
                    _numbers(scale), lambda point: point.accuracy, behind)  # fmt: skip


def privacy(points: Sequence[Point]) -> Panel | None:
    """The same against epsilon, on a logarithmic axis; None where no defense guarantees anything."""
    known = [math.log10(point.epsilon) for point in points if point.epsilon]
    if not known:
        return None
    scale = svg.Scale(math.floor(min(known)), max(math.ceil(max(known)), math.floor(min(known)) + 1))
    powers = range(int(scale.low), int(scale.high) + 1)
    every = math.ceil(len(powers) / 7)
    marks = [(float(power), _power(power) if power % every == 0 else "") for power in powers]
    delta = next(point.delta for point in points if point.epsilon)
    title = f"epsilon of a user over the whole run, at delta = {delta:g}"
    return _scatter(points, "privacy", "Leakage against epsilon", title, scale, marks,
                    lambda point: math.log10(point.epsilon) if point.epsilon else None)  # fmt: skip


def proved(points: Sequence[Point]) -> Panel | None:
    """The epsilon that naming disproves against held-out accuracy, also of defenses that promise none."""
    known = [point.accuracy for point in points if point.accuracy is not None]
    if not known or not any(point.epsilon_audited for point in points):
        return None
    across, upward = _across(known), svg.covering([point.epsilon_audited for point in points], (0,), about=6)
    parts = [*grid(upward, [], "held-out accuracy"), *_verticals(across, _numbers(across))]
    tips = []
    for point, (shape, kind) in _looks(points):
        if point.accuracy is None:
            continue
        accuracy = svg.number(point.accuracy)
        tip = f"{point.name}: epsilon of at least {point.epsilon_audited:.3g} proved, accuracy {accuracy}"
        y = upward.pixels(point.epsilon_audited, PANEL)
        parts.append(svg.marker(across.percent(point.accuracy), y, shape, kind, tip))
        tips.append(tip)
    title = "Epsilon proved against accuracy"
    return Panel(title, svg.chart("proved", title, "; ".join(tips), PANEL, parts))


def _looks(points: Sequence[Point]) -> list[tuple[Point, tuple[int, str]]]:
    """Each point with the marker of its line."""
    lines = list(series(points).values())
    bare = undefended(points)
    drawn = [(point, look(index)) for index, line in enumerate(lines) for point in line]
    return drawn if bare is None else [*drawn, (bare, (0, "mark ink"))]


def knowledge(points: Sequence[Point]) -> list[Panel]:
    """One panel a defense: leakage along its strengths to attackers who ignore it, know it, know its parameters."""
    scale = _heights(points)
    bare = undefended(points)
    panels = []
    for number, (name, line) in enumerate(series(points).items()):
        key, ticks = _axis([point.strength for point in line])
        parts = grid(scale, ticks, key)
        if bare is not None and bare.strongest.leakage.known:
            y = scale.pixels(bare.strongest.leakage.mean, PANEL)
            parts.append(svg.line("0%", y, "100%", y, "level control"))
        tips = []
        for index, known in enumerate(KNOWLEDGE):
            levels = [(f"{100 * (at + 0.5) / len(line):.2f}%", point, level) for at, point in enumerate(line)
                      if (level := point.knowing(known)) is not None]  # fmt: skip
            drawn = [svg.line(a, _y(scale, before), b, _y(scale, after), f"thread s{index}")
                     for (a, _, before), (b, _, after) in itertools.pairwise(levels)]  # fmt: skip
            for x, point, level in levels:
                tip = f"{point.name}, {knows(known)}: {spell(level.leakage)}"
                drawn += _mark(scale, x, level.leakage, index, f"s{index}", tip)
                tips.append(tip)
            parts.append(f'<g transform="translate({9 * (index - 1)} 0)">{"".join(drawn)}</g>')
        panels.append(
            Panel(name, svg.chart(f"knowledge-{number}", f"{name} by knowledge", "; ".join(tips), PANEL, parts))
        )
    return panels


def knows(known: str) -> str:
    return {"none": "ignores it", "mechanism": "knows the mechanism", "parameters": "knows its parameters"}[known]


def _numbers(scale: svg.Scale) -> list[tuple[float, str]]:
    """Places on an axis, and what stands there."""
    return [(value, svg.tick_text(value)) for value in svg.ticks(scale.low, scale.high)]


def _verticals(scale: svg.Scale, marks: Sequence[tuple[float, str]]) -> list[str]:
    """Vertical lines of the grid at `marks`, with their numbers below."""
    parts = []
    for value, label in marks:
        parts.append(svg.line(scale.percent(value), 0, scale.percent(value), PANEL, "grid"))
        parts.append(svg.text(scale.percent(value), PANEL + 18, label, "tick mid"))
    return parts


def _scatter(
    points: Sequence[Point],
    name: str,
    title: str,
    x_title: str,
    scale: svg.Scale,
    marks: Sequence[tuple[float, str]],
    position: Position,
    behind: Sequence[str] = (),
) -> Panel:
    heights = _heights(points)
    parts = [*grid(heights, [], x_title), *_verticals(scale, marks), *behind]
    tips = []
    for index, line in enumerate(series(points).values()):
        shape, kind = look(index)
        placed = [(scale.percent(x), point) for point in line if (x := position(point)) is not None]
        for (a, point), (b, other) in itertools.pairwise(placed):
            ends = _y(heights, point.strongest), _y(heights, other.strongest)
            parts.append(svg.line(a, ends[0], b, ends[1], kind.replace("mark", "thread")))
        for a, point in placed:
            parts += _mark(heights, a, point.strongest.leakage, shape, kind.removeprefix("mark "), _tip(point))
            tips.append(_tip(point))
    bare = undefended(points)
    at = position(bare) if bare is not None else None
    if bare is not None and at is not None:
        parts += _mark(heights, scale.percent(at), bare.strongest.leakage, 0, "ink", _tip(bare))
        tips.append(_tip(bare))
    elif bare is not None and bare.strongest.leakage.known:
        y = _y(heights, bare.strongest)
        parts.append(svg.line("0%", y, "100%", y, "level control"))
    return Panel(title, svg.chart(name, title, "; ".join(tips), PANEL, parts))


def _tip(point: Point) -> str:
    accuracy = "" if point.accuracy is None else f", accuracy {svg.number(point.accuracy)}"
    epsilon = "" if point.epsilon is None else f", epsilon {point.epsilon:.3g}"
    return f"{point.name}: leakage {spell(point.strongest.leakage)}{accuracy}{epsilon}"


def _mark(scale: svg.Scale, x: str, leakage: Interval, shape: int, kind: str, tip: str) -> list[str]:
    if not math.isfinite(leakage.mean + leakage.low + leakage.high):
        return []
    ends = scale.pixels(leakage.low, PANEL), scale.pixels(leakage.high, PANEL)
    whisker = svg.line(x, ends[0], x, ends[1], f"whisker {kind}")
    return [whisker, svg.marker(x, scale.pixels(leakage.mean, PANEL), shape, f"mark {kind}", tip)]


def _y(scale: svg.Scale, level: Level) -> float:
    return scale.pixels(level.leakage.mean if level.leakage.known else 0.0, PANEL)


def _across(values: Sequence[float]) -> svg.Scale:
    """An axis of accuracy as wide as its values, and a little wider, so that no marker lies on the border."""
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.05
    return svg.Scale(low - margin, high + margin)


def _heights(points: Sequence[Point]) -> svg.Scale:
    """The axis of leakage, the same for all charts."""
    shares = [level.leakage for point in points for level in point.levels]
    low, high = TELLING
    ends = [min(max(end, low), high) for share in shares if share.known for end in (share.low, share.mean, share.high)]
    return svg.covering(ends, (0,), about=8)


def _axis(strengths: Sequence[str]) -> tuple[str, list[str]]:
    """(title, ticks) of an axis of strengths: the setting where only one is varied, and its values."""
    pairs = [strength.rpartition(" ") for strength in strengths]
    keys = {key for key, _, _ in pairs}
    if len(keys) == 1 and "," not in next(iter(keys)):
        return keys.pop().replace("_", " ") or "only strength", [value for _, _, value in pairs]
    return "strength", list(strengths)


def _power(power: int) -> str:
    """`0.1`, `1`, `10`, and from there `10²`."""
    return f"{10.0**power:g}" if -1 <= power <= 1 else "10" + str(power).translate(SUPERSCRIPT)
