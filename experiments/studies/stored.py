"""What a study or a run found, as the rows that docs/results keeps, and cells of tables made of such rows.

    python -m experiments.studies.stored runs/training > docs/results/training.csv

One row an attack and arm, of all users together: what was varied, the number of users, the means of FIGURES with their
95 % intervals as FIGURE_low and FIGURE_high, and the means of REALISM. Where attributes were also inferred without a
picture, the shares that were read rightly are there too.
"""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.evaluate.arms import CAPTIONS
from experiments.evaluate.columns import records
from experiments.evaluate.realism import SHARPNESS, SWD
from experiments.show.markdown import markdown_table

FIGURES = ("facial_similarity", "rank1")
REALISM = ("face_probability", *SHARPNESS, *SWD)
KEYS = ["cell", "round", "attack", "setting", "value", "label", "arm", "users"]
OWN = {"attack": "", "determined": ", the mean face behind it"}  # arms of the attack, as a column adds them
BESIDE = ("wrong_update", "prior_only", "own_photo")  # arms that stand beside the attacks
PREDICTED = ("base_rate", "attribute_inference")  # arms without a picture
ARMS = (*OWN, *BESIDE, *PREDICTED)
WORDS = dict.fromkeys(("cell", "round", "value"), "string")  # columns that are read as they stand
Row = Mapping[str, Any]
Grid = dict[str, dict[str, str]]  # by row and column of a table, what is in the cell


def stored(folder: Path) -> pd.DataFrame:
    """The rows of a finished study, or of a run."""
    table = pd.read_csv(folder / "study.csv", dtype=WORDS) if (folder / "study.csv").is_file() else _of_run(folder)
    inferred = (table["arm"] == "attribute_inference").any()
    attributes = [name for name in table if re.fullmatch(r"attr_.*(?<!_low)(?<!_high)", str(name)) and inferred]
    figures = [f"{name}{end}" for name in FIGURES for end in ("", "_low", "_high")]
    kept = [name for name in [*KEYS, *figures, *REALISM, *attributes] if name in table]
    rows = table.loc[table["arm"].isin(ARMS if inferred else ARMS[: -len(PREDICTED)]), kept]
    return rows.dropna(axis="columns", how="all").round(4)


def _of_run(folder: Path) -> pd.DataFrame:
    """The same form, of one run."""
    from experiments.plan.study import Cell, Variant
    from experiments.studies.results import long_form
    from fl_sim.config import load

    leakage = pd.read_parquet(folder / "leakage.parquet")
    labels = [Variant(label, label) for label in leakage["attack"].unique()]
    return long_form(Cell(folder.name, {}, load(folder / "config.toml")), labels, leakage, by_round=False)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a stored file; None where it says nothing."""
    return records(pd.read_csv(path, dtype=WORDS))


def find(rows: list[dict[str, Any]], **wanted: str) -> dict[str, Any]:
    """The one row that has these values. LookupError where there is none, or more than one."""
    found = [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]
    if len(found) != 1:
        raise LookupError(f"{len(found)} rows have {wanted}; one is asked for")
    return found[0]


def told(row: Row) -> str:
    """Similarity with its interval, and users named, as far as known: `0.50 [0.47, 0.53], 56 of 58`."""
    return ", ".join(filter(None, (similarity(row), named(row))))


def similarity(row: Row) -> str:
    """Similarity with its interval, as far as known: `0.50 [0.47, 0.53]`."""
    ends = [_level(row[f"facial_similarity{end}"]) for end in ("", "_low", "_high") if _known(row, end)]
    return f"{ends[0]} [{ends[1]}, {ends[2]}]" if len(ends) == 3 else "".join(ends[:1])


def _known(row: Row, end: str) -> bool:
    return row.get(f"facial_similarity{end}") is not None


def named(row: Row) -> str:
    """Users named first, if known: `56 of 58`."""
    share, users = row.get("rank1"), row.get("users")
    return "" if share is None or users is None else f"{round(share * users)} of {users}"


def between(row: Row) -> str:
    """The 95 % interval of the share named first: `[88, 100 %]`."""
    return f"[{100 * row['rank1_low']:.0f}, {100 * row['rank1_high']:.0f} %]"


def _level(value: float) -> str:
    return f"{round(value, 2) + 0:.2f}"  # plus 0: no -0.00


def by(
    rows: list[dict[str, Any]], down: Callable[[Row], str], across: Callable[[Row], str] = lambda row: row["label"]
) -> Grid:
    """A grid of what each attack reached; the controls of the first attack of a row are its last columns."""
    found: Grid = {}
    for row in rows:
        if row["arm"] in OWN and row["label"] != "prior_only":
            found.setdefault(down(row), {})[across(row) + OWN[row["arm"]]] = told(row)
    for arm in BESIDE:
        for row in rows:
            if row["arm"] == arm and down(row) in found:
                found[down(row)].setdefault(CAPTIONS[arm], told(row))
    return found


def markdown(corner: str, grid: Grid) -> str:
    """A grid as a table."""
    columns = list(dict.fromkeys(column for cells in grid.values() for column in cells))
    rows = ([row, *(cells.get(column, "") for column in columns)] for row, cells in grid.items())
    return markdown_table([corner, *columns], rows)


if __name__ == "__main__":
    print(stored(Path(sys.argv[1])).to_csv(index=False), end="")
