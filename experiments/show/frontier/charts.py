"""The charts of a frontier: leakage against accuracy and epsilon, and what knowing a defense is worth."""

import itertools
import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

from experiments.show.frontier import pareto
from experiments.show.frontier.points import KNOWLEDGE, Level, Point, series, undefended
from experiments.show.frontier.words import spell
from experiments.show.report import svg
from experiments.show.report.figures import PANEL, Panel, grid
from experiments.statistics.bootstrap import Interval

Place = Callable[[Point], float | None]
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
TELLING = (-0.2, 1.2)  # of normalised leakage: 0 is nothing, 1 a real photo; wider intervals are cut there


def look(index: int) -> tuple[int, str]:
    """(shape, class) of the line `index`: distinct up to the square of the number of colours."""
    return index + index // svg.SERIES, f"mark s{index % svg.SERIES}"


def legend(found: Sequence[Point]) -> list[tuple[Markup, str]]:
    entries = [(svg.swatch(*look(index)), name) for index, name in enumerate(series(found))]
    return [*entries, (svg.swatch(0, "mark ink"), "no defense")] if undefended(found) is not None else entries


def utility(found: Sequence[Point]) -> Panel | None:
    """Leakage to the strongest attacker against held-out accuracy; the good corner is on the right, below."""
    known = [one.accuracy for one in found if one.accuracy is not None]
    if not known:
        return None
    scale, heights, best = _across(known), _heights(found), pareto.unbeaten(found)
    marks = [(value, svg.tick_text(value)) for value in svg.ticks(scale.low, scale.high)]
    kinds = {one.name: kind.removeprefix("mark ") for one, (_, kind) in _looks(found)}
    behind = [*pareto.line(best, scale, heights), *pareto.labels(best, kinds, scale, heights)]
    return _scatter(found, "utility", "Leakage against accuracy", "held-out accuracy (good: right and low)", scale,
                    marks, lambda one: one.accuracy, behind)  # fmt: skip


def privacy(found: Sequence[Point]) -> Panel | None:
    """The same against epsilon, on a logarithmic axis; None where no defense guarantees anything."""
    known = [math.log10(one.epsilon) for one in found if one.epsilon]
    if not known:
        return None
    scale = svg.Scale(math.floor(min(known)), max(math.ceil(max(known)), math.floor(min(known)) + 1))
    powers = range(int(scale.low), int(scale.high) + 1)
    every = math.ceil(len(powers) / 7)
    marks = [(float(power), _power(power) if power % every == 0 else "") for power in powers]
    delta = next(one.delta for one in found if one.epsilon)
    title = f"epsilon of a user over the whole run, at delta = {delta:g}"
    return _scatter(found, "privacy", "Leakage against epsilon", title, scale, marks,
                    lambda one: math.log10(one.epsilon) if one.epsilon else None)  # fmt: skip


def proved(found: Sequence[Point]) -> Panel | None:
    """The epsilon that naming disproves against held-out accuracy, also of defenses that promise none."""
    known = [one.accuracy for one in found if one.accuracy is not None]
    if not known or not any(one.epsilon_audited for one in found):
        return None
    across, upward = _across(known), svg.covering([one.epsilon_audited for one in found], (0,), about=6)
    parts = grid(upward, [], "held-out accuracy")
    for value in svg.ticks(across.low, across.high):
        parts.append(svg.line(across.percent(value), 0, across.percent(value), PANEL, "grid"))
        parts.append(svg.text(across.percent(value), PANEL + 18, svg.tick_text(value), "tick mid"))
    said = []
    for one, (shape, kind) in _looks(found):
        if one.accuracy is None:
            continue
        tip = f"{one.name}: epsilon of at least {one.epsilon_audited:.3g} proved, accuracy {svg.number(one.accuracy)}"
        y = upward.pixels(one.epsilon_audited, PANEL)
        parts.append(svg.marker(across.percent(one.accuracy), y, shape, kind, tip))
        said.append(tip)
    title = "Epsilon proved against accuracy"
    return Panel(title, svg.chart("proved", title, "; ".join(said), PANEL, parts))


def _looks(found: Sequence[Point]) -> list[tuple[Point, tuple[int, str]]]:
    """Each point with the marker of its line."""
    lines = list(series(found).values())
    bare = undefended(found)
    drawn = [(one, look(index)) for index, line in enumerate(lines) for one in line]
    return drawn if bare is None else [*drawn, (bare, (0, "mark ink"))]


