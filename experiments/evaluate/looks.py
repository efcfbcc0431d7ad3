"""What the judges say of single pictures, each of which they see but once.

Pictures come again: one user's is the next user's wrong update, and the prior's stands beside each attack.
"""

from attacker.observation import Reconstruction
from experiments.evaluate.attributes import Classifier
from experiments.evaluate.embedders import Embedder
from experiments.evaluate.realism import face_probability
from experiments.evaluate.remembered import remembered


class Looks:
    """Recogniser, classifier and face detector, asked one picture (3, H, W) at a time: a batch would decide bits."""

    def __init__(self, embed: Embedder, classify: Classifier) -> None:
        self.embedding = remembered(lambda picture: embed(picture)[0])  # (d,) of norm 1
        self.classes = remembered(classify)  # of each attribute (1,)
        self.face = remembered(lambda picture: face_probability(picture)[0])  # () in [0, 1]

    def foresee(self, reconstruction: Reconstruction, detects: bool) -> None:
        """Ask what will be asked of a reconstruction; `detects`: of the face detector, too."""
        determined, drawn = reconstruction.determined, reconstruction.draws
        for picture in [*reconstruction.images, *([] if determined is None else [determined])]:
            self.embedding(picture), self.classes(picture)
            if detects:
                self.face(picture)
        for picture in [] if drawn is None else drawn:
            self.embedding(picture), self.classes(picture)
