"""Attribute inference: what an update says of its user, read off it by regression, without drawing any picture.

The baseline of every attribute that is read off a reconstruction. The attacker simulates, at the model it sent, what
public people would have replied in the victim's place (their photos, the victim's label proportions as told or
recovered), and regresses their attributes, and their face embeddings, on these updates. The regression is applied to
the captured update; nobody who is a user is in it.

- Features: every tensor of the update, sketched to at most 1,024 numbers and scaled to norm 1, so that a layer
  counts for its direction and a clipped update for as much as a whole one.
- Kernel ridge regression with an intercept; the strength of the ridge by leave-one-out error over the public people.
- Gradients are linear in the photos: one per person and class is simulated, and mixed to each victim's proportions.
  With batch norm in train mode that is an approximation, as is one gradient for a user's several local steps.

The predicted embedding lives in the space of the evaluator's embedder, which a real attacker may not have: the arm's
facial similarity and rank are an optimistic bound. Its attributes use no embedder.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacker.capture.store import CaptureStore
from attacker.inversion.labels import recover_proportions
from clients.local_training import local_gradient
from clients.user import FaceDataset, Faces
from experiments.evaluate.attributes import true_value
from experiments.evaluate.candidates import Prediction
from experiments.evaluate.embedders import Embedder
from experiments.evaluate.gallery import Gallery
from fl_sim.config import ConfigError, Leakage
from fl_sim.models import normalise
from fl_sim.modules import load_state
from fl_sim.seeds import generator
from fl_sim.updates import Update

SKETCH = 1024  # numbers kept of a larger tensor
PROBES = 64  # public photos that tell how the model answers, for the recovery of labels
Sketch = list[Tensor]  # a tensor of the update each, (..., f) with f <= SKETCH


def check(leakage: Leakage, dataset: FaceDataset) -> None:
    """Raise ConfigError where more public people are wanted than there are."""
    people = leakage.attribute_inference
    if people > dataset.num_public:
        raise ConfigError(
            f"leakage.attribute_inference is {people}, but there are only {dataset.num_public} public people; "
            "set it to that or less"
        )


def predictions(
    store: CaptureStore,
    model: nn.Module,
    dataset: FaceDataset,
    people: int,
    embed: Embedder,
    attributes: Sequence[str],
    rounds: Iterable[int],
) -> dict[tuple[int, int], Prediction]:
    """What is predicted of each user with an accepted update in `rounds`, by (round, capture).

    `model` is of the federation, whatever its weights. The last `people` public people are simulated: the gallery takes
    its strangers from the first ones.
    """
    simulated = range(dataset.num_public - people, dataset.num_public)
    probes = normalise(torch.cat([dataset.public(index).photos for index in simulated[:4]])[:PROBES])
    sketcher = Sketcher(dict(model.named_parameters()))
    attacked = [_Round(store, number, model, sketcher, probes) for number in rounds if store.users(number)]
    embeddings, truth = [], []
    for index in simulated:
        faces = dataset.public(index)
        embeddings.append(F.normalize(embed(faces.photos).mean(0), dim=0))
        truth.append([true_value(faces.attributes, name) for name in attributes])
        for of_round in attacked:
            of_round.simulate(model, faces, sketcher)
    known = {
        name: torch.tensor(values)
        for name, values in zip(attributes, zip(*truth, strict=True), strict=True)
        if None not in values
    }
    targets = [torch.stack(embeddings), *(F.one_hot(values).float() for values in known.values())]
    predicted = {}
    for of_round in attacked:
        for capture in of_round.victims:
            embedding, *scores = of_round.regress(capture, targets)
            classes = {name: int(score.argmax()) for name, score in zip(known, scores, strict=True)}
            arm = "attribute_inference"
            predicted[of_round.number, capture] = Prediction(arm, F.normalize(embedding, dim=0), classes)
    return predicted


class _Round:
    """The updates of one round, sketched, and those of public people in the same round."""

    def __init__(
        self, store: CaptureStore, number: int, model: nn.Module, sketcher: "Sketcher", probes: Tensor
    ) -> None:
        self.number = number
        self.victims: dict[int, tuple[Tensor, Sketch]] = {}  # label proportions (classes,), update
        self.public: list[Sketch] = []  # (classes, f) a tensor
        for capture in store.users(number):
            seen = store.observation(number, capture)
            self.parameters = seen.parameters
            load_state(model, seen.parameters)
            proportions = seen.label_proportions
            if proportions is None:
                steps = 1 if seen.local is None else seen.local.steps(seen.num_examples)
                gradient = {name: value / steps for name, value in seen.gradient.items()}
                proportions = recover_proportions(gradient, model, probes, seen.num_examples)
            self.victims[capture] = proportions.float(), sketcher(seen.gradient)
        total = torch.stack([proportions for proportions, _ in self.victims.values()]).sum(0)
        self.classes: list[int] = total.nonzero()[:, 0].tolist()  # of which some victim has photos

    def simulate(self, model: nn.Module, faces: Faces, sketcher: "Sketcher") -> None:
        load_state(model, self.parameters)
        self.public.append(per_class(model, faces, self.classes, sketcher))

    def regress(self, capture: int, targets: Sequence[Tensor]) -> list[Tensor]:
        proportions, own = self.victims[capture]
        layers = [torch.stack(layer) for layer in zip(*self.public, strict=True)]  # (people, classes, f) each
        mixed = [torch.einsum("pcf,c->pf", layer, proportions[self.classes]) for layer in layers]
        return regress(features(mixed), features(own), targets)


def base_rate(gallery: Gallery, attributes: Sequence[str]) -> Prediction:
    """What is said of anybody who is unknown: the commonest class among the gallery's public people, their mean face.

    The lower class of two that are even; no attribute that one of the public people lacks.
    """
    truth = {name: [true_value(person, name) for person in gallery.attributes] for name in attributes}
    known = {name: torch.tensor(values) for name, values in truth.items() if values and None not in values}
    strangers = gallery.templates[len(gallery.templates) - len(gallery.attributes) :]
    commonest = {name: int(values.bincount().argmax()) for name, values in known.items()}
    return Prediction("base_rate", F.normalize(strangers.mean(0), dim=0), commonest)


class Sketcher:
    """A linear map of updates to few numbers that keeps their inner products: the count sketch (Charikar et al. 2002).

    Each entry of a tensor is added, with a random sign, to one of SKETCH random places; the same ones for every
    update. A smaller tensor stays as it is.
    """

    def __init__(self, like: Mapping[str, Tensor]) -> None:
        self._maps: dict[str, tuple[Tensor, Tensor] | None] = {}
        for name, value in like.items():
            size, draw = value.numel(), generator(0, "sketch", name)
            place, sign = torch.randint(SKETCH, (size,), generator=draw), torch.randint(2, (size,), generator=draw)
            self._maps[name] = (place, sign * 2.0 - 1.0) if size > SKETCH else None

    def __call__(self, update: Update) -> Sketch:
        return [
            update[name].flatten() if how is None
            else torch.zeros(SKETCH).index_add_(0, how[0], update[name].flatten() * how[1])
            for name, how in self._maps.items()
        ]  # fmt: skip


def per_class(model: nn.Module, faces: Faces, classes: Iterable[int], sketcher: Sketcher) -> Sketch:
    """The gradient of the mean loss over the person's photos of each class, sketched: (classes, f) a tensor.

    Who has no photo of a class (in the task `identity` nobody has any) is simulated as if all photos were of it.
    """
    sketches = []
    for label in classes:
        own = faces.labels == label
        photos = faces.photos[own] if bool(own.any()) else faces.photos
        update = local_gradient(model, Faces(photos, torch.full((len(photos),), label), faces.attributes))
        sketches.append(sketcher(update))
    return [torch.stack(layer) for layer in zip(*sketches, strict=True)]


def features(layers: Sketch) -> Tensor:
    """Sketches (..., f) of the tensors as one vector (..., sum of f), each tensor's part of norm 1."""
    return torch.cat([F.normalize(layer, dim=-1) for layer in layers], dim=-1)


