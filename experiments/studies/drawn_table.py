"""The table of drawn photos of real people: whom they show beside how real they look, by task and training.

Each file holds the rows of a study, as `python -m experiments.studies.stored runs/task` prints them (docs/figures.md).
"""

from collections.abc import Sequence
from pathlib import Path

from experiments.evaluate.realism import SHARPNESS, SWD
from experiments.show.markdown import markdown_table
from experiments.studies import stored

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
    lines = []
    for state, path in files.items():
        study = stored.read(path)
        for task in dict.fromkeys(row["cell"] for row in study):
            for arm, caption in ARMS.items():
                row = stored.find(study, cell=task, label=attack, arm=arm)
                whom = [stored.similarity(row), f"{stored.named(row)} {stored.between(row)}"]
                real = ["" if arm in SAME else _numbers(row, names, digits) for names, digits in FORMS]
                lines.append([f"{state}, {task}", caption, *whom, *real])
    return markdown_table(COLUMNS, lines)


def _numbers(row: stored.Row, names: Sequence[str], digits: int) -> str:
    return " ".join(f"{row[name]:.{digits}f}" for name in names)
