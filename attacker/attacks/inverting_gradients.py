"""Inverting gradients without a learned prior (Geiping et al. 2020, arXiv 2003.14053), and its tuned form.

The published attack is these settings: cosine distance plus total variation, Adam on the gradient's sign, the rate
divided by ten at 3/8, 5/8 and 7/8, one image a photo from normal noise, the best of several runs by matching loss:

    images = "batch", start = "normal", steps = 24000, learning_rate = 0.1, schedule = "steps", sign = true, tv = 1e-4,
    shared = 0, balance = 0, blur = 0, restarts = 2            (tv up to 1e-1 for trained networks and large batches)

It does what the paper says on one photo: 42.8 dB PSNR on a 32 px face and the convnet, with 1,200 steps in the place of
24,000 (python -m experiments.benchmarks.existing_attacks inverting_gradients). On one user's batch it hides most of
what leaks (DESIGN.md has the table), so the default is the tuned form, with all that helps `user_diffusion` but
the prior. A baseline must be as good as it can be.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from attacker.attacks import Attacker, Progress
from attacker.inversion.matching import Group, smooth, unit
from attacker.inversion.representatives import (
    Descent,
    Labels,
    cosine_decay,
    descend,
    draw,
    group_by_label,
    means,
    reconstructions,
    step_decay,
    victims,
    whole_batch,
)
from attacker.observation import Observation, Reconstruction

ADAPTS = True  # by attacker.inversion.representatives.victims


@dataclass(frozen=True)
class Settings:
    images: Literal["representative", "batch"] = "representative"  # a few images a label, or one a photo (paper)
    per_group: Annotated[int, Field(ge=1)] = 4  # `representative`: images a label; their mean is the answer
    start: Literal["smooth", "normal"] = "smooth"  # noise to start from; normal: of each pixel, variance 1 (paper)
    spread: Annotated[float, Field(ge=0)] = 0.1  # `smooth`: of that noise, in the range [-1, 1]; 0: grey
    distance: Literal["cosine", "mse"] = "cosine"  # between dummy and observed gradient
    steps: Annotated[int, Field(ge=1)] = 100  # optimisation steps (paper: 24,000)
    rounds: Annotated[int, Field(ge=1)] = 1  # updates of the user that are explained together: this and earlier ones
    unroll: Annotated[int, Field(ge=1)] = (
        1  # local steps (FedAvg) simulated at most; 1: their sum taken for one gradient
    )
    learning_rate: Annotated[float, Field(gt=0)] = 0.1  # Adam's first, in the image range [-1, 1]
    schedule: Literal["cosine", "steps"] = "cosine"  # of the rate; steps: / 10 at 3/8, 5/8, 7/8 (paper)
    tv: Annotated[float, Field(ge=0)] = 0.0  # weight of total variation against the distance (paper: 1e-4 to 1e-1)
    sign: bool = False  # Adam, per pixel, on the gradient's sign (paper: true)
    shared: Annotated[float, Field(ge=0, lt=1)] = 0.8  # part of the rate for what the images share (paper: 0)
    balance: Annotated[float, Field(ge=0, le=1)] = 1.0  # of the layers: 0 as they come (paper), 1 by root of size
    blur: Annotated[float, Field(ge=0)] = 3.0  # pixels, Gaussian on the gradient; falls to a third of it (paper: 0)
    group_floor: Annotated[float, Field(ge=0, lt=1)] = 0.08  # `representative`: labels of smaller share get no image
    restarts: Annotated[int, Field(ge=1)] = 1  # independent runs; a victim's is the one of least matching loss


def attack(
    observations: Sequence[Observation],
    attacker: Attacker,
    settings: Settings,
    generators: Sequence[torch.Generator],
    progress: Progress,
) -> list[Reconstruction]:
    """The representatives (heaviest group's first) or the whole batch (heaviest label's first)."""

    def arrange(labels: Labels, observation: Observation) -> Group:
        if settings.images == "batch":
            return whole_batch(labels.photos, observation.num_examples)
        return group_by_label(labels.contributed, settings.group_floor, settings.per_group)

    def directions(x: Tensor, slope: Tensor, done: float, shared: bool) -> list[tuple[float, Tensor]]:
        slope = smooth(slope, settings.blur * (1 - done * 2 / 3))
        return [(1.0, slope + settings.tv * total_variation_gradient(x) if settings.tv else slope)]

    started = time.perf_counter()
    targets = victims(observations, attacker, arrange, settings.balance, settings.unroll)
    peak, stepwise = settings.learning_rate, settings.schedule == "steps"
    rate = step_decay(peak, settings.steps) if stepwise else cosine_decay(peak)
    scale = torch.sign if settings.sign else unit
    descent = Descent(settings.steps, settings.distance, rate, settings.shared, scale, pixelwise=settings.sign)
    counts = targets.counts
    total = settings.steps * settings.restarts
    best, least = torch.empty(0), torch.full((len(counts),), torch.inf, device=attacker.device)
    for passed in range(0, total, settings.steps):
        start = beginnings(counts, generators, attacker, settings)
        images, losses = descend(targets, start, descent, directions, lambda step: progress(passed + step, total))  # noqa: B023
        better = (losses < least) | least.isinf()  # (victims,)
        chosen = better.repeat_interleave(torch.tensor(counts, device=better.device))[:, None, None, None]
        best = torch.where(chosen, images, best if passed else images)
        least = torch.where(better, losses, least)
    found, groups = means(best, targets.groups, 1 if settings.images == "batch" else settings.per_group)
    return reconstructions(found, least, groups, time.perf_counter() - started)


def beginnings(
    counts: Sequence[int], generators: Sequence[torch.Generator], attacker: Attacker, settings: Settings
) -> Tensor:
    """Noise (n, 3, H, W) to start from, each victim's from its own generator."""
    size = attacker.image_size
    noise = draw(counts, generators, torch.randn, 3, size, size)
    if settings.start == "smooth":
        noise = settings.spread * unit(smooth(noise, size / 16)) * (3 * size**2) ** 0.5
    return noise.to(attacker.device)


def total_variation_gradient(images: Tensor) -> Tensor:
    """Gradient (n, 3, H, W) of each image's mean absolute difference between neighbours."""
    pixels = images.detach().requires_grad_(True)
    rows, columns = pixels.diff(dim=2).abs().mean((1, 2, 3)), pixels.diff(dim=3).abs().mean((1, 2, 3))
    return torch.autograd.grad((rows + columns).sum(), pixels)[0]
