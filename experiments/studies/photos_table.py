"""A table of a study whose axis is `dataset.photos`: each attack by its first image, and by all where it leaves several.

    python -m experiments.studies.photos_table docs/results/fully_connected.csv

The file is a study.csv of `python -m experiments.studies STUDY`, of which the columns that are read here may be kept
alone. PSNR is of each image of the attack to the user's photo that it is nearest to.
"""

import sys
from pathlib import Path

import pandas as pd

COLUMNS = ("photos", "attack", "named", "by all images", "similarity", "by all images", "PSNR, dB")
KEPT = ["dataset.photos", "label", "arm", "users", "facial_similarity", "rank1", "psnr"]
ARMS = ("attack", "all_images")


def table(path: Path) -> str:
    """The table in Markdown, a row for each number of photos and attack; the prior alone is left out."""
    study = pd.read_csv(path).query("label != 'prior_only'")
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for (photos, label), rows in study.groupby(["dataset.photos", "label"], sort=False):
        first, every = (rows[rows["arm"] == arm] for arm in ARMS)
        named = [f"{round(one['rank1'] * one['users'])} of {one['users']}" for one in _records(first, every)]
        alike = [f"{one['facial_similarity']:.2f}" for one in _records(first, every)]
        pixels = f"{_records(first, every)[-1]['psnr']:.1f}"
        cells = [str(photos), f"`{label}`", *_two(named), *_two(alike), pixels]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _records(*parts: pd.DataFrame) -> list[dict[str, float]]:
    return [record for part in parts for record in part.to_dict("records")]


def _two(cells: list[str]) -> list[str]:
    return [*cells, ""][:2]


if __name__ == "__main__":
    print(table(Path(sys.argv[1])))
