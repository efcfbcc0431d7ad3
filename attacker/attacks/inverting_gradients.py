"""Inverting gradients without a learned prior (Geiping et al. 2020, arXiv 2003.14053), and its tuned form.

`preset = "paper"` is the published attack: cosine distance plus total variation, Adam on the gradient's sign, the rate
divided by ten at 3/8, 5/8 and 7/8, one image a photo from normal noise, the best of several runs by matching loss (the
weight `tv` goes up to 1e-1 for trained networks and large batches).

It does what the paper says on one photo: 42.8 dB PSNR on a 32 px face and the convnet, with 1,200 steps in the place of
24,000 (python -m experiments.benchmarks.existing_attacks inverting_gradients). On one user's batch it hides most of
what leaks, so the default is the tuned form, with all that helps `user_diffusion` but the prior. A baseline must be as
good as it can be.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from attacker.attack import Attacker, Needs, Progress
from attacker.gaussian_blur import gaussian_blur
from attacker.inversion.descent import Descended, Descent, best_of_each, cosine_decay, descend, step_decay
from attacker.inversion.matching import Representatives, unit
from attacker.inversion.problem import matching_problem
from attacker.inversion.representatives import Labels, by_label, draw, means, whole_batch
from attacker.observation import Observation, Reconstruction

ADAPTS = True  # by attacker.inversion.problem.matching_problem


@dataclass(frozen=True)
class Settings:
    images: Literal["representative", "batch"] = "representative"  # a few images a label, or one a photo (paper)
    images_per_label: Annotated[int, Field(ge=1)] = 4  # `representative`: images a label; their mean is the answer
    start: Literal["smooth", "normal"] = "smooth"  # noise to start from; normal: of each pixel, variance 1 (paper)
    spread: Annotated[float, Field(ge=0)] = 0.1  # `smooth`: of that noise, in the range [-1, 1]; 0: grey
    distance: Literal["cosine", "mse"] = "cosine"  # between dummy and observed gradient
    steps: Annotated[int, Field(ge=1)] = 100  # optimisation steps (paper: 24,000)
    rounds: Annotated[int, Field(ge=1)] = 1  # updates of the user that are explained together: this and earlier ones
    simulated_steps: Annotated[int, Field(ge=1)] = (
        1  # local steps (FedAvg) at most; 1: their sum counts as one gradient
    )
    learning_rate: Annotated[float, Field(gt=0)] = 0.1  # Adam's first, in the image range [-1, 1]
    schedule: Literal["cosine", "steps"] = "cosine"  # of the rate; steps: / 10 at 3/8, 5/8, 7/8 (paper)
    tv: Annotated[float, Field(ge=0)] = 0.0  # weight of total variation against the distance (paper: 1e-4 to 1e-1)
    sign: bool = False  # Adam, per pixel, on the gradient's sign (paper: true)
    consensus: Annotated[float, Field(ge=0, lt=1)] = 0.8  # part of the rate for what the images share (paper: 0)
    layer_norm_power: Annotated[float, Field(ge=0, le=1)] = 1.0  # 0: layers as they come (paper), 1: by root of size
    gradient_blur: Annotated[float, Field(ge=0)] = 3.0  # pixels, Gaussian; falls to a third of it (paper: 0)
    restarts: Annotated[int, Field(ge=1)] = 1  # independent runs; a victim's is the one of least matching loss


def needs(settings: Settings) -> Needs:
    return Needs(rounds=settings.rounds, simulated_steps=settings.simulated_steps, second_derivatives=True)


def attack(
    observations: Sequence[Observation],
    attacker: Attacker,
    settings: Settings,
    generators: Sequence[torch.Generator],
    progress: Progress,
) -> list[Reconstruction]:
    """The representatives' means or the whole batch, in both the heaviest label's first."""

    def arrange(labels: Labels, observation: Observation) -> Representatives:
        if settings.images == "batch":
            return whole_batch(labels.photos, observation.num_examples)
        return by_label(labels.contributed, settings.images_per_label)

    def directions(x: Tensor, grad: Tensor, done: float, consensus: bool) -> list[tuple[float, Tensor]]:
        grad = gaussian_blur(grad, settings.gradient_blur * (1 - done * 2 / 3))
        return [(1.0, grad + settings.tv * total_variation_gradient(x) if settings.tv else grad)]

    def run(passed: int) -> Descended:
        start = beginnings(problem.counts, generators, attacker, settings)
        return descend(problem, start, descent, directions, lambda step: progress(passed + step, total))

    problem = matching_problem(observations, attacker, arrange, settings.layer_norm_power, settings.simulated_steps)
    peak, stepwise = settings.learning_rate, settings.schedule == "steps"
    rate = step_decay(peak, settings.steps) if stepwise else cosine_decay(peak)
    scale = torch.sign if settings.sign else unit
    descent = Descent(
        settings.steps, settings.distance, rate, settings.consensus, scale, settings.sign, attacker.frames
    )
    total = settings.steps * settings.restarts
    images, losses, frames = best_of_each(map(run, range(0, total, settings.steps)), problem.counts)
    count = 1 if settings.images == "batch" else settings.images_per_label
    answers, labels = means(images, problem.representatives, count)
    frames, _ = means(frames, problem.representatives, count)
    return problem.reconstructions(answers, losses, labels, frames)


def beginnings(
    counts: Sequence[int], generators: Sequence[torch.Generator], attacker: Attacker, settings: Settings
) -> Tensor:
    """Noise (n, 3, H, W) to start from, each victim's from its own generator."""
    size = attacker.image_size
    noise = draw(counts, generators, torch.randn, 3, size, size)
    if settings.start == "smooth":
        noise = settings.spread * unit(gaussian_blur(noise, size / 16)) * (3 * size**2) ** 0.5
    return noise.to(attacker.device)


def total_variation_gradient(images: Tensor) -> Tensor:
    """Gradient (n, 3, H, W) of each image's mean absolute difference between neighbours."""
    grad = torch.zeros_like(images)
    for dim in (2, 3):
        signs = images.diff(dim=dim).sign()
        signs /= signs[0].numel()
        grad.narrow(dim, 1, signs.shape[dim]).add_(signs)
        grad.narrow(dim, 0, signs.shape[dim]).sub_(signs)
    return grad
