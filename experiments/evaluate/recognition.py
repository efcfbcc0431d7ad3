"""Do the judges see? Each is called on public people's photos before the run, for a blind one says that nothing leaks.

An embedder must give unit vectors that depend on the photo alone, and two photos of one person must be more alike than
two of different people. AUC is the chance that they are: 1 is perfect, 0.5 blind. On real faces it is 0.90 or more with
an embedder's right settings and 0.57 to 0.69 with pixels in 0..255 in the place of 0..1 (40 people, two photos each, 32
to 128 px, two MobileFaceNets). The wrong order of colours costs 0.01 to 0.05 only. It is found by comparing both on
the same people, which tells the right one apart in each of 30 draws of 40 people: t is 3.0 to 9.9 with the right one
(tests/experiments/evaluate/test_recognition.py has one such draw for each).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from clients.user import FaceDataset, Faces
from experiments.evaluate import embedders
from experiments.evaluate.attributes import Classifier, true_value
from experiments.evaluate.embedders import Embedder
from fl_sim.config import ConfigError, Leakage, short

Answer = TypeVar("Answer")  # of a model, to pictures

PEOPLE = 40  # compared with each other, by two photos each
FEWEST = 10  # below which nothing is said
LOOKED_AT = 200  # public people among whom PEOPLE with two photos are sought
BLIND = 0.8  # an embedder whose AUC is surely below is refused
WEAK, GOOD = 0.85, 0.95  # AUC below which the user is told, and from which other ranges are not tried
ALIKE = 0.5  # mean cosine of strangers from which the user is told that similarity is high for everybody
SURELY = 2.5  # standard errors by which other settings must be better
ABOVE_CHANCE = 0.05  # by which a classifier's mean share of right answers must exceed that of guessing
QUESTION = "are the colour order and the range of the pixels right?"
ALONE = 1e-3  # most that an embedding may differ from the same in a batch, as 1 - cosine


@dataclass(frozen=True)
class Likeness:
    """How alike an embedder finds two photos of one person, and of two."""

    same: Tensor  # (people,) cosine of the two photos of each person
    different: Tensor  # (people * (people - 1),) cosines of the first photo of one and the second of another

    @property
    def auc(self) -> float:
        return float(self._below().mean())

    @property
    def error(self) -> float:
        """Standard error of `auc` over people."""
        return float(self._below().std()) / math.sqrt(len(self.same))

    def gain(self, other: "Likeness") -> float:
        """By how many standard errors people stand out more with `other`, on the same photos."""
        more = other._standing() - self._standing()
        return float(more.mean() / more.std().clamp_min(1e-9)) * math.sqrt(len(more))

    def _below(self) -> Tensor:
        """Of each person (people,), the share of different pairs that are less alike; half of those that are even."""
        lower = (self.different < self.same[:, None]).double() + (self.different == self.same[:, None]).double() / 2
        return lower.mean(1)

    def _standing(self) -> Tensor:
        """Each person's cosine (people,), in deviations of those of strangers."""
        return (self.same - self.different.mean()) / self.different.std().clamp_min(1e-9)

    def __str__(self) -> str:
        return f"mean cosine {self.same.mean():.2f} against {self.different.mean():.2f}, AUC {self.auc:.2f}"


def people(dataset: FaceDataset) -> list[Faces]:
    """Public people with two photos or more, at most PEOPLE."""
    persons: list[Faces] = []
    for index in range(min(dataset.num_public, LOOKED_AT)):
        person = dataset.public(index)
        if len(person.photos) > 1:
            persons.append(person)
        if len(persons) == PEOPLE:
            break
    return persons


def likeness(embed: Embedder, public: list[Faces]) -> Likeness:
    """By the first and the last photo of each: neighbours in a list may be of one moment."""
    first = embed(torch.stack([person.photos[0] for person in public]))
    last = embed(torch.stack([person.photos[-1] for person in public]))
    cosines = (first @ last.T).double()  # (people, people)
    return Likeness(cosines.diagonal(), cosines[~torch.eye(len(cosines), dtype=torch.bool)])


def check_embedder(embed: Embedder, photo: Tensor, name: str) -> None:
    """Call it with one and with two pictures: `photo` (3, H, W) in [0, 1] and its negative.

    Raises ConfigError, which calls the embedder `name`, unless it answers with unit vectors, the same for a picture
    alone and in a batch, and another for another picture.
    """
    alone, both = _tried(embed, photo, name)
    if alone.ndim != 2 or len(alone) != 1 or both.shape != (2, alone.shape[1]):
        shapes = f"{tuple(alone.shape)} for one photo and {tuple(both.shape)} for two"
        raise ConfigError(f"{name} gives {shapes}; needed is a row of numbers a photo")
    if not bool(both.isfinite().all()) or not bool(alone.isfinite().all()):
        raise ConfigError(f"{name} gives numbers that are not finite; take another, or another range of pixels")
    if not torch.allclose(both.norm(dim=1), torch.ones(2), atol=1e-3):
        raise ConfigError(f"{name} gives rows of norm {both.norm(dim=1).tolist()}; an embedding of a photo has norm 1")
    if float(alone[0] @ both[0]) < 1 - ALONE:
        raise ConfigError(f"{name} gives another embedding for a photo alone than beside another; is it in eval mode?")
    if torch.equal(both[0], both[1]):
        raise ConfigError(f"{name} gives one embedding for two pictures; take another, or another range of pixels")


