"""Functions of a picture that remember what they said of the latest ones."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

Said = TypeVar("Said")
MOST = 4096  # pictures: of some users, those of all rounds, attacks and draws


def remembered(judge: Callable[[Tensor], Said]) -> Callable[[Tensor], Said]:
    """`judge` of a picture (3, H, W) as a batch of one, which forgets the picture that was asked for longest ago."""
    said: OrderedDict[bytes, Said] = OrderedDict()

    def ask(picture: Tensor) -> Said:
        key = hashlib.sha256(picture.numpy().tobytes()).digest()
        if key not in said:
            said[key] = judge(picture[None])
        said.move_to_end(key)
        if len(said) > MOST:
            said.popitem(last=False)
        return said[key]

    return ask
