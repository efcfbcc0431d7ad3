"""The plot of a study: facial similarity and rank-1 against what was varied, controls and a real photo beside it."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.evaluate.arms import CAPTIONS
from experiments.plan.study import Study, present

METRICS = {"facial_similarity": "facial similarity", "rank1": "rank-1"}
COLOURS = ("#1b5fae", "#b4510d", "#107a63", "#84409a", "#8c6a00")  # those of the report
MARKERS = ("o", "s", "D", "^", "P")
INK, SOFT, GRID = "#1d1f21", "#7a7e83", "#e6e6e0"
LEVELS = {"prior_only": (0, (4, 3)), "own_photo": "solid"}  # style of the line, by arm


@dataclass(frozen=True)
class Line:
    """One attack along the axis."""

    name: str
    places: list[int]  # on the axis
    rows: pd.DataFrame  # one a place


def draw(study: Study, table: pd.DataFrame) -> bytes:
    """A PNG: a curve along the axis, or where several settings are varied one at a time, a row for each value."""
    found = table[table["attack"] != "prior_only"]
    settings = list(dict.fromkeys(found["setting"].dropna()))
    figure = _forest(study, found, settings) if len(settings) > 1 else _curves(study, found, settings)
    return content(figure)


def content(figure: Figure, kind: str = "png", dpi: int = 150, **how: Any) -> bytes:
    """The content of a file of a figure; `how`: Matplotlib's options of it."""
    file = io.BytesIO()
    figure.savefig(file, format=kind, dpi=dpi, bbox_inches="tight", facecolor="white", **how)
    return file.getvalue()


def _curves(study: Study, table: pd.DataFrame, settings: Sequence[str]) -> Figure:
    table = table.copy()
    for setting in settings:  # the attack as it stands in `base` is one point of its own curve
        for label in study.vary:
            own = (table["attack"] == label) & table["setting"].isna()
            table.loc[own, "value"] = str(present(label, study.base["attacks"][label], setting))
    column = "value" if study.axis in settings else study.axis
    table = table[table[column].notna()].assign(**{column: lambda rows: rows[column].astype(str)})
    ticks, ordered = _ticks(table[column])
    lines = list(_lines(table, column, ticks))
    figure = Figure(figsize=(9.6, 3.6))
    for axes, (metric, title) in zip(figure.subplots(1, 2), METRICS.items(), strict=True):
        _frame(axes, title, ticks, study.axis.rpartition(".")[2].replace("_", " "))
        for arm, style in LEVELS.items():
            level = table[table["arm"] == arm].groupby(column, sort=False)[metric].mean().reindex(ticks)
            if ordered:
                axes.plot(range(len(ticks)), level, color=SOFT, lw=1.2, ls=style, zorder=1)
            else:
                axes.hlines(level, [i - 0.4 for i in range(len(ticks))], [i + 0.4 for i in range(len(ticks))],
                            color=SOFT, lw=1.2, ls=style, zorder=1)  # fmt: skip
        for index, line in enumerate(lines):
            shift = (index - (len(lines) - 1) / 2) * min(0.09, 0.5 / len(lines))
            _points(axes, [place + shift for place in line.places], line.rows, metric, index, line.name, ordered)
    figure.subplots_adjust(wspace=0.18)
    _head(figure, study.title)
    return figure


def _lines(table: pd.DataFrame, column: str, ticks: Sequence[str]) -> list[Line]:
    """A line an attack, and a line each for further keys that the cells vary."""
    others = [key for key in _cell_keys(table) if key != column] if column != "cell" else []
    found = []
    for names, rows in table[table["arm"] == "attack"].groupby(["attack", *others], sort=False, dropna=False):
        places = [ticks.index(str(value)) for value in rows[column]]
        order = sorted(range(len(places)), key=places.__getitem__)
        found.append(Line(", ".join(map(str, names)), [places[i] for i in order], rows.iloc[order]))
    return found