def regress(public: Tensor, own: Tensor, targets: Sequence[Tensor]) -> list[Tensor]:
    """Kernel ridge regression from features public (n, f) to each of `targets` (n, t), at `own` (f,): (t,) each.

    The kernel is the inner product about the public mean. Of each target's ridges between 1e-4 and 1e3 times the mean
    eigenvalue the one of the least leave-one-out squared error is taken, whose residuals are, in closed form,
    alpha_i / (K + ridge)^-1_ii (Allen 1974, PRESS).
    """
    mean = public.mean(0)
    centred = (public - mean).double()
    near = centred @ (own - mean).double()  # (n,)
    values, vectors = torch.linalg.eigh(centred @ centred.T)
    values = values.clamp_min(0)
    predicted = []
    for target in targets:
        middle = target.double().mean(0)
        turned = vectors.T @ (target.double() - middle)
        tried = []
        for ridge in values.mean().clamp_min(1e-12) * torch.logspace(-4, 3, 22, dtype=torch.float64):
            inverse = 1 / (values + ridge)
            alpha = vectors @ (inverse[:, None] * turned)  # (n, t)
            left_out = alpha / (vectors.square() @ inverse)[:, None]
            tried.append((float(left_out.square().mean()), alpha))
        predicted.append((middle + near @ min(tried, key=lambda ridge: ridge[0])[1]).float())
    return predicted
