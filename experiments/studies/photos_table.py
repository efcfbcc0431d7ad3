"""A table of a study whose axis is `dataset.photos`: each attack by its first image, and by all where it has several.

    python -m experiments.studies.photos_table docs/results/fully_connected.csv

The file is a study.csv of `python -m experiments.studies STUDY`, of which the columns that are read here may be kept
alone. PSNR is of each image of the attack to the user's photo that it is nearest to.
"""

import sys
from pathlib import Path

import pandas as pd

from experiments.show.markdown import markdown_table

COLUMNS = ("photos", "attack", "named", "by all images", "similarity", "by all images", "PSNR, dB")
ARMS = ("attack", "all_images")


def table(path: Path) -> str:
    """The table in Markdown, a row for each number of photos and attack; the prior alone is left out."""
    study = pd.read_csv(path).query("label != 'prior_only'")
    lines = []
    for (photos, label), rows in study.groupby(["dataset.photos", "label"], sort=False):
        read = [one for arm in ARMS for _, one in rows[rows["arm"] == arm].iterrows()]
        named = [f"{one['rank1'] * one['users']:.0f} of {one['users']}" for one in read]
        alike = [f"{one['facial_similarity']:.2f}" for one in read]
        lines.append([photos, f"`{label}`", *[*named, ""][:2], *[*alike, ""][:2], f"{read[-1]['psnr']:.1f}"])
    return markdown_table(COLUMNS, lines)


if __name__ == "__main__":
    print(table(Path(sys.argv[1])))
