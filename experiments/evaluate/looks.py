"""What the judges say of single pictures, each of which they see but once.

Pictures come again: one user's is the next user's wrong update, and the prior's stands beside each attack.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from attacker.observation import Reconstruction
from experiments.evaluate.attributes import Classifier
from experiments.evaluate.embedders import Embedder
from experiments.evaluate.realism import face_probability

Said = TypeVar("Said")
MOST = 4096  # pictures that are remembered: of a user, those of all rounds, attacks and draws


class Looks:
    """Recogniser, classifier and face detector, asked one picture (3, H, W) at a time: a batch would decide bits."""

    def __init__(self, embed: Embedder, classify: Classifier) -> None:
        self.embedding = _remembered(lambda picture: embed(picture)[0])  # (d,) of norm 1
        self.classes = _remembered(classify)  # of each attribute (1,)
        self.face = _remembered(lambda picture: face_probability(picture)[0])  # () in [0, 1]

    def foresee(self, reconstruction: Reconstruction, detects: bool) -> None:
        """Ask what will be asked of a reconstruction; `detects`: of the face detector, too."""
        determined, drawn = reconstruction.determined, reconstruction.draws
        for picture in [*reconstruction.images, *([] if determined is None else [determined])]:
            self.embedding(picture), self.classes(picture)
            if detects:
                self.face(picture)
        for picture in [] if drawn is None else drawn:
            self.embedding(picture), self.classes(picture)


def _remembered(judge: Callable[[Tensor], Said]) -> Callable[[Tensor], Said]:
    """`judge` of a picture as a batch of one, which forgets the picture that was asked for longest ago."""
    said: OrderedDict[bytes, Said] = OrderedDict()

    def ask(picture: Tensor) -> Said:
        key = hashlib.sha256(picture.contiguous().numpy()).digest()
        if key not in said:
            said[key] = judge(picture[None])
        said.move_to_end(key)
        if len(said) > MOST:
            said.popitem(last=False)
        return said[key]

    return ask
