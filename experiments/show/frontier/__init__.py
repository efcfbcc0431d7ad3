"""The frontier of a sweep: what defenses buy and cost, against the strongest of the attackers that were tried.

`write_frontier(DIR)` reads DIR/sweep.parquet and writes DIR/frontier.html, one page that fetches nothing, beside the
reports of the cells, which link to it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich import box
from rich.table import Table

from experiments.plan.study import Study
from experiments.show.frontier import charts, pictures
from experiments.show.frontier.points import KNOWLEDGE, REALISM, Point, adapting, less_than, points, series, undefended
from experiments.show.frontier.words import answers, p_value, spell
from experiments.show.report import svg
from experiments.show.report.words import breakable
from experiments.statistics.bootstrap import Comparison
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
    found = points(table)
    environment = Environment(
        loader=FileSystemLoader([HERE, HERE.parent / "report"]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = breakable
    study = parse(Study, read(folder / "sweep.toml", []))
    bare = undefended(found)
    said = answers(found)
    page = environment.get_template("frontier.html.j2").render(
        title=study.title,
        folder=folder.name,
        answers=said,
        about=pictures.reconstructions(folder, table, said.about) if said.about is not None else [],
        utility=charts.utility(found),
        panels=[panel for panel in (charts.privacy(found), charts.proved(found)) if panel],
        promised=any(one.epsilon for one in found),
        legend=charts.legend(found),
        knowledge=charts.knowledge(found),
        knowledge_legend=[(svg.swatch(index), charts.knows(known)) for index, known in enumerate(KNOWLEDGE)],
        rows=[(one, cells(one, undefended(found, one.setting))) for one in found],
        photos=pictures.photos(folder, found[0]),
        bare=pictures.reconstructions(folder, table, bare) if bare is not None else [],
        strips=[(name, pictures.strips(folder, table, line)) for name, line in series(found).items()],
        spell=spell,
        synthetic=study.base.get("dataset", {}).get("name", "synthetic") == "synthetic",
        users=found[0].users,
        gallery=found[0].gallery,
    )
    path = folder / "frontier.html"
    write_atomically(path, page.encode())
    return path, found


def cells(one: Point, bare: Point | None) -> list[str]:
    """The columns of the page's table beside the name."""
    levels = [one.knowing(known) for known in KNOWLEDGE]
    compared = _less(one, bare)
    return [
        svg.DASH if one.accuracy is None else svg.number(one.accuracy),
        "no guarantee" if one.epsilon is None else f"{one.epsilon:.3g}",
        f"{one.epsilon_audited:.3g}",
        f"{one.most_named.named} of {one.most_named.users} {exact(one.most_named.rank1)}",
        ", ".join(svg.DASH if value is None else svg.number(value) for value in one.most_named.realism),
        *(svg.DASH if level is None else spell(level.leakage) for level in levels),
        svg.DASH if compared is None else f"{spell(compared['difference'])}, p {p_value(compared['p'])}",
    ]


def rows(found: Sequence[Point]) -> list[dict[str, Any]]:
    """The points as JSON: one object each."""
    made = []
    for one in found:
        compared, gain = _less(one, undefended(found, one.setting)), adapting(one)
        made.append(
            {
                **{key: getattr(one, key) for key in ("defense", "strength", "setting", "cells", "users", "gallery")},
                **{key: getattr(one, key) for key in ("accuracy", "epsilon", "epsilon_audited", "delta", "status")},
                "leakage": one.strongest.leakage,
                "rank1": one.most_named.rank1,
                "named": one.most_named.named,
                **dict(zip(REALISM, one.most_named.realism, strict=True)),
                "keeps_promise": None if one.levels[0].promised is None else not one.breaks_promise,
                "strongest": {"attack": one.strongest.attack, "knowledge": one.strongest.knowledge},
                "by_attacker": {level.label: level.leakage for level in one.levels},
                "less_than_undefended": compared,
                "gain_of_knowing": gain,
            }
        )
    return made


def summary(found: Sequence[Point]) -> Table:
    """The points for the terminal."""
    table = Table(
        title="leakage to the strongest attacker", box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0)
    )
    table.add_column("defense", overflow="fold", min_width=16)
    for heading in ("accuracy", "epsilon\nproved", "named\n[95 %]", "leakage\n[95 %]"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("attacker\nknows", no_wrap=True)
    for one in found:
        accuracy, epsilon, proved, named, *_ = cells(one, None)
        told = f"{epsilon.replace('no guarantee', '-')}\n{proved}"
        leakage = spell(one.strongest.leakage).replace(" [", "\n[")
        table.add_row(one.name, accuracy, told, named.replace(" [", "\n["), leakage, one.strongest.knowledge)
    return table


def _less(one: Point, bare: Point | None) -> Comparison | None:
    return None if bare is None or bare is one else less_than(one.strongest, bare.strongest)
