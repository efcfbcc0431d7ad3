"""How far the texture of each arm's pictures is from that of photos, which only all users' pictures tell together."""

import math
from collections.abc import Iterable
from weakref import WeakKeyDictionary

import pandas as pd
import torch
from torch import Tensor

from experiments.evaluate.candidates import Candidate
from experiments.evaluate.pictures import Picture
from experiments.evaluate.realism import SWD, TEXTURED, Reference, projected_patches


class Textures:
    """The patches of a table's pictures, gathered user by user, and how far each arm's are from a photo's."""

    def __init__(self, real: Reference, users: int) -> None:
        self._real, self._users = real, users
        self._patches: dict[tuple[str, int, str], list[tuple[Tensor, ...]]] = {}
        self._known: WeakKeyDictionary[Picture, tuple[Tensor, ...]] = WeakKeyDictionary()

    def add(self, attack: str, server_round: int, candidates: Iterable[Candidate]) -> None:
        """The candidates of one user, as far as they are of the arms TEXTURED."""
        for candidate in candidates:
            if candidate.arm in TEXTURED and candidate.shown:
                picture = candidate.shown[0]
                if picture not in self._known:
                    self._known[picture] = projected_patches(picture.image[None], self._users)
                self._patches.setdefault((attack, server_round, candidate.arm), []).append(self._known[picture])

    def onto(self, table: pd.DataFrame) -> pd.DataFrame:
        """`table` with the columns SWD."""
        columns = pd.DataFrame(math.nan, index=table.index, columns=list(SWD))
        for (attack, number, arm), patches in self._patches.items():
            own = (table["attack"] == attack) & (table["round"] == number) & (table["arm"] == arm)
            columns.loc[own] = self._real.patch_swd([torch.cat(scale) for scale in zip(*patches, strict=True)])
        return table.assign(**columns)
