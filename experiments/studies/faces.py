"""One picture of a run: what users keep, what their updates determine, and what the server draws of it.

    python -m experiments.studies.faces runs/quickstart --users 0,1,2,3 --out docs/quickstart.webp

A row a user: private photos, their mean as the update determines it, the answer, further draws, and the control, a face
from the prior without any update.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from attacker.capture.store import CaptureStore, read_reconstruction
from clients.datasets import open_dataset
from experiments.evaluate.ground_truth import captures_by_user
from experiments.studies.paper.pictures import INK, webp
from fl_sim.config import ConfigError, load
from fl_sim.runs import RunFolder, write_atomically

PHOTOS, DRAWS = 3, 3  # shown of each user
COLUMNS = (
    *("private photos", *[""] * (PHOTOS - 1)),
    *("its update\ndetermines", "the server\ndraws", "further draws", *[""] * (DRAWS - 1), "without any\nupdate"),
)


def row(run: RunFolder, user: int, attack: str) -> list[Tensor | None]:
    """The pictures (3, H, W) in [0, 1] of one user in the first round, by COLUMNS; None where there is none."""
    config, store = load(run.config, []), CaptureStore(run)
    rounds = store.finished_rounds()
    captures = captures_by_user(config, store, rounds[0]) if rounds else {}
    if user not in captures:
        raise ConfigError(f"{run.root} has no update of user {user} in its first round; give users that it has")
    made = {label: run.reconstruction(label, rounds[0], captures[user]) for label in (attack, "prior_only")}
    if not made[attack].is_file():
        raise ConfigError(f"{run.root} has no reconstruction of user {user} by {attack!r}; give an attack that it has")
    found = read_reconstruction(run, attack, rounds[0], captures[user])
    photos = open_dataset(config.dataset, config.seed).user(user).private.photos
    drawn = [] if found.draws is None else [one for one in found.draws if not torch.equal(one, found.images[0])]
    control = None
    if made["prior_only"].is_file():
        control = read_reconstruction(run, "prior_only", rounds[0], captures[user])
    shown: list[Tensor | None] = [*photos[:PHOTOS], *[None] * (PHOTOS - len(photos))]
    shown += [found.determined, found.images[0], *drawn[:DRAWS], *[None] * (DRAWS - len(drawn))]
    return [*shown, None if control is None else control.images[0]]


def picture(rows: list[list[Tensor | None]]) -> bytes:
    """A WebP of rows as `row` gives them."""
    figure = Figure(figsize=(1.05 * len(COLUMNS), 1.05 * len(rows) + 0.45))
    axes = np.asarray(figure.subplots(len(rows), len(COLUMNS), squeeze=False))
    for place, head in zip(axes[0], COLUMNS, strict=True):
        place.set_title(head, fontsize=8.5, loc="left", color=INK)
    for places, shown in zip(axes, rows, strict=True):
        for place, image in zip(places, shown, strict=True):
            place.set_axis_off()
            if image is not None:
                place.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="lanczos")
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=1 - 0.45 / (1.05 * len(rows) + 0.45), wspace=0.06)
    return webp(figure)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.studies.faces", description="Faces of a run.")
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--users", default="0,1,2,3", help="numbers with commas between; default: %(default)s")
    parser.add_argument("--attack", default="user_diffusion", metavar="LABEL", help="default: %(default)s")
    parser.add_argument("--out", type=Path, required=True, metavar="WEBP")
    given = parser.parse_args(arguments)
    if given.out.suffix != ".webp":
        parser.error(f"--out {given.out} given; give a name that ends with .webp")
    if not all(part.strip().isdecimal() for part in given.users.split(",")):
        parser.error(f"--users {given.users} given; give numbers with commas between, such as 0,1,2")
    try:
        rows = [row(RunFolder(given.run), int(user), given.attack) for user in given.users.split(",")]
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_atomically(given.out, picture(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
