"""What a user computes: the gradient of the mean loss over the private photos, local training, the held-out loss."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from clients.user import Faces
from fl_sim.config import Federation
from fl_sim.models import normalise, trainable
from fl_sim.modules import free_of_graphs, gradients
from fl_sim.updates import Update, apply_gradient


@dataclass(frozen=True)
class Evaluation:
    """How a model does on photos that it was not trained on."""

    loss: float  # mean cross-entropy, nats
    correct: int  # photos whose most likely label is theirs
    examples: int


def local_gradient(model: nn.Module, faces: Faces) -> Update:
    """Gradient of the mean cross-entropy over all of `faces`, by parameter name; the FedSGD update.

    Zeros for frozen and unused parameters. The mode is that of the model: with batch norm in training mode, the
    statistics are those of `faces`. One batch, nothing random: on the CPU with a fixed number of threads the same bits
    every time.
    Raises ValueError if there are no photos, for then there is no mean.
    """
    if len(faces.photos) == 0:
        raise ValueError("a user without photos has no gradient; give every user at least one photo")
    names, parameters = zip(*model.named_parameters(), strict=True)
    loss = functional.cross_entropy(model(normalise(faces.photos)), faces.labels)
    return dict(zip(names, gradients(loss, parameters), strict=True))


def local_update(model: nn.Module, faces: Faces, section: Federation, generator: torch.Generator) -> Update:
    """The sum of the gradients of all local SGD steps: (w - w_end) / lr, without its rounding (McMahan et al. 2017).

    One epoch over one batch is `local_gradient`, bit for bit. `model` stays as it is; `generator` shuffles.
    """
    moving = copy.deepcopy(free_of_graphs(model))
    total: Update = {}
    for batch in _batches(faces, section, generator):
        gradient = local_gradient(moving, batch)
        total = {name: total[name] + value for name, value in gradient.items()} if total else gradient
        moving.load_state_dict(apply_gradient(trainable(moving), gradient, section.learning_rate), False)
    return total


def _batches(faces: Faces, section: Federation, generator: torch.Generator) -> Iterator[Faces]:
    """The photos of each local step; the last of an epoch may have fewer."""
    count = len(faces.photos)
    for _ in range(section.local_epochs):
        if section.batch_size == 0:
            yield faces
            continue
        order = torch.randperm(count, generator=generator)
        for part in torch.split(order, section.batch_size):
            yield Faces(faces.photos[part], faces.labels[part], faces.attributes)


@torch.no_grad()
def evaluate(model: nn.Module, faces: Faces) -> Evaluation:
    """Loss and accuracy of `model` on `faces`; zeros for no photos."""
    if len(faces.photos) == 0:
        return Evaluation(loss=0.0, correct=0, examples=0)
    logits = model(normalise(faces.photos))  # (n, num_classes)
    loss = functional.cross_entropy(logits, faces.labels)
    correct = int((logits.argmax(dim=1) == faces.labels).sum())
    return Evaluation(loss=float(loss), correct=correct, examples=len(faces.photos))
