"""The distributions behind the means: facial similarity of every user, and the histogram of ranks."""

from collections.abc import Sequence

import pandas as pd

from experiments.evaluate.arms import CAPTIONS, CONTROLS, GROUPS, REFERENCES
from experiments.show.report import svg
from experiments.show.report.captions import bracket
from experiments.show.report.figures import PANEL, ROW, DotTable, Panel, Row, axis, grid, row_grid, scale_of, series_of
from experiments.show.report.measured import Measured


def ranks(run_data: Measured, attack: str) -> Panel | None:
    """Histogram of the ranks, attack beside its controls, all rounds together; a dash at the level of a blind guess."""
    arms = {
        arm: rows
        for arm in ("attack", "prior_only", "wrong_update")
        if not (rows := run_data.rows(attack, arm)).empty and rows["rank"].notna().any()
    }
    if "attack" not in arms:
        return None
    people = run_data.gallery_size
    edges = [edge for edge in (1, 5, 10, 25, 50, 100, 200, 500, 1000, 2000, 5000, 10000) if edge < people] + [people]
    names = [
        f"{low + 1}{svg.DASH}{high}" if high > low + 1 else f"{high}"
        for low, high in zip([0, *edges], edges, strict=False)
    ]
    counts = {arm: _binned(rows["rank"].dropna(), edges) for arm, rows in arms.items()}
    totals = {arm: sum(values) for arm, values in counts.items()}
    scale = svg.Scale(0, 1)
    parts = grid(scale, names, "rank of the true user")
    series = series_of(run_data).get(attack, 0) % svg.SERIES
    kinds = {"attack": f"bar s{series}", "prior_only": "bar control", "wrong_update": "bar hollow"}
    slot = 100 / len(edges)
    width = slot * 0.84 / len(arms)
    for b, low in enumerate([0, *edges[:-1]]):
        for a, arm in enumerate(arms):
            share = counts[arm][b] / totals[arm]
            top, left = scale.pixels(share, PANEL), slot * (b + 0.08) + a * width
            if share > 0:
                parts.append(
                    f'<rect x="{left + width * 0.06:.2f}%" y="{top}" width="{width * 0.88:.2f}%" '
                    f'height="{PANEL - top:.2f}" '
                    f'class="{kinds[arm]}"><title>{CAPTIONS[arm]}, rank {names[b]}: '
                    f"{counts[arm][b]} of {totals[arm]}</title></rect>"
                )
                parts.append(svg.text(f"{left + width / 2:.2f}%", top - 5, str(counts[arm][b]), "count"))
        chance = scale.pixels((edges[b] - low) / people, PANEL)
        parts.append(svg.line(f"{slot * (b + 0.04):.2f}%", chance, f"{slot * (b + 0.96):.2f}%", chance, "guess"))
    description = "; ".join(
        f"{CAPTIONS[arm]}: " + ", ".join(f"rank {name} {count}" for name, count in zip(names, values, strict=True))
        for arm, values in counts.items()
    )
    return Panel(
        attack, svg.chart(f"ranks-{series_of(run_data).get(attack, 0)}", f"Ranks, {attack}", description, PANEL, parts)
    )


def strips(run_data: Measured, label: str) -> DotTable | None:
    """Facial similarity of every user and round, one strip an arm; controls are those of attack `label`."""
    sources = [
        (attack, attack, "attack", f"s{series % svg.SERIES}", series) for attack, series in series_of(run_data).items()
    ]
    sources += [(CAPTIONS[arm], label, arm, str(GROUPS[arm]), 0) for arm in (*CONTROLS, *REFERENCES)]
    measured = [
        (*source, values)
        for source in sources
        if len(values := _finite(run_data.rows(source[1], source[2]), "facial_similarity"))
    ]
    if not measured:
        return None
    scale = scale_of("facial_similarity", [value for *_, values in measured for value in values])
    rows = []
    for name, attack, arm, kind, series, values in measured:
        drawn = row_grid(scale)
        for k, value in enumerate(values):
            y = ROW / 2 + (k * 0.618 % 1 - 0.5) * (ROW - 12)  # spread evenly, the same every time
            drawn.append(f'<circle cx="{scale.percent(value)}" cy="{y:.1f}" r="2.6" class="dot {kind}"/>')
        mean = sum(values) / len(values)
        drawn.append(svg.line(scale.percent(mean), 3, scale.percent(mean), ROW - 3, f"mean {kind}"))
        swatch = svg.swatch(series, f"mark {kind}")
        group = "attack" if arm == "attack" else kind
        interval = run_data.interval(attack, arm, "facial_similarity")
        rows.append(Row(name, swatch, group, svg.strip(ROW, drawn), svg.number(mean), bracket(interval)))
    return DotTable(
        "Facial similarity, every user and round",
        "A dot is one user in one round; the stroke is the mean.",
        rows,
        axis(scale),
    )


def _binned(values: pd.Series, edges: Sequence[int]) -> list[int]:
    lows = [0, *edges[:-1]]
    return [int(((values > low) & (values <= high)).sum()) for low, high in zip(lows, edges, strict=True)]


def _finite(rows: pd.DataFrame, column: str) -> list[float]:
    if rows.empty or column not in rows:
        return []
    return [float(value) for value in rows[column].dropna()]
