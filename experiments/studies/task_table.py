"""The README's table of real faces: who is named, by task and training, from stored results of the study `task`.

Each file holds the rows of a study, as `python -m experiments.studies.stored runs/task` prints them (docs/figures.md).
"""

from pathlib import Path

from experiments.show.markdown import markdown_table
from experiments.studies import stored

COLUMNS = (
    "model, task",
    "named by `user_diffusion`",
    "similarity",
    "by `inverting_gradients`",
    "another's update",
    "a real photo",
)
ATTACKS = ("user_diffusion", "inverting_gradients")
BESIDE = ("wrong_update", "own_photo")  # arms of the first


def table(files: dict[str, Path]) -> str:
    """The table in Markdown, a row for each state of the model and task."""
    lines = []
    for state, path in files.items():
        study = stored.read(path)
        for task in dict.fromkeys(row["cell"] for row in study):
            ours, plain = (stored.find(study, cell=task, label=label, arm="attack") for label in ATTACKS)
            beside = [stored.find(study, cell=task, label=ATTACKS[0], arm=arm) for arm in BESIDE]
            first = [f"{stored.named(ours)} {stored.between(ours)}", stored.similarity(ours)]
            lines.append([f"{state}, {task}", *first, *map(stored.named, [plain, *beside])])
    return markdown_table(COLUMNS, lines)
