"""The tables of the paper, from the leakage of runs: every cell is text, ready for a page."""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from experiments.aggregate import aggregate
from experiments.paper.runs import Run

Table = dict[str, list[Any]]  # "columns": headings, "rows": lists of cells

READINGS = {"attack": "first image", "all_images": "all images together", "best_image": "best image (needs the truth)"}
BESIDE = {
    "prior_only": "prior alone (control)",
    "wrong_update": "another user's update (control)",
    "public_mean": "mean face (control)",
    "own_photo": "a real photo (ceiling)",
}


def per_user(run: Run) -> Table:
    """Figures 1 and 4: what the paper gives for one user, for every user."""
    label = run.attacks[0]
    rows = []
    table = run.table[run.table["attack"] == label]
    for user in sorted(int(number) for number in table["user"].unique()):
        own = table[table["user"] == user]
        arms: dict[Any, dict[Any, Any]] = own.set_index("arm").to_dict("index")
        attack = arms["attack"]
        similarity = [f"{arms[arm]['facial_similarity']:.4f}" for arm in ("attack", "prior_only", "own_photo")]
        pairs = f"{attack['in_batch_min']:.4f} to {attack['in_batch_max']:.4f}"
        rows.append([str(user), pairs, *similarity, f"{attack['rank']} of {attack['gallery_size']}"])
    figures = aggregate(run.table)["overall"][label]
    means = [_interval(figures[arm]["facial_similarity"]) for arm in ("attack", "prior_only", "own_photo")]
    rows.append(["mean", "", *means, f"rank-1 {_interval(figures['attack']['rank1'], share=True)}"])
    heads = ["user", "in-batch similarity", f"{label}, to the batch", "prior alone", "a real photo", "rank"]
    return {"columns": heads, "rows": rows}


def revealed(runs: Sequence[Run]) -> Table:
    """Tables 1 and 2: one row an attack and reading, then controls and ceiling; attributes by share read rightly."""
    rows: list[list[str]] = []
    columns: dict[str, str] = {"facial_similarity": "facial similarity", "rank1": "rank-1", "psnr": "PSNR, dB"}
    for run in runs:
        figures = aggregate(run.table)["overall"]
        names = [key for key in next(iter(figures.values()))["attack"] if key.startswith("attr_")]
        columns |= {name: name.removeprefix("attr_").replace("_", " ") for name in names}
    for run in runs:
        figures = aggregate(run.table)["overall"]
        for label in run.attacks:
            arms = [arm for arm in READINGS if arm in figures[label]]
            rows += [[label, READINGS[arm], *_cells(figures[label][arm], columns)] for arm in arms]
    arms_of = aggregate(runs[0].table)["overall"][runs[0].attacks[0]]
    rows += [["", name, *_cells(arms_of[arm], columns)] for arm, name in BESIDE.items() if arm in arms_of]
    people = runs[0].table.drop_duplicates("user")
    base = ["" if not name.startswith("attr_") else _base_rate(people[f"{name}_true"]) for name in columns]
    rows.append(["", "base rate (the commonest value)", *base])
    return {"columns": ["attack", "read by", *columns.values()], "rows": rows}


def varied(table: pd.DataFrame) -> Table:
    """Figure 5: one row a setting, from the table of a study."""
    rows = []
    for row in table[table["arm"] == "attack"].to_dict("records"):
        name = f"{row['setting']} = {row['value']}" if isinstance(row["setting"], str) else "as it is"
        similarity, rank1 = (
            {"mean": row[figure], "low": row[f"{figure}_low"], "high": row[f"{figure}_high"]}
            for figure in ("facial_similarity", "rank1")
        )
        rows.append([name, _interval(similarity), _interval(rank1, share=True)])
    return {"columns": ["setting", "facial similarity", "rank-1"], "rows": rows}


def _cells(figures: dict[str, Any], columns: Iterable[str]) -> list[str]:
    return [
        _interval(figures[name], share=name == "rank1" or name.startswith("attr_")) if name in figures else ""
        for name in columns
    ]


def _interval(found: dict[str, Any], share: bool = False) -> str:
    if found["mean"] is None:
        return ""
    mean, low, high = (float(found[end]) for end in ("mean", "low", "high"))
    if share:
        return f"{100 * mean:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def _base_rate(truth: pd.Series) -> str:
    known = truth.dropna()
    return f"{100 * float(known.value_counts(normalize=True).max()):.0f} %" if len(known) else ""