def _forest(study: Study, table: pd.DataFrame, settings: Sequence[str]) -> Figure:
    """One attack's values one below the other, grouped by setting, against the attack as it stands in `base`."""
    attacked = table[table["arm"] == "attack"]
    labels: list[tuple[str, str, pd.Series]] = []  # (setting, value, row)
    for attack in dict.fromkeys(attacked["attack"]):
        own = attacked[attacked["attack"] == attack]
        labels += [("", attack, row) for _, row in own[own["setting"].isna()].iterrows()]
        for setting in settings:
            rows = own[own["setting"] == setting]
            labels += [(setting, str(row["value"]), row) for _, row in rows.iterrows()]
    figure = Figure(figsize=(9.6, 0.6 + 0.24 * (len(labels) + len(settings) * 0.6)))
    heights, at, last = [], 0.0, ""
    for setting, _, _ in labels:
        at += 1 + 0.6 * (setting != last)
        heights.append(at)
        last = setting
    for axes, (metric, title) in zip(figure.subplots(1, 2, sharey=True), METRICS.items(), strict=True):
        axes.set_title(title, fontsize=10, loc="left", color=INK)
        base = next(row[metric] for setting, attack, row in labels if not setting and attack in study.vary)
        axes.axvline(base, color=COLOURS[0], lw=0.8, alpha=0.6)
        for arm, style in LEVELS.items():
            level = table[table["arm"] == arm][metric].mean()
            axes.axvline(level, color=SOFT, lw=1.2, ls=style, label=CAPTIONS[arm])
        for height, (setting, _, row) in zip(heights, labels, strict=True):
            colour = INK if not setting else COLOURS[0]
            low, high = row[f"{metric}_low"], row[f"{metric}_high"]
            axes.plot([low, high], [height, height], color=colour, lw=1.6, alpha=0.6, solid_capstyle="round")
            axes.plot([row[metric]], [height], "o", color=colour, ms=5)
        _plain(axes)
        axes.grid(axis="x", color=GRID, lw=0.8)
    names = [f"{setting.replace('_', ' ')} = {value}" if setting else value for setting, value, _ in labels]
    left = figure.axes[0]
    left.set_yticks(heights, names)
    left.set_ylim(heights[-1] + 1, heights[0] - 1)
    figure.subplots_adjust(wspace=0.06)
    _head(figure, study.title)
    return figure


def _cell_keys(table: pd.DataFrame) -> list[str]:
    fixed = {"cell", "attack", "setting", "label", "value", "round", "arm", "users"}
    figures = {name for name in table if f"{name}_low" in table}
    ends = {f"{name}_{end}" for name in figures for end in ("low", "high")}
    return [str(name) for name in table if name not in fixed | figures | ends]


def _ticks(values: pd.Series) -> tuple[list[str], bool]:
    """Distinct values along the axis; numbers by size, and whether they are numbers: only those are joined."""
    distinct = list(dict.fromkeys(values))
    try:
        return sorted(distinct, key=float), True
    except ValueError:
        return distinct, False


def _points(
    axes: Axes, places: Sequence[float], rows: pd.DataFrame, metric: str, index: int, name: str, joined: bool
) -> None:
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    middle = rows[metric].astype(float)
    low, high = rows[f"{metric}_low"].astype(float), rows[f"{metric}_high"].astype(float)
    axes.vlines(places, low, high, color=colour, lw=1.8, alpha=0.6, zorder=2)
    if joined:
        axes.plot(places, middle, color=colour, lw=1, alpha=0.9, zorder=2)
    face = colour if index < len(COLOURS) else "white"
    axes.plot(places, middle, marker, color=colour, mfc=face, ms=5.5, label=name, zorder=3)


def _frame(axes: Axes, title: str, ticks: Sequence[str], x_title: str) -> None:
    axes.set_title(title, fontsize=10, loc="left", color=INK)
    slanted = max(map(len, ticks)) * len(ticks) > 48
    axes.set_xticks(range(len(ticks)), ticks, rotation=30 if slanted else 0, ha="right" if slanted else "center")
    axes.set_xlim(-0.5, len(ticks) - 0.5)
    if x_title != "cell":
        axes.set_xlabel(x_title, fontsize=9, color=SOFT)
    _plain(axes)
    axes.grid(axis="y", color=GRID, lw=0.8)
    axes.set_ylim(-0.12, 1.05)


def _plain(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(SOFT)
    axes.tick_params(length=0, labelsize=8.5, colors=INK)


def _head(figure: Figure, title: str) -> None:
    """Title and legend above the panels; what stands where is counted in inches from their upper edge."""
    axes, height = figure.axes[0], figure.get_figheight()
    handles, names = axes.get_legend_handles_labels()
    if not any(CAPTIONS[arm] in names for arm in LEVELS):
        for arm, style in LEVELS.items():
            handles += axes.plot([], [], color=SOFT, lw=1.2, ls=style)
            names.append(CAPTIONS[arm])
    columns = min(len(names), 4)
    top = axes.get_position().y1 + 0.3 / height
    figure.legend(
        handles, names, loc="lower left", bbox_to_anchor=(0.1, top),
        ncols=columns, frameon=False, fontsize=8.5, borderpad=0,
    )  # fmt: skip
    lines = -(-len(names) // columns)
    above = top + (0.12 + 0.19 * lines) / height
    figure.text(0.1, above, title, fontsize=11, color=INK, va="bottom")
