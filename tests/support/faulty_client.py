"""A defense that does nothing, but for the first client that finds a mark: that one crashes, or hangs for ever."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from fl_sim.updates import Update


def crash_or_hang(folder: str) -> Callable[[Update, torch.Generator], Update]:
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
