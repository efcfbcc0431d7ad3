"""Deep Leakage from Gradients (Zhu et al. 2019, arXiv 1906.08935): images and labels together, by L-BFGS.

    min_{x, y}  || dL(f(x), softmax(y)) / dtheta  -  observed ||^2

over as many dummy images x as the user has photos and their label scores y, all from standard normal noise. It is
made for small batches on a smooth network: the sigmoid `lenet`. There, in the paper's setting (one 32 px face, ten
classes, all weights uniform in [-0.5, 0.5], `balance = 0`) it reaches a mean squared error of 2.4e-4, of pixels in
[0, 1], in 2,000 iterations; with PyTorch's initialisation, which lets gradients vanish, 1.0e-3 in 1,000, and that only
with `balance = 0.5` (python -m experiments.benchmarks.existing_attacks dlg). The paper goes up to batches of 8.

Computed in double precision: L-BFGS with a strong Wolfe line search goes on to losses that float32 cannot tell apart.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from attacker.attacks import Attacker, Progress
from attacker.inversion.matching import Group, Target, compare, dummy_gradient, mse
from attacker.inversion.representatives import Labels, victims
from attacker.observation import Observation, Reconstruction

ITERATIONS = 20  # of L-BFGS a step
ADAPTS = True  # by attacker.inversion.representatives.victims


@dataclass(frozen=True)
class Settings:
    steps: Annotated[int, Field(ge=1)] = 25  # of 20 L-BFGS iterations each (paper: 300)
    balance: Annotated[float, Field(ge=0, le=1)] = 0.5  # of the layers: 0 as they come (paper), 1 by root of size
    max_images: Annotated[int, Field(ge=1)] = 32  # a user with more photos gets this many: time and memory grow with it


def attack(
    observations: Sequence[Observation],
    attacker: Attacker,
    settings: Settings,
    generators: Sequence[torch.Generator],
    progress: Progress,
) -> list[Reconstruction]:
    """All dummy images, those of the label that most have first; the first is the answer."""

    def arrange(_: Labels, observation: Observation) -> Group:
        count, device = min(observation.num_examples, settings.max_images), attacker.device
        unused = torch.zeros(count, dtype=torch.int64, device=device)  # labels are unknowns of their own here
        return Group(unused, torch.full((count,), 1 / count, device=device))

    targets = victims(observations, attacker, arrange, settings.balance)
    targets.model.double()
    total, found = settings.steps * len(observations), []
    for index, (group, observed, source) in enumerate(zip(targets.groups, targets.targets, generators, strict=True)):
        started = time.perf_counter()
        x = start(len(group.labels), attacker, source)
        y = torch.randn(len(x), attacker.num_classes, dtype=torch.float64, generator=source).to(attacker.device)
        loss = partial(_loss, targets.model, group.weights.double(), observed)
        left = lbfgs([x, y], loss, settings.steps, steps_of(progress, index * settings.steps, total))
        mass, labels = y.softmax(1).sum(0), y.argmax(1)
        order = mass[labels].argsort(descending=True, stable=True)
        found.append(photographs(x[order], group.weights, left, time.perf_counter() - started))
    return found


def _loss(model: nn.Module, weights: Tensor, observed: Target, x: Tensor, y: Tensor) -> Tensor:
    return compare(dummy_gradient(model, x, Group(y.softmax(1), weights)), observed, mse)


def start(count: int, attacker: Attacker, source: torch.Generator) -> Tensor:
    """Dummy images (count, 3, H, W) of standard normal noise, in double precision."""
    shape = (count, 3, attacker.image_size, attacker.image_size)
    return torch.randn(shape, dtype=torch.float64, generator=source).to(attacker.device)


def lbfgs(unknowns: list[Tensor], loss: Callable[..., Tensor], steps: int, report: Callable[[int], None]) -> float:
    """Minimise `loss(*unknowns)` in place by `steps` times 20 iterations of L-BFGS; the loss that is left.

    `report` is called with the number of steps done.
    """
    for unknown in unknowns:
        unknown.requires_grad_(True)
    optimiser = torch.optim.LBFGS(
        unknowns,
        max_iter=ITERATIONS,
        history_size=100,
        line_search_fn="strong_wolfe",
        tolerance_grad=0,  # gradients of an untrained sigmoid network are far below any usual tolerance
        tolerance_change=0,
    )

    def closure() -> Tensor:
        value = loss(*unknowns)
        for unknown, slope in zip(unknowns, torch.autograd.grad(value, unknowns), strict=True):
            unknown.grad = slope
        return value.detach()

    for step in range(steps):
        optimiser.step(closure)  # type: ignore[no-untyped-call]
        report(step + 1)
    left = float(closure())
    for unknown in unknowns:
        unknown.requires_grad_(False)
    return left


def steps_of(progress: Progress, passed: int, total: int) -> Callable[[int], None]:
    """Reports the steps of one victim, before whom `passed` of the `total` steps were done."""
    return lambda step: progress(passed + step, total)


def photographs(images: Tensor, weights: Tensor, loss: float, seconds: float) -> Reconstruction:
    """Images (n, 3, H, W), wherever the optimiser left them, as photos in [0, 1]."""
    return Reconstruction(((images.clamp(-1, 1) + 1) / 2).float().cpu(), weights.float().cpu(), loss, seconds)
