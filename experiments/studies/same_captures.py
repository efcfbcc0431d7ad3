"""Cells whose users send the same updates, since they differ in attacks and judges alone: one trains for all.

What a cell is lent is as if it had trained itself: the captures are the same to the last bit.
"""

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from experiments.plan.study import Cell
from experiments.run.trained import all_rounds
from fl_sim.config import Config, difference, dump, load
from fl_sim.runs import AFTERWARDS, RunFolder, private_folder, write_atomically


def firsts(cells: Sequence[Cell]) -> dict[str, str]:
    """By the name of each cell that of the first whose captures are the same: its own where there is no other."""
    found: dict[str, str] = {}
    for number, cell in enumerate(cells):
        earlier = (one.name for one in cells[:number] if same(one.config, cell.config))
        found[cell.name] = next(earlier, cell.name)
    return found


def same(one: Config, other: Config) -> bool:
    """Whether both configs lead to the same captures. What is kept of them must be as much, too."""
    keeps = [(sorted(config.workers.attack_rounds), config.workers.keep) for config in (one, other)]
    return keeps[0] == keeps[1] and difference(one, other, except_for=("name", *AFTERWARDS)) is None


def lend(cell: Cell, cells: Sequence[Cell], folder: Path) -> None:
    """Give a cell that was not begun the captures of one in `folder` that has trained; nothing where there is none."""
    run = RunFolder(folder / cell.name)
    if run.config.exists():
        return
    for other in cells:
        lender = RunFolder(folder / other.name)
        if other.name != cell.name and same(other.config, cell.config) and _trained(lender, cell.config):
            private_folder(run.root)
            ignored = shutil.ignore_patterns("lock")
            shutil.copytree(lender.captures, run.captures, copy_function=_link, ignore=ignored, dirs_exist_ok=True)
            for path in (lender.rounds, lender.faces):
                if path.exists():
                    _link(path, run.root / path.name)
            write_atomically(run.config, dump(cell.config).encode())  # last: by it the folder counts as a run
            return


def _trained(run: RunFolder, config: Config) -> bool:
    """Whether `run` holds all rounds of the captures that `config` asks for, and no cell is at work there."""
    return run.config.exists() and same(load(run.config), config) and all_rounds(run, config)


def _link(source: str | Path, target: str | Path) -> None:
    """A second name of a file of tensors, which is never written in place; else, and where links fail, a copy.

    In the place of what a lending that was stopped has left there.
    """
    Path(target).unlink(missing_ok=True)
    if Path(source).suffix == ".safetensors":
        with suppress(OSError):
            os.link(source, target)
            return
    shutil.copy2(source, target)
