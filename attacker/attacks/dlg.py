"""Deep Leakage from Gradients (Zhu et al. 2019, arXiv 1906.08935): images and labels together, by L-BFGS.

    min_{x, y}  || dL(f(x), softmax(y)) / dtheta  -  observed ||^2

over as many dummy images x as the user has photos and their label scores y, all from standard normal noise. It is
made for small batches on a smooth network: the sigmoid `lenet`. There, in the paper's setting (one 32 px face, ten
classes, all weights uniform in [-0.5, 0.5], `layer_norm_power = 0`) it reaches a mean squared error of 2.4e-4, of
pixels in [0, 1], in 2,000 iterations; with PyTorch's initialisation, which lets gradients vanish, 1.0e-3 in 1,000, and
that only with `layer_norm_power = 0.5` (python -m experiments.benchmarks.existing_attacks dlg). The paper goes up to
batches of 8.

Computed in double precision: L-BFGS with a strong Wolfe line search goes on to losses that float32 cannot tell apart.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from attacker.attack import Attacker, Needs, Progress
from attacker.inversion.matching import Representatives, compare, dummy_gradient, mse
from attacker.inversion.problem import MatchingProblem, matching_problem
from attacker.inversion.representatives import Labels
from attacker.inversion.trail import Trail
from attacker.observation import Observation, Reconstruction

ITERATIONS = 20  # of L-BFGS a step
ADAPTS = True  # by attacker.inversion.problem.matching_problem


@dataclass(frozen=True)
class Settings:
    steps: Annotated[int, Field(ge=1)] = 25  # of 20 L-BFGS iterations each (paper: 300)
    layer_norm_power: Annotated[float, Field(ge=0, le=1)] = 0.5  # 0: layers as they come (paper), 1: by root of size
    max_images: Annotated[int, Field(ge=1)] = 32  # a user with more photos gets this many: time and memory grow with it


def needs(settings: Settings) -> Needs:
    return Needs(second_derivatives=True)


def attack(
    observations: Sequence[Observation],
    attacker: Attacker,
    settings: Settings,
    generators: Sequence[torch.Generator],
    progress: Progress,
) -> list[Reconstruction]:
    """All dummy images, those of the label that most have first; the first is the answer."""

    def arrange(_: Labels, observation: Observation) -> Representatives:
        count, device = min(observation.num_examples, settings.max_images), attacker.device
        unused = torch.zeros(count, dtype=torch.int64, device=device)  # labels are unknowns of their own here
        return Representatives(unused, torch.full((count,), 1 / count, device=device))

    problem = matching_problem(observations, attacker, arrange, settings.layer_norm_power)
    problem.model.double()

    def solve(victim: int, source: torch.Generator, report: Callable[[int], None]) -> tuple[Tensor, float, Tensor]:
        weights = problem.representatives[victim].weights.double()
        x = start(len(weights), attacker, source)
        y = torch.randn(len(x), attacker.num_classes, dtype=torch.float64, generator=source).to(attacker.device)
        trail = Trail(attacker.frames, settings.steps)
        left = lbfgs([x, y], partial(_loss, problem, victim, weights), settings.steps, report, trail)
        mass, labels = y.softmax(1).sum(0), y.argmax(1)
        order = mass[labels].argsort(descending=True, stable=True)
        return x[order], left, trail.frames(x)[order]

    return problem.solve_each(solve, generators, settings.steps, progress)


def _loss(problem: MatchingProblem, victim: int, weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
    dummy = dummy_gradient(problem.model, x, Representatives(y.softmax(1), weights))
    return compare(dummy, problem.observed_gradients[victim], mse)


def start(count: int, attacker: Attacker, source: torch.Generator) -> Tensor:
    """Dummy images (count, 3, H, W) of standard normal noise, in double precision."""
    shape = (count, 3, attacker.image_size, attacker.image_size)
    return torch.randn(shape, dtype=torch.float64, generator=source).to(attacker.device)


def lbfgs(
    unknowns: list[Tensor], loss: Callable[..., Tensor], steps: int, report: Callable[[int], None], trail: Trail
) -> float:
    """Minimise `loss(*unknowns)` in place by `steps` times 20 iterations of L-BFGS; the loss that is left.

    `report` is called with the number of steps done; `trail` sees the first unknown, which are images.
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
        for unknown, grad in zip(unknowns, torch.autograd.grad(value, unknowns), strict=True):
            unknown.grad = grad
        return value.detach()

    trail(0, unknowns[0])
    for step in range(steps):
        optimiser.step(closure)  # type: ignore[no-untyped-call]
        trail(step + 1, unknowns[0])
        report(step + 1)
    left = float(closure())
    for unknown in unknowns:
        unknown.requires_grad_(False)
    return left
