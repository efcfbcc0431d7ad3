"""The table of drawn photos of real people: whom they show beside how real they look, by task and training.

Each file holds the rows of a study, as `python -m experiments.studies.stored runs/task` prints them (docs/figures.md).
"""

from pathlib import Path

import pandas as pd

from experiments.evaluate.realism import SHARPNESS, SWD

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

FORMS = ((("face_probability",), 2), (SHARPNESS, 2), (SWD, 1))  # of realism: columns, and their decimals


def table(files: dict[str, Path]) -> str:
    """The table in Markdown, a row for each arm of each state of the model and task."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for state, path in files.items():
        study = pd.read_csv(path).set_index("arm")
        for task in study["cell"].unique():
            rows = study[study["cell"] == task]
            for arm, caption in ARMS.items():
                row, named = rows.loc[arm], round(rows.loc[arm, "rank1"] * rows.loc[arm, "users"])
                cells = [
                    f"{state}, {task}",
                    caption,
                    "{facial_similarity:.2f} [{facial_similarity_low:.2f}, {facial_similarity_high:.2f}]".format(**row),
                    f"{named} of {row['users']} [{100 * row['rank1_low']:.0f}, {100 * row['rank1_high']:.0f} %]",
                    *[" ".join(_number(row[name], digits) for name in names) for names, digits in FORMS],
                ]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float, digits: int) -> str:
    return "-" if pd.isna(value) else f"{value:.{digits}f}"
