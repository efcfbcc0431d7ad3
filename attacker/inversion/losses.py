"""The loss that users train on: cross-entropy, unless the model under attack brings another one along."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs (n, classes), labels (n,)) -> the mean loss of these images, a scalar."""

ATTRIBUTE = "attacked_loss"  # of the model; long, because somebody else's class may have a `loss` of its own


def bring(model: nn.Module, loss: Loss) -> None:
    """Let `image_losses` of `model` and of its copies be those of `loss`."""
    setattr(model, ATTRIBUTE, lambda outputs, labels: loss(outputs, labels))  # a module would become a submodule


def image_losses(model: nn.Module, outputs: Tensor, labels: Tensor) -> Tensor:
    """The loss (k,) of each image, from the model's outputs (k, classes) and labels (k,); differentiable."""
    loss: Loss | None = getattr(model, ATTRIBUTE, None)
    if loss is None:
        return F.cross_entropy(outputs, labels, reduction="none")
    # One image at a time: somebody else's loss averages over what it is given, and each image has a weight of its own.
    return torch.stack([loss(outputs[i : i + 1], labels[i : i + 1]) for i in range(len(labels))])
