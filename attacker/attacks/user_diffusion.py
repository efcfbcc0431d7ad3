"""User-level gradient inversion with a diffusion prior (after Li et al. 2023, arXiv 2409.07291).

One representative image per label group is optimised, whatever the number of photos:

    min_x  D(dummy gradient of x, observed gradient) + weight * || eps - eps_phi(x_t, t) ||^2

with t drawn from a window that slides from high noise to low (the paper's Figure 5). The paper leaves
the balance of the two terms open; here each enters with its gradient scaled to unit norm per image, so
that one weight serves models whose matching losses differ by orders of magnitude, and the U-Net's
Jacobian is left out (Poole et al. 2022), which costs a forward pass a step and works as well.
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
    draw,
    group_by_label,
    reconstructions,
    victims,
)
from attacker.matching import smooth, unit
from attacker.observation import Observation, Reconstruction
from fl_sim.config import ConfigError


@dataclass(frozen=True)
class Settings:
    prior: str = "synthetic64"  # shipped name, diffusers folder or hub name
    distance: Literal["cosine", "mse"] = "cosine"  # between dummy and observed gradient
    steps: Annotated[int, Field(ge=1)] = 70  # optimisation steps; more fit the noise of the mean gradient
    learning_rate: Annotated[float, Field(gt=0)] = 0.1  # in the image range [-1, 1]; falls to a tenth along a cosine
    shared: Annotated[float, Field(ge=0, lt=1)] = 0.8  # part of the rate for what the groups share; 0 unties them
    balance: Annotated[float, Field(ge=0, le=1)] = 0.5  # of the layers in the distance: 0 as they come, 1 all alike
    blur: Annotated[float, Field(ge=0)] = 1.5  # pixels, Gaussian on the matching gradient; falls to a third of it
    prior_weight: Annotated[float, Field(ge=0)] = 0.4  # of the prior's unit-norm gradient against the matching one's
    t_start: Annotated[float, Field(ge=0, le=1)] = 0.7  # centre of the window at the first step, of the schedule
    t_end: Annotated[float, Field(ge=0, le=1)] = 0.0  # the same at the last step
    window: Annotated[float, Field(ge=0, le=1)] = 0.15  # its width, of the schedule
    t_clean: Annotated[float, Field(ge=0, le=1)] = 0.015  # noise level at which the result is denoised once; 0: not
    group_floor: Annotated[float, Field(ge=0, lt=1)] = 0.08  # labels with a smaller share get no image
    restarts: Annotated[int, Field(ge=1)] = 1  # independent runs; the one of lowest matching loss is kept


def attack(
    observations: Sequence[Observation],
    attacker: Attacker,
    settings: Settings,
    generators: Sequence[torch.Generator],
    progress: Progress,
) -> list[Reconstruction]:
    """The user's representatives, the heaviest group's first; it is the answer."""
    prior = attacker.prior
    if prior is None:
        raise ConfigError("user_diffusion was given no prior; name one in its settings (prior = ...)")
    started = time.perf_counter()
    floor = settings.group_floor
    targets = victims(observations, attacker, lambda shares, _: group_by_label(shares, floor), settings.balance)
    rate = cosine_decay(settings.learning_rate)
    descent = Descent(settings.steps, settings.distance, rate, settings.shared, unit, pixelwise=False)
    top = prior.steps - 1

    def directions(x: Tensor, slope: Tensor, done: float) -> list[tuple[float, Tensor]]:
        centre = settings.t_start + (settings.t_end - settings.t_start) * done
        offset = (draw(targets, generators, torch.rand) - 0.5) * settings.window  # (n,)
        t = ((centre + offset) * top).round().long().clamp(0, top)
        noise = draw(targets, generators, torch.randn, 3, prior.size, prior.size)
        slope = smooth(slope, settings.blur * (1 - done * 2 / 3))
        return [(1.0, slope), (settings.prior_weight, prior.residual(x, noise, t))]

    size = attacker.image_size
    start = torch.zeros(targets.images, 3, size, size, device=attacker.device)  # grey
    counts = torch.tensor([len(group.labels) for group in targets.groups], device=attacker.device)
    total = settings.steps * settings.restarts
    best, lowest = start, torch.full((len(counts),), torch.inf, device=attacker.device)
    for passed in range(0, total, settings.steps):
        images, losses = descend(targets, start, descent, directions, lambda step: progress(passed + step, total))  # noqa: B023
        chosen = (losses < lowest) | lowest.isinf()  # (victims,)
        best = torch.where(chosen.repeat_interleave(counts)[:, None, None, None], images, best)
        lowest = torch.where(chosen, losses, lowest)
    if settings.t_clean:  # the gradient leaves faint noise; the prior takes what lies below that level for noise
        t = torch.full((targets.images,), round(settings.t_clean * top), device=attacker.device)
        best = prior.denoised(best, t)
        lowest, _ = targets.match(best, settings.distance)
    return reconstructions(best, lowest, targets, time.perf_counter() - started)
