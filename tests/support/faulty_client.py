"""Defenses that do nothing, but for what goes wrong."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from fl_sim.updates import Update


def crash_or_hang(folder: str) -> Callable[[Update, torch.Generator], Update]:
    """The first client that finds a mark crashes, or hangs for ever."""

    def defend(update: Update, generator: torch.Generator) -> Update:
        for kind in ("crash", "hang"):
            try:
                (Path(folder) / kind).unlink()
            except FileNotFoundError:
                continue
            if kind == "crash":
                os._exit(9)
            time.sleep(1e6)
        return update

    return defend


def leave() -> Callable[[Update, torch.Generator], Update]:
    """Every client calls sys.exit(0)."""

    def defend(update: Update, generator: torch.Generator) -> Update:
        sys.exit(0)

    return defend
