"""The README's table of real faces: who is named, by task and training, from stored results of the study `task`.

Each file holds the rows of a study, as `python -m experiments.studies.stored runs/task` prints them (docs/figures.md).
"""

from pathlib import Path

import pandas as pd

COLUMNS = (
    "model, task",
    "named by `user_diffusion`",
    "similarity",
    "by `inverting_gradients`",
    "another's update",
    "a real photo",
)


def table(files: dict[str, Path]) -> str:
    """The table in Markdown, a row for each state of the model and task."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for state, path in files.items():
        study = pd.read_csv(path)
        for task in study["cell"].unique():
            rows = study[study["cell"] == task].set_index(["label", "arm"])
            ours, plain = rows.loc[("user_diffusion", "attack")], rows.loc[("inverting_gradients", "attack")]
            beside = [named(rows.loc[("user_diffusion", arm)]) for arm in ("wrong_update", "own_photo")]
            cells = [f"{state}, {task}", f"{named(ours)} {interval(ours)}", similarity(ours), named(plain), *beside]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def named(row: "pd.Series[float]") -> str:
    """How many of the users are named first."""
    return f"{round(row['rank1'] * row['users'])} of {round(row['users'])}"


def interval(row: "pd.Series[float]") -> str:
    """The 95 % interval of that share."""
    return f"[{100 * row['rank1_low']:.0f}, {100 * row['rank1_high']:.0f} %]"


def similarity(row: "pd.Series[float]") -> str:
    """The mean facial similarity, with its 95 % interval."""
    return "{facial_similarity:.2f} [{facial_similarity_low:.2f}, {facial_similarity_high:.2f}]".format(**row)
