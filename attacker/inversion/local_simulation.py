"""The pseudo-gradient of several local steps (FedAvg), simulated on the representatives and differentiated through.

A user who takes S steps of rate r from the model w sends (w - w_S) / r, the sum of the gradients at w, w_1, ...,
w_{S-1}. Here each step sees all representatives with their weights: what a step's batch is on average.
Many steps are simulated by fewer, longer ones (the path of small steps is that of the gradient flow), and the
sum is scaled to S. Every simulated step costs about three times a matching step and keeps its graph in memory.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacker.inversion.losses import image_losses
from attacker.observation import LocalTraining
from fl_sim.modules import gradients


@dataclass(frozen=True)
class LocalSteps:
    """What is simulated of a user's local training."""

    count: int  # steps, 2 or more
    learning_rate: float  # of each simulated step
    share: float  # simulated steps to a real one: the sum is divided by it


def plan(local: LocalTraining | None, num_examples: int, most: int) -> LocalSteps | None:
    """How to simulate `local` training on `num_examples` photos in at most `most` steps; None if it is one gradient."""
    if local is None or most < 2:
        return None
    steps = local.steps(num_examples)
    if steps < 2:
        return None
    count = min(steps, most)
    return LocalSteps(count, local.learning_rate * steps / count, count / steps)


def pseudo_gradient(
    model: nn.Module, images: Tensor, labels: Tensor, weights: Tensor, local: LocalSteps
) -> tuple[Tensor, ...]:
    """The sum of the steps' gradients, one tensor a parameter, differentiable in images (k, 3, H, W) in [-1, 1]."""
    names = [name for name, _ in model.named_parameters()]
    values: list[Tensor] = list(model.parameters())
    total: list[Tensor] = []
    for _ in range(local.count):
        outputs = torch.func.functional_call(model, dict(zip(names, values, strict=True)), (images,))
        each = image_losses(model, outputs, labels)
        step = gradients((each * weights).sum(), values, create_graph=True)
        total = [before + now for before, now in zip(total, step, strict=True)] if total else list(step)
        values = [value - local.learning_rate * grad for value, grad in zip(values, step, strict=True)]
    return tuple(value / local.share for value in total)