def _tried(model: Callable[[Tensor], Answer], photo: Tensor, name: str) -> tuple[Answer, Answer]:
    """What it says of `photo` alone, and beside its negative. ConfigError, which calls it `name`, if it fails."""
    two = torch.stack([photo, 1 - photo])
    try:
        return model(two[:1]), model(two)
    except ConfigError:
        raise
    except Exception as error:  # of any kind, where the model is somebody else's
        raise ConfigError(f"{name} fails on photos {tuple(two.shape)} ({short(error)}); take another") from error


def check_recognition(embed: Embedder, public: list[Faces], leakage: Leakage) -> list[str]:
    """Whether the embedder of `leakage` tells public people apart; what the user should know, in sentences.

    Raises ConfigError where it surely is as good as blind, and was not asked for by name as what is shipped may be.
    """
    name = f"leakage.embedder {leakage.embedder!r}"
    if len(public) < FEWEST:
        return [
            f"Whether {name} recognises anybody is not known: {len(public)} public people have two photos or more, "
            f"{FEWEST} are needed to tell."
        ]
    measured = likeness(embed, public)
    better, question = _better(measured, public, leakage), QUESTION
    if leakage.embedder in ("auto", "synthetic"):
        question = "it knows rendered faces alone; for photographs set leakage.embedder to 'dlib', 'onnx' or 'facenet'"
    if measured.auc + 2 * measured.error < BLIND or (better and measured.auc < WEAK):
        sentence = (
            f"{name}: two photos of one person are hardly more alike than of two people ({measured}, {len(public)} "
            f"public people); {better or question}"
        )
        if leakage.embedder == "synthetic":  # asked for by name
            return [sentence]
        raise ConfigError(sentence)
    if better:
        return [f"{name} tells public people apart ({measured}), but {better}"]
    if measured.auc < WEAK:
        return [f"{name} tells public people apart poorly ({measured}): {question}"]
    if measured.different.mean() > ALIKE:
        return [f"{name} finds strangers alike, too ({measured}): read facial_similarity beside its controls, or rank1"]
    return []


def _better(measured: Likeness, public: list[Faces], leakage: Leakage) -> str:
    """The best of other settings of the same model, if surely better; of a good embedder only colours are swapped."""
    ways = [way for way in embedders.variants(leakage) if "embedder_channels" in way or measured.auc < GOOD]
    tried = [(way, likeness(_open(leakage, way), public)) for way in ways]
    sure = [(way, other) for way, other in tried if measured.gain(other) > SURELY]
    if not sure:
        return ""
    way, other = max(sure, key=lambda pair: pair[1].auc)
    settings = ", ".join(f"leakage.{key} = {value!r}" for key, value in way.items())
    return f"{settings} does better ({other}): which of them was the model trained with?"


def _open(leakage: Leakage, way: Mapping[str, str]) -> Embedder:
    return embedders.open_embedder(leakage.model_copy(update=dict(way)))


def check_classifier(classify: Classifier, photo: Tensor, public: list[Faces], name: str) -> list[str]:
    """Call it with one and with two pictures, then on public people whose attributes are known; sentences.

    Raises ConfigError, which calls the classifier `name`, unless it gives one whole number a photo, whatever the batch.
    """
    alone, both = _tried(classify, photo, name)
    for key, classes in both.items():
        if classes.shape != (2,) or classes.dtype != torch.int64 or classes[:1].tolist() != alone[key].tolist():
            raise ConfigError(f"{name} gives {key} = {classes} for two photos, {alone[key]} for the first alone")
    if not both or not public:
        return []
    read = classify(torch.cat([person.photos[[0, -1]] for person in public]))
    notes = []
    for key, classes in read.items():
        known = [true_value(person.attributes, key) for person in public for _ in range(2)]
        recall = _recall(classes, known)
        if len(recall) > 1 and sum(recall) / len(recall) < 1 / len(recall) + ABOVE_CHANCE:
            notes.append(
                f"{name} reads {key} off {len(classes)} public photos no better than chance (right for "
                f"{sum(recall) / len(recall):.0%}, the mean over {len(recall)} classes): {QUESTION}"
            )
    return notes


def _recall(classes: Tensor, known: list[int | None]) -> list[float]:
    """The share read rightly (0 to 1) of each class that FEWEST photos or more have; none where truth is lacking."""
    if None in known:
        return []
    truth = torch.tensor(known)
    common = [value for value in sorted(set(truth.tolist())) if int((truth == value).sum()) >= FEWEST]
    return [float((classes[truth == value] == value).double().mean()) for value in common]
