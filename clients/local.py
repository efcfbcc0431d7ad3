"""What a user computes: the gradient of the mean loss over the private photos, and the held-out loss."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from clients.user import Faces
from fl_sim.models import normalise
from fl_sim.updates import Update


@dataclass(frozen=True)
class Evaluation:
    """How a model does on photos that it was not trained on."""

    loss: float  # mean cross-entropy, nats
    correct: int  # photos whose most likely label is theirs
    examples: int


def local_gradient(model: nn.Module, faces: Faces) -> Update:
    """Gradient of the mean cross-entropy over all of `faces`, by parameter name; the FedSGD update.

    One batch, nothing random: on the CPU with a fixed number of threads the same bits every time.
    Raises ValueError if there are no photos, for then there is no mean.
    """
    if len(faces.photos) == 0:
        raise ValueError("a user without photos has no gradient; give every user at least one photo")
    names, parameters = zip(*model.named_parameters(), strict=True)
    loss = functional.cross_entropy(model(normalise(faces.photos)), faces.labels)
    gradients = torch.autograd.grad(loss, parameters)
    return dict(zip(names, gradients, strict=True))


@torch.no_grad()
def evaluate(model: nn.Module, faces: Faces) -> Evaluation:
    """Loss and accuracy of `model` on `faces`; zeros for no photos."""
    if len(faces.photos) == 0:
        return Evaluation(loss=0.0, correct=0, examples=0)
    logits = model(normalise(faces.photos))  # (n, num_classes)
    loss = functional.cross_entropy(logits, faces.labels)
    correct = int((logits.argmax(dim=1) == faces.labels).sum())
    return Evaluation(loss=float(loss), correct=correct, examples=len(faces.photos))
