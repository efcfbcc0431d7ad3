"""A finished run of an item of the paper, and what it says of the user in the pictures."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import Tensor

from attacker.capture.store import read_reconstruction
from attacker.observation import Reconstruction
from clients.datasets import open_dataset
from experiments.studies.paper.items import SHOWN
from fl_sim.config import Config
from fl_sim.runs import RunFolder


@dataclass(frozen=True)
class Run:
    """A finished run of an item."""

    config: Config
    folder: RunFolder
    table: pd.DataFrame  # its leakage

    @property
    def attacks(self) -> list[str]:
        """Labels in the order of the config, without the prior alone."""
        names = {label: str(table.get("name", label)) for label, table in self.config.attacks.items()}
        return [label for label, name in names.items() if name != "prior_only"]

    def made(self, label: str) -> Reconstruction:
        """What the attack made of the user who is shown, in the first round."""
        return read_reconstruction(self.folder, label, 1, SHOWN)

    def photos(self) -> Tensor:
        """The private photos (n, 3, H, W) of that user."""
        return open_dataset(self.config.dataset, self.config.seed).user(SHOWN).private.photos

    def row(self, label: str, arm: str) -> dict[str, Any]:
        """The leakage of that user."""
        table = self.table
        keep = (table["attack"] == label) & (table["arm"] == arm) & (table["user"] == SHOWN) & (table["round"] == 1)
        return dict(table[keep].iloc[0])
