"""The table of drawn photos of real people: whom they show beside how real they look, by task and training.

Each file holds the rows of a study, as `python -m experiments.studies.stored runs/task` prints them (docs/figures.md).
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from experiments.evaluate.realism import SHARPNESS, SWD
from experiments.studies.task_table import interval, named, similarity

COLUMNS = (
    "model, task",
    "picture",
    "similarity [95 %]",
    "named [95 %]",
    "face",
    "sharpness, 3 bands",
    "patch distance, 3 scales",
)
ARMS = {
    "determined": "the mean face",
    "attack": "a photo drawn given it",
    "wrong_update": "the same of another's update",
    "own_photo": "a real photo",
}

SAME = ("wrong_update",)  # arms of the same pictures, of which nothing is new but whom they are compared with
FORMS = ((("face_probability",), 2), (SHARPNESS, 2), (SWD, 1))  # of realism: columns, and their decimals


def table(files: dict[str, Path], attack: str = "user_diffusion") -> str:
    """The table in Markdown, a row for each arm of each state of the model and task."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for state, path in files.items():
        study = pd.read_csv(path)
        study = study[study["label"] == attack].set_index("arm")
        for task in study["cell"].unique():
            rows = study[study["cell"] == task]
            for arm, caption in ARMS.items():
                row = rows.loc[arm]
                cells = [
                    f"{state}, {task}",
                    caption,
                    similarity(row),
                    f"{named(row)} {interval(row)}",
                    *["" if arm in SAME else _numbers(row, names, digits) for names, digits in FORMS],
                ]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _numbers(row: "pd.Series[float]", names: Sequence[str], digits: int) -> str:
    return " ".join(f"{row[name]:.{digits}f}" for name in names)
