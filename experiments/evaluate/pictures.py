"""What the models say of pictures, whomever they are compared with: every picture is looked at once.

Pictures come again: one user's is the next user's wrong update, and the prior's stands beside each attack.
A reconstruction is judged as a whole, its images, its mean face and its draws in one batch. The batch decides the last
bits of an embedding, so it holds nothing else: what other attacks left in a run changes no row of this one.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacker.observation import Reconstruction
from experiments.evaluate.attributes import Classifier
from experiments.evaluate.draws import spread
from experiments.evaluate.embedders import Embedder
from experiments.evaluate.realism import FACES, Reference, face_probability

Classes = Mapping[str, Tensor]  # int64 (n,) by attribute
MOST = 256  # batches that are remembered, a third of a megabyte each at 64 px


@dataclass(frozen=True, eq=False)  # equal is only what is the same
class Picture:
    """A finite image, and what is seen in it."""

    image: Tensor  # (3, H, W) in [0, 1]
    embedding: Tensor  # (d,) of norm 1
    classes: Classes  # (1,) each
    sharpness: Tensor  # (BANDS,), 1 is a photo's
    face_probability: float | None  # None where the detector fails on photos


@dataclass(frozen=True)
class Draws:
    """What is seen in the faces that an update leaves possible; the images themselves are let go."""

    embeddings: Tensor  # (n, d)
    classes: Classes
    spread: float  # experiments.evaluate.draws.spread


Seen = tuple[list[Picture | None], Draws | None]


@dataclass(frozen=True)
class Answer:
    """A reconstruction as the models see it. Of an image that is not finite there is no picture."""

    pictures: Sequence[Picture | None]  # of the images, in their order
    weights: Tensor  # (k,) of the images
    matching_loss: float
    seconds: float
    draws: Draws | None  # None where one of them is not finite, too
    determined: Sequence[Picture | None]  # the mean face behind the draws; empty where there is none


class Eye:
    """The models that look at pictures, and what they saw in the latest."""

    def __init__(self, embed: Embedder, classify: Classifier, real: Reference) -> None:
        self.embed, self.classify, self.real = embed, classify, real
        self._seen: OrderedDict[bytes, Seen] = OrderedDict()

    def look(self, images: Sequence[Tensor], draws: Tensor | None = None) -> Seen:
        """What is seen in `images` (3, H, W) and in `draws` (n, 3, H, W), of one size, in [0, 1], as one batch."""
        key = _digest([*images, *([] if draws is None else [draws])])
        if key not in self._seen:
            self._seen[key] = self._look(images, draws)
        self._seen.move_to_end(key)
        if len(self._seen) > MOST:
            self._seen.popitem(last=False)
        return self._seen[key]

    def _look(self, images: Sequence[Tensor], draws: Tensor | None) -> Seen:
        finite = [image for image in images if bool(image.isfinite().all())]
        if draws is not None and not bool(draws.isfinite().all()):
            draws = None
        batch = [*finite, *(() if draws is None else draws)]
        if not batch:
            return [None] * len(images), None
        embeddings, classes = self.embed(torch.stack(batch)), self.classify(torch.stack(batch))
        seen = self._pictures(finite, embeddings, classes)
        pictures = [next(seen) if bool(image.isfinite().all()) else None for image in images]
        if draws is None:
            return pictures, None
        of_draws = {name: values[len(finite) :] for name, values in classes.items()}
        return pictures, Draws(embeddings[len(finite) :], of_draws, spread(draws))

    def answer(self, made: Reconstruction) -> Answer:
        """What is seen in a reconstruction."""
        behind = [] if made.determined is None else [made.determined]
        seen, draws = self.look([*made.images, *behind], made.draws)
        count = len(made.images)
        return Answer(seen[:count], made.weights, made.matching_loss, made.seconds, draws, seen[count:])

    def _pictures(self, images: Sequence[Tensor], embeddings: Tensor, classes: Classes) -> Iterator[Picture]:
        for place, image in enumerate(images):
            probability = float(face_probability(image[None])) if self.real.detected >= FACES else None
            own = {name: values[place : place + 1] for name, values in classes.items()}
            yield Picture(image, embeddings[place], own, self.real.sharpness(image[None])[0], probability)


def _digest(images: Sequence[Tensor]) -> bytes:
    """The same for the same pictures in the same order alone."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(repr((image.dtype, image.shape)).encode() + image.contiguous().numpy().tobytes())
    return digest.digest()


def vote(classes: Classes, weights: Tensor) -> dict[str, tuple[int, float]]:
    """Of each attribute the class that most of `classes` (n,) are by `weights` (n,), and its share in (0, 1].

    The lower class of two that are even.
    """
    votes = {name: torch.bincount(values, weights.double()) for name, values in classes.items()}
    return {name: (int(of_one.argmax()), float(of_one.max() / of_one.sum())) for name, of_one in votes.items()}
