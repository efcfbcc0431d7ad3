"""The table of a sweep: all that was measured in its cells, beside what varies, what it costs and what is promised.

A sweep file is a study (experiments.plan.study): defenses and their strengths in `cells`, seeds in `grid`, attacks
and what they know of the defense in `vary`. The table holds the leakage rows of all cells; the frontier is drawn of it.
"""

from typing import Any

import pandas as pd

from experiments.plan import attackers
from experiments.plan.defended import measures
from experiments.plan.defended import name as name_of
from experiments.plan.study import Cell, Study, expand, variants
from experiments.show import tables
from experiments.show.report.run_data import distorted
from fl_sim.config import ConfigError
from fl_sim.runs import RunFolder, read_manifest


def check(name: str, study: Study) -> None:
    """ConfigError where runs differ in what a frontier has no place for: more than defenses, strengths and seeds."""
    for key in sorted({key for cell in expand(name, study) for key in cell.keys} - {"defense", "strength", "seed"}):
        raise ConfigError(
            f"the sweep varies {key}; a frontier compares defenses, strengths and seeds. Give each value a sweep "
            f"of its own (-o base.{key}=VALUE --runs FOLDER), or run it as a study: "
            f"python -m experiments.studies {name}"
        )


def rows(cell: Cell, study: Study, run: RunFolder) -> pd.DataFrame:
    """The leakage of one cell, beside what the sweep varies and what the defense costs and guarantees."""
    table = pd.read_parquet(run.leakage)
    labels = {variant.label: variant.attack for variant in variants(study)}
    labels = {label: labels[source] for label, source in attackers.sources(cell.config).items()}
    table = table[table["attack"].isin(labels)]  # not what somebody attacked it with besides
    keys = {key: str(value) for key, value in cell.keys.items() if key != "seed"}
    facts: dict[str, Any] = {"cell": cell.name, "defense": name_of(measures(cell.config)), "strength": "", **keys}
    facts |= tables.last_round(pd.read_parquet(run.rounds))
    manifest = read_manifest(run)
    stated: dict[str, Any] = manifest["threat_model"]
    facts |= {key: stated["privacy"]["server"].get(key) for key in ("epsilon_run", "mechanism")}
    unknown = attackers.known_to_nobody(stated["not_adapted_to"])
    facts["known_to_nobody"] = ", ".join(unknown)  # defenses that no attack of the cell is adapted to
    facts["distorted"] = distorted(manifest, cell.config.defenses)
    more = table.assign(label=table["attack"], attack=table["attack"].map(labels), **facts)
    return more.astype({"epsilon_run": "float64", "mechanism": "string"})
