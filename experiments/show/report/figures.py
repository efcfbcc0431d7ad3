"""The figures of the report, each as a table of rows or one SVG chart."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from experiments.evaluate.arms import CAPTIONS, CONTROLS, GROUPS, REFERENCES
from experiments.show.report import svg
from experiments.show.report.captions import bracket, digits, heading, spell
from experiments.show.report.measured import Measured
from experiments.statistics.interval import Interval

ROW = 30  # CSS pixels, height of a row that holds a drawing
PANEL = 250  # CSS pixels, height of a chart


@dataclass(frozen=True)
class Row:
    """One line of a dot table: a name, a drawing on the shared axis, the number."""

    label: str
    swatch: Markup
    kind: str  # "attack", "control" or "reference": sets groups apart
    drawing: Markup
    value: str
    interval: str


@dataclass(frozen=True)
class DotTable:
    """Rows on one shared horizontal axis."""

    title: str
    caption: str
    rows: list[Row]
    axis: Markup


@dataclass(frozen=True)
class Panel:
    """A chart with its heading."""

    title: str
    drawing: Markup


def series_of(run_data: Measured) -> dict[str, int]:
    """Marker and colour of each attack, the same all over the page."""
    return {label: index for index, label in enumerate(run_data.attacks)}


def forest(run_data: Measured, metric: str, title: str, caption: str, label: str, server_round: int) -> DotTable | None:
    """Attacks, controls and references of one round on one axis; controls are those of attack `label`."""
    lines: list[tuple[str, Markup, str, str, Interval]] = []
    for attack, series in series_of(run_data).items():
        if interval := run_data.interval(attack, "attack", metric, server_round):
            lines.append((attack, svg.swatch(series), "attack", f"s{series % svg.SERIES}", interval))
    for arm in (*CONTROLS, *REFERENCES):
        if interval := run_data.interval(label, arm, metric, server_round):
            kind = str(GROUPS[arm])
            lines.append((CAPTIONS[arm], svg.swatch(0, f"mark {kind}"), kind, kind, interval))
    if not lines:
        return None
    scale = scale_of(metric, [end for *_, interval in lines for end in (interval.low, interval.high)])
    rows = [
        Row(
            name,
            swatch,
            kind,
            _dot_row(scale, interval, svg_class, series_of(run_data).get(name, 0)),
            svg.number(interval.mean, digits(metric)),
            bracket(interval, digits(metric)),
        )
        for name, swatch, kind, svg_class, interval in lines
    ]
    return DotTable(title, caption, rows, axis(scale))


def per_round(run_data: Measured, metric: str, title: str, label: str) -> Panel | None:
    """The metric of every attack over the rounds; controls and references of attack `label` as lines."""
    rounds = run_data.measured_rounds
    points = {
        attack: [
            (i, r, measured)
            for i, r in enumerate(rounds)
            if (measured := run_data.interval(attack, "attack", metric, r))
        ]
        for attack in run_data.attacks
    }
    lines = {arm: measured for arm in (*CONTROLS, *REFERENCES) if (measured := run_data.interval(label, arm, metric))}
    if not any(points.values()):
        return None
    ends = [end for entries in points.values() for _, _, measured in entries for end in (measured.low, measured.high)]
    scale = scale_of(metric, [*ends, *(measured.mean for measured in lines.values())])
    parts = grid(scale, [str(r) for r in rounds], "round")
    heights = [scale.pixels(measured.mean, PANEL) for measured in lines.values()]
    labels = svg.spread(heights, 15, 4, PANEL - 2)
    for (arm, _), y, at in zip(lines.items(), heights, labels, strict=True):
        kind = str(GROUPS[arm])
        parts.append(svg.line("0%", y, "100%", y, f"level {kind}"))
        parts.append(
            f'<svg x="100%" y="0" class="open"><path d="M2 {y}L12 {at:.1f}" class="leader"/>'
            f"{svg.text('15', at + 4, CAPTIONS[arm], f'label {kind}')}</svg>"
        )
    for attack, entries in points.items():
        series = series_of(run_data)[attack]
        shift = (series - (len(points) - 1) / 2) * 9
        kind = f"s{series % svg.SERIES}"
        drawn = []
        for (i, _, here), (j, _, there) in itertools.pairwise(entries):
            drawn.append(
                svg.line(
                    _slot(i, len(rounds)),
                    scale.pixels(here.mean, PANEL),
                    _slot(j, len(rounds)),
                    scale.pixels(there.mean, PANEL),
                    f"thread {kind}",
                )
            )
        for i, server_round, measured in entries:
            x = _slot(i, len(rounds))
            drawn.append(
                svg.line(x, scale.pixels(measured.low, PANEL), x, scale.pixels(measured.high, PANEL), f"whisker {kind}")
            )
            tip = f"{attack}, round {server_round}: {spell(measured, digits(metric))}"
            drawn.append(svg.marker(x, scale.pixels(measured.mean, PANEL), series, f"mark {kind}", tip))
        parts.append(f'<g transform="translate({shift:.1f} 0)">{"".join(drawn)}</g>')
    description = "; ".join(
        f"{attack}: " + ", ".join(f"round {r} {spell(measured, digits(metric))}" for _, r, measured in entries)
        for attack, entries in points.items()
        if entries
    )
    levels = ", ".join(f"{CAPTIONS[arm]} {svg.number(measured.mean)}" for arm, measured in lines.items())
    return Panel(
        title, svg.chart(f"round-{metric}", f"{title} per round", f"{description}. Lines: {levels}.", PANEL, parts)
    )


def attributes(run_data: Measured, label: str) -> list[DotTable]:
    """Share of users whose attribute is read right, all rounds together, against the commonest value of public people.

    One table an attribute, all on one axis; what is not an attack (prior only, the regression on the update that needs
    no picture, a real photo) is that of attack `label`.
    """
    tables = []
    scale = svg.Scale(0, 1)
    for attribute in run_data.attribute_names:
        base_rate = run_data.interval(label, "base_rate", f"attr_{attribute}")
        base = base_rate.mean if base_rate else None
        rows = []
        for attack, series in series_of(run_data).items():
            if interval := run_data.interval(attack, "attack", f"attr_{attribute}"):
                drawing = _dot_row(scale, interval, f"s{series % svg.SERIES}", series, base)
                rows.append(
                    Row(attack, svg.swatch(series), "attack", drawing, svg.number(interval.mean), bracket(interval))
                )
        for arm in ("attribute_inference", "prior_only", "own_photo"):
            if interval := run_data.interval(label, arm, f"attr_{attribute}"):
                kind = "reference" if arm in REFERENCES else "control"
                mark, drawing = svg.swatch(0, f"mark {kind}"), _dot_row(scale, interval, kind, 0, base)
                rows.append(Row(CAPTIONS[arm], mark, kind, drawing, svg.number(interval.mean), bracket(interval)))
        if not rows:
            continue
        caption = f"Base rate {spell(base_rate)}: users who have the commonest value of public people."
        tables.append(DotTable(heading(attribute), caption, rows, axis(scale)))
    return tables


def accuracy(run_data: Measured) -> Panel | None:
    """Accuracy of the global model on held-out photos over the rounds."""
    table = run_data.rounds
    if table is None or "accuracy" not in table or not table["accuracy"].notna().any():
        return None
    known = table[table["accuracy"].notna()]
    rounds = [int(value) for value in known["round"]]
    values = [float(value) for value in known["accuracy"]]
    scale = svg.Scale(0, 1)
    parts = grid(scale, [str(r) for r in rounds], "round")
    ys = [scale.pixels(value, PANEL) for value in values]
    for i in range(len(ys) - 1):
        parts.append(svg.line(_slot(i, len(ys)), ys[i], _slot(i + 1, len(ys)), ys[i + 1], "thread ink"))
    for i, y in enumerate(ys):
        tip = f"round {rounds[i]}: {svg.number(values[i], 3)}"
        parts.append(svg.marker(_slot(i, len(ys)), y, 0, "mark ink", tip))
    description = ", ".join(f"round {r} {svg.number(value, 3)}" for r, value in zip(rounds, values, strict=True))
    return Panel("Accuracy on held-out photos", svg.chart("accuracy", "Accuracy per round", description, PANEL, parts))


def scale_of(metric: str, values: Sequence[float]) -> svg.Scale:
    if metric == "facial_similarity":
        return svg.covering(values, (0, 0.8))
    return svg.Scale(0, 1) if metric.startswith(("rank1", "rank5", "verified")) else svg.covering(values, (0, 1))


def _slot(index: int, count: int) -> str:
    return f"{100 * (index + 0.5) / count:.2f}%"


def grid(scale: svg.Scale, columns: Sequence[str], x_title: str) -> list[str]:
    """Horizontal grid with numbers, names of the columns below (thinned where there are many), title of the x axis."""
    parts = []
    for value in svg.ticks(scale.low, scale.high):
        y = scale.pixels(value, PANEL)
        parts.append(svg.line("0%", y, "100%", y, "axis" if value == max(scale.low, 0.0) else "grid"))
        parts.append(svg.text("0", y + 4, svg.tick_text(value), "tick end", -10))
    every = math.ceil(len(columns) / 8)
    for i, name in enumerate(columns):
        if i % every == 0:
            parts.append(svg.text(_slot(i, len(columns)), PANEL + 18, name, "tick mid"))
    parts.append(svg.text("50%", PANEL + 37, x_title, "title mid"))
    return parts


def row_grid(scale: svg.Scale) -> list[str]:
    marks = svg.ticks(scale.low, scale.high)
    return [
        svg.line(scale.percent(value), 0, scale.percent(value), ROW, "axis" if value == 0 else "grid")
        for value in marks
    ]


def _dot_row(scale: svg.Scale, interval: Interval, kind: str, series: int, base: float | None = None) -> Markup:
    y = ROW / 2
    parts = row_grid(scale)
    if base is not None:
        parts.append(svg.line(scale.percent(base), 2, scale.percent(base), ROW - 2, "base"))
    parts.append(svg.line(scale.percent(interval.low), y, scale.percent(interval.high), y, f"whisker {kind}"))
    parts.append(svg.marker(scale.percent(interval.mean), y, series, f"mark {kind}"))
    return svg.strip(ROW, parts)


def axis(scale: svg.Scale) -> Markup:
    marks = svg.ticks(scale.low, scale.high)
    return svg.strip(18, [svg.text(scale.percent(value), 13, svg.tick_text(value), "tick mid") for value in marks])
