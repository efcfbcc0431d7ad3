"""The frontier of a sweep: what defenses buy and cost, against the strongest of the attackers that were tried.

`write_frontier(DIR)` reads DIR/sweep.parquet and writes DIR/frontier.html, one page that fetches nothing, beside the
reports of the cells, which link to it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table

from experiments.plan.study import Study
from experiments.show.frontier import charts, pictures
from experiments.show.frontier.answers import answers
from experiments.show.frontier.points import KNOWLEDGE, REALISM, Point, adapting, less_than, points, series, undefended
from experiments.show.report import svg
from experiments.show.report.captions import p_value, spell
from experiments.show.report.templates import environment
from experiments.statistics.interval import Comparison
from experiments.statistics.verdict import exact
from fl_sim.config import ConfigError, parse, read
from fl_sim.runs import write_atomically

HERE = Path(__file__).parent


def write_frontier(folder: Path) -> tuple[Path, list[Point]]:
    """Write the page of a sweep; its path, and the points on it. ConfigError for a folder that is no finished sweep."""
    file = folder / "sweep.parquet"
    if not file.is_file():
        raise ConfigError(f"{folder} holds no sweep.parquet; give the folder of a sweep that `fl-sim sweep` has run")
    table = pd.read_parquet(file)
    if table.empty:
        raise ConfigError(f"no cell of {folder} is finished; give fl-sim sweep again to go on")
    measured = points(table)
    study = parse(Study, read(folder / "sweep.toml", []))
    bare = undefended(measured)
    said = answers(measured)
    shown = pictures.users(table, bare or measured[0])
    page = (
        environment(HERE)
        .get_template("frontier.html.j2")
        .render(
            title=study.title,
            folder=folder.name,
            answers=said,
            about=pictures.reconstructions(folder, table, said.about, shown) if said.about is not None else [],
            utility=charts.utility(measured),
            panels=[panel for panel in (charts.privacy(measured), charts.proved(measured)) if panel],
            promised=any(point.epsilon for point in measured),
            legend=charts.legend(measured),
            knowledge=charts.knowledge(measured),
            knowledge_legend=[(svg.swatch(index), charts.knows(known)) for index, known in enumerate(KNOWLEDGE)],
            rows=[(point, cells(point, bare)) for point in measured],
            photos=pictures.photos(folder, measured[0], shown),
            bare=pictures.reconstructions(folder, table, bare, shown) if bare is not None else [],
            strips=[
                (name, [(point, pictures.reconstructions(folder, table, point, shown)) for point in line])
                for name, line in series(measured).items()
            ],
            spell=spell,
            synthetic=study.base.get("dataset", {}).get("name", "synthetic") == "synthetic",
            users=measured[0].users,
            gallery=measured[0].gallery,
        )
    )
    path = folder / "frontier.html"
    write_atomically(path, page.encode())
    return path, measured


def cells(point: Point, bare: Point | None) -> list[str]:
    """The columns of the page's table beside the name."""
    levels = [point.knowing(known) for known in KNOWLEDGE]
    compared = _less(point, bare)
    return [
        svg.DASH if point.accuracy is None else svg.number(point.accuracy),
        "no guarantee" if point.epsilon is None else f"{point.epsilon:.3g}",
        f"{point.epsilon_audited:.3g}",
        f"{point.most_named.named} of {point.most_named.users} {exact(point.most_named.rank1)}",
        ", ".join(svg.DASH if value is None else svg.number(value) for value in point.most_named.realism),
        *(svg.DASH if level is None else spell(level.leakage) for level in levels),
        svg.DASH if compared is None else f"{spell(compared.difference)}, p {p_value(compared.p)}",
    ]


def rows(measured: Sequence[Point]) -> list[dict[str, Any]]:
    """The points as JSON: one object each."""
    made = []
    for point in measured:
        compared, gain = _less(point, undefended(measured)), adapting(point)
        made.append(
            {
                **{key: getattr(point, key) for key in ("defense", "strength", "cells", "users", "gallery")},
                **{key: getattr(point, key) for key in ("accuracy", "epsilon", "epsilon_audited", "delta", "status")},
                "leakage": point.strongest.leakage.as_json(),
                "rank1": point.most_named.rank1.as_json(),
                "named": point.most_named.named,
                **dict(zip(REALISM, point.most_named.realism, strict=True)),
                "keeps_promise": None if point.levels[0].promised is None else not point.breaks_promise,
                "strongest": {"attack": point.strongest.attack, "knowledge": point.strongest.knowledge},
                "by_attacker": {level.label: level.leakage.as_json() for level in point.levels},
                "less_than_undefended": None if compared is None else compared.as_json(),
                "gain_of_knowing": None if gain is None else gain.as_json(),
            }
        )
    return made


def summary(measured: Sequence[Point]) -> Table:
    """The points for the terminal."""
    table = Table(
        title="leakage to the strongest attacker", box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0)
    )
    table.add_column("defense", overflow="fold", min_width=16)
    for heading in ("accuracy", "epsilon\nproved", "named\n[95 %]", "leakage\n[95 %]"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("attacker\nknows", no_wrap=True)
    for point in measured:
        accuracy, epsilon, proved, named, *_ = cells(point, None)
        told = f"{epsilon.replace('no guarantee', '-')}\n{proved}"
        leakage = spell(point.strongest.leakage).replace(" [", "\n[")
        table.add_row(point.name, accuracy, told, named.replace(" [", "\n["), leakage, point.strongest.knowledge)
    return table


def _less(point: Point, bare: Point | None) -> Comparison | None:
    return None if bare is None or bare is point else less_than(point.strongest, bare.strongest)
