"""The tables of the paper, from the leakage of runs: every cell is text, ready for a page.

Beside whom a picture shows stands how real it looks: nobody can win one by losing the other.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from experiments.evaluate.arms import CAPTIONS, CONTROLS, names
from experiments.evaluate.realism import SHARPNESS, SWD
from experiments.statistics.aggregate import Figures, aggregate
from experiments.statistics.interval import Interval
from experiments.studies.paper.runs import Run

Table = dict[str, list[Any]]  # "columns": headings, "rows": lists of cells

READINGS = {  # of an attack
    "attack": "first image",
    **{arm: CAPTIONS[arm] for arm in names("reading")},
    "best_image": f"{CAPTIONS['best_image']} (needs the truth)",
}
BESIDE = {arm: f"{CAPTIONS[arm]} (control)" for arm in CONTROLS} | {"own_photo": f"{CAPTIONS['own_photo']} (ceiling)"}
FOR_EACH_USER = ("determined", "prior_only", "own_photo")  # arms beside the attack
IDENTITY = {"facial_similarity": "facial similarity", "rank1": "rank-1"}
REALISM = ("face", "sharpness, 3 bands", "patch distance, 3 scales")
NOTE = (
    "Three columns say how real pictures look, whomever they show. Face: how sure a face detector (MTCNN) is, 0 to 1. "
    "Sharpness: contrast to a blur of 0.7, 1.4 and 2.8 px as a part of a photo's; below 1 is blur, above it noise. "
    "Patch distance: of 7 x 7 patches to those of photos, at full, half and quarter size; lower is more real. A "
    "picture may be real and of nobody, or blurred and of the user: read both."
)
"""What the columns REALISM mean, for the head of the page."""


def per_user(run: Run) -> Table:
    """Figures 1 and 4: what the paper gives for one user, for every user; then the means of each arm."""
    label = run.attacks[0]
    rows = []
    table = run.table[run.table["attack"] == label]
    figures = aggregate(run.table)["overall"][label]
    beside = [arm for arm in FOR_EACH_USER if arm in figures]
    for user in sorted(int(number) for number in table["user"].unique()):
        own = table[table["user"] == user]
        arms: dict[Any, dict[Any, Any]] = own.set_index("arm").to_dict("index")
        attack = arms["attack"]
        similarity = [f"{arms[arm]['facial_similarity']:.4f}" for arm in ("attack", *beside)]
        pairs = f"{attack['in_batch_min']:.4f} to {attack['in_batch_max']:.4f}"
        rank = f"{attack['rank']} of {attack['gallery_size']}"
        looks = aggregate(own)["overall"][label]["attack"]
        rows.append([str(user), pairs, *similarity, rank, *realism(looks)[:2], ""])
    means = [_interval(figures[arm]["facial_similarity"]) for arm in ("attack", *beside)]
    rank1 = f"rank-1 {_interval(figures['attack']['rank1'], share=True)}"
    rows.append(["mean", "", *means, rank1, *realism(figures["attack"])])
    for arm in beside:
        rank1 = f"rank-1 {_interval(figures[arm]['rank1'], share=True)}"
        rows.append([f"mean: {CAPTIONS[arm]}", "", *[""] * len(means), rank1, *realism(figures[arm])])
    heads = [
        "user",
        "in-batch similarity",
        f"{label}, to the batch",
        *(CAPTIONS[arm] for arm in beside),
        "rank",
        *REALISM,
    ]
    return {"columns": heads, "rows": rows}


def revealed(runs: Sequence[Run]) -> Table:
    """Tables 1 and 2: one row an attack and reading, then controls and ceiling; attributes by share read rightly."""
    rows: list[list[str]] = []
    more = {"psnr": "PSNR, dB"}
    for run in runs:
        figures = aggregate(run.table)["overall"]
        attributes = [key for key in next(iter(figures.values()))["attack"] if key.startswith("attr_")]
        more |= {name: name.removeprefix("attr_").replace("_", " ") for name in attributes}
    for run in runs:
        figures = aggregate(run.table)["overall"]
        for label in run.attacks:
            arms = [arm for arm in READINGS if arm in figures[label]]
            rows += [[label, READINGS[arm], *_judged(figures[label][arm], more)] for arm in arms]
    arms_of = aggregate(runs[0].table)["overall"][runs[0].attacks[0]]
    rows += [["", name, *_judged(arms_of[arm], more)] for arm, name in BESIDE.items() if arm in arms_of]
    people = runs[0].table.drop_duplicates("user")
    base = ["" if not name.startswith("attr_") else _base_rate(people[f"{name}_true"]) for name in more]
    rows.append(["", "base rate (the commonest value)", *[""] * len((*IDENTITY, *REALISM)), *base])
    return {"columns": ["attack", "read by", *IDENTITY.values(), *REALISM, *more.values()], "rows": rows}


def varied(table: pd.DataFrame) -> Table:
    """Figure 5: one row a setting, from the table of a study; last what the mean face behind a drawn answer reaches."""
    arms = {arm: rows.to_dict("records") for arm, rows in table.groupby("arm", sort=False)}
    behind = {row["label"]: _figures(row, ["facial_similarity"]) for row in arms.get("determined", [])}
    rows = []
    for row in arms["attack"]:
        name = f"{row['setting']} = {row['value']}" if isinstance(row["setting"], str) else "as it is"
        cells = _judged(_figures(row, [*IDENTITY, "face_probability", *SHARPNESS, *SWD]), ())
        mean = _cells(behind.get(row["label"], {}), ["facial_similarity"]) if behind else []
        rows.append([name, *cells, *mean])
    last = [f"{CAPTIONS['determined']}: similarity"] if behind else []
    return {"columns": ["setting", *IDENTITY.values(), *REALISM, *last], "rows": rows}


def _figures(row: dict[Any, Any], columns: Iterable[str]) -> Figures:
    """Of a row of a study the figures `columns`, as far as they were measured."""
    return {name: Interval(row[name], row[f"{name}_low"], row[f"{name}_high"]) for name in columns if name in row}


def realism(figures: Figures) -> list[str]:
    """The cells of the columns REALISM, from the figures of an arm; empty what was not measured."""
    parts = {("face_probability",): ".2f", SHARPNESS: ".2f", SWD: ".0f"}
    return [" ".join(_level(figures, name, form) for name in columns).strip() for columns, form in parts.items()]


def _level(figures: Figures, name: str, form: str) -> str:
    return format(figures[name].mean, form) if name in figures and figures[name].known else ""


def _judged(figures: Figures, more: Iterable[str]) -> list[str]:
    """The cells of IDENTITY, of REALISM, and of the figures `more`."""
    return [*_cells(figures, IDENTITY), *realism(figures), *_cells(figures, more)]


def _cells(figures: Figures, columns: Iterable[str]) -> list[str]:
    return [
        _interval(figures[name], share=name == "rank1" or name.startswith("attr_")) if name in figures else ""
        for name in columns
    ]


def _interval(figure: Interval, share: bool = False) -> str:
    if not figure.known:
        return ""
    if share:
        return f"{100 * figure.mean:.0f} % [{100 * figure.low:.0f}, {100 * figure.high:.0f}]"
    return figure.spelled()


def _base_rate(truth: pd.Series) -> str:
    known = truth.dropna()
    return f"{100 * float(known.value_counts(normalize=True).max()):.0f} %" if len(known) else ""
