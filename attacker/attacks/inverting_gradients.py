"""Inverting gradients without a learned prior (Geiping et al. 2020, arXiv 2003.14053), and its tuned form.

The published attack is these settings: `tv = 0.1, sign = true, schedule = "steps", learning_rate = 0.1,
shared = 0, balance = 0, blur = 0`: cosine distance plus total variation, Adam on the gradient's sign, the rate
divided by ten at 3/8, 5/8 and 7/8. On one user's batch they hide most of what leaks (DESIGN.md has the table),
so the default is the tuned form, with all that helps `user_diffusion` but the prior. A baseline must be as
good as it can be.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from attacker.attacks import Attacker, Progress
from attacker.attacks.representatives import (
    Descent,
    cosine_decay,
    descend,
    group_by_label,
    reconstructions,
    step_decay,
    victims,
    whole_batch,
)
from attacker.matching import Group, smooth, unit
from attacker.observation import Observation, Reconstruction


@dataclass(frozen=True)
class Settings:
    images: Literal["representative", "batch"] = "representative"  # one image a label, or one a photo
    distance: Literal["cosine", "mse"] = "cosine"  # between dummy and observed gradient
    steps: Annotated[int, Field(ge=1)] = 50  # optimisation steps; more fit noise (paper: 24,000)
    learning_rate: Annotated[float, Field(gt=0)] = 0.1  # Adam's first, in the image range [-1, 1]
    schedule: Literal["cosine", "steps"] = "cosine"  # of the rate; steps: / 10 at 3/8, 5/8, 7/8 (paper)
    tv: Annotated[float, Field(ge=0)] = 0.0  # weight of total variation against the distance (paper: 1e-4 to 1e-1)
    sign: bool = False  # Adam, per pixel, on the gradient's sign (paper: true)
    shared: Annotated[float, Field(ge=0, lt=1)] = 0.8  # part of the rate for what the images share (paper: 0)
    balance: Annotated[float, Field(ge=0, le=1)] = 0.5  # of the layers: 0 as they come (paper), 1 all alike
    blur: Annotated[float, Field(ge=0)] = 3.0  # pixels, Gaussian on the gradient; falls to a third of it (paper: 0)
    group_floor: Annotated[float, Field(ge=0, lt=1)] = 0.08  # `representative`: labels of smaller share get no image


def attack(
    observations: Sequence[Observation],
    attacker: Attacker,
    settings: Settings,
    generators: Sequence[torch.Generator],
    progress: Progress,
) -> list[Reconstruction]:
    """The representatives (heaviest group's first) or the whole batch (heaviest label's first)."""

    def arrange(shares: Tensor, observation: Observation) -> Group:
        if settings.images == "batch":
            return whole_batch(shares, observation.num_examples)
        return group_by_label(shares, settings.group_floor)

    def directions(x: Tensor, slope: Tensor, done: float) -> list[tuple[float, Tensor]]:
        slope = smooth(slope, settings.blur * (1 - done * 2 / 3))
        return [(1.0, slope + settings.tv * total_variation_gradient(x) if settings.tv else slope)]

    started = time.perf_counter()
    targets = victims(observations, attacker, arrange, settings.balance)
    rate = {"steps": step_decay, "cosine": cosine_decay}[settings.schedule](settings.learning_rate)
    scale = torch.sign if settings.sign else unit
    descent = Descent(settings.steps, settings.distance, rate, settings.shared, scale, pixelwise=settings.sign)
    start = torch.zeros(targets.images, 3, attacker.image_size, attacker.image_size, device=attacker.device)  # grey
    images, losses = descend(targets, start, descent, directions, lambda step: progress(step, settings.steps))
    return reconstructions(images, losses, targets, time.perf_counter() - started)


def total_variation_gradient(images: Tensor) -> Tensor:
    """Gradient (n, 3, H, W) of each image's mean absolute difference between neighbours."""
    pixels = images.detach().requires_grad_(True)
    rows, columns = pixels.diff(dim=2).abs().mean((1, 2, 3)), pixels.diff(dim=3).abs().mean((1, 2, 3))
    return torch.autograd.grad((rows + columns).sum(), pixels)[0]