def knowledge(found: Sequence[Point]) -> list[Panel]:
    """One panel a defense: leakage along its strengths to attackers who ignore it, know it, know its parameters."""
    scale = _heights(found)
    bare = undefended(found)
    panels = []
    for number, (name, line) in enumerate(series(found).items()):
        key, ticks = _axis([one.strength for one in line])
        parts = grid(scale, ticks, key)
        if bare is not None and bare.strongest.leakage["mean"] is not None:
            y = scale.pixels(bare.strongest.leakage["mean"], PANEL)
            parts.append(svg.line("0%", y, "100%", y, "level control"))
        said = []
        for index, known in enumerate(KNOWLEDGE):
            levels = [(f"{100 * (at + 0.5) / len(line):.2f}%", one, level) for at, one in enumerate(line)
                      if (level := one.knowing(known)) is not None]  # fmt: skip
            drawn = [svg.line(a, _y(scale, one), b, _y(scale, other), f"thread s{index}")
                     for (a, _, one), (b, _, other) in itertools.pairwise(levels)]  # fmt: skip
            for x, one, level in levels:
                tip = f"{one.name}, {knows(known)}: {spell(level.leakage)}"
                drawn += _mark(scale, x, level.leakage, index, f"s{index}", tip)
                said.append(tip)
            parts.append(f'<g transform="translate({9 * (index - 1)} 0)">{"".join(drawn)}</g>')
        panels.append(
            Panel(name, svg.chart(f"knowledge-{number}", f"{name} by knowledge", "; ".join(said), PANEL, parts))
        )
    return panels


def knows(known: str) -> str:
    return {"none": "ignores it", "mechanism": "knows the mechanism", "parameters": "knows its parameters"}[known]


def _scatter(
    found: Sequence[Point],
    name: str,
    title: str,
    x_title: str,
    scale: svg.Scale,
    marks: Sequence[tuple[float, str]],
    place: Place,
    behind: Sequence[str] = (),
) -> Panel:
    heights = _heights(found)
    parts = grid(heights, [], x_title)
    for value, label in marks:
        parts.append(svg.line(scale.percent(value), 0, scale.percent(value), PANEL, "grid"))
        parts.append(svg.text(scale.percent(value), PANEL + 18, label, "tick mid"))
    parts += behind
    said = []
    for index, line in enumerate(series(found).values()):
        shape, kind = look(index)
        placed = [(scale.percent(x), one) for one in line if (x := place(one)) is not None]
        for (a, one), (b, other) in itertools.pairwise(placed):
            ends = _y(heights, one.strongest), _y(heights, other.strongest)
            parts.append(svg.line(a, ends[0], b, ends[1], kind.replace("mark", "thread")))
        for a, one in placed:
            parts += _mark(heights, a, one.strongest.leakage, shape, kind.removeprefix("mark "), _tip(one))
            said.append(_tip(one))
    bare = undefended(found)
    at = place(bare) if bare is not None else None
    if bare is not None and at is not None:
        parts += _mark(heights, scale.percent(at), bare.strongest.leakage, 0, "ink", _tip(bare))
        said.append(_tip(bare))
    elif bare is not None and bare.strongest.leakage["mean"] is not None:
        y = _y(heights, bare.strongest)
        parts.append(svg.line("0%", y, "100%", y, "level control"))
    return Panel(title, svg.chart(name, title, "; ".join(said), PANEL, parts))


def _tip(one: Point) -> str:
    accuracy = "" if one.accuracy is None else f", accuracy {svg.number(one.accuracy)}"
    epsilon = "" if one.epsilon is None else f", epsilon {one.epsilon:.3g}"
    return f"{one.name}: leakage {spell(one.strongest.leakage)}{accuracy}{epsilon}"


def _mark(scale: svg.Scale, x: str, found: Interval, shape: int, kind: str, tip: str) -> list[str]:
    middle, low, high = found["mean"], found["low"], found["high"]
    if middle is None or low is None or high is None:
        return []
    whisker = svg.line(x, scale.pixels(low, PANEL), x, scale.pixels(high, PANEL), f"whisker {kind}")
    return [whisker, svg.marker(x, scale.pixels(middle, PANEL), shape, f"mark {kind}", tip)]


def _y(scale: svg.Scale, level: Level) -> float:
    return scale.pixels(level.leakage["mean"] or 0.0, PANEL)


def _across(values: Sequence[float]) -> svg.Scale:
    """An axis of accuracy as wide as its values, and a little wider, so that no marker lies on the border."""
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.05
    return svg.Scale(low - margin, high + margin)


def _heights(found: Sequence[Point]) -> svg.Scale:
    """The axis of leakage, the same for all charts."""
    shares = [level.leakage for one in found for level in one.levels]
    ends = [end for one in shares for end in (one["low"], one["mean"], one["high"])]
    low, high = TELLING
    return svg.covering([min(max(end, low), high) for end in ends if end is not None], (0,), about=8)


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
