"""Guided sampling: the diffusion prior's reverse process, steered to explain the update.

The other way to use the prior: not a term of an optimisation (`user_diffusion`) but a sample of the posterior. At
every noise level the denoised image takes a few steps down the matching loss before noise of the next level is put
back (diffusion posterior sampling, Chung et al. 2023; for gradients arXiv 2411.03053), without the U-Net's Jacobian.
The steps have Adam's moments, which are kept from level to level (arXiv 2603.16797).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from attacker.attack import Attacker, Needs, Progress
from attacker.gaussian_blur import gaussian_blur
from attacker.inversion.descent import Adam, sum_per_victim
from attacker.inversion.matching import unit
from attacker.inversion.problem import matching_problem
from attacker.inversion.representatives import arrange_by_label, draw
from attacker.inversion.trail import Trail
from attacker.observation import Observation, Reconstruction

ADAPTS = True  # by attacker.inversion.problem.matching_problem


@dataclass(frozen=True)
class Settings:
    prior: str = "synthetic64"  # shipped name, diffusers folder or hub name; of pixels
    distance: Literal["cosine", "mse"] = "cosine"  # between dummy and observed gradient
    levels: Annotated[int, Field(ge=2)] = 25  # noise levels of the reverse process, one U-Net pass each
    guidance: Annotated[int, Field(ge=1)] = 3  # steps down the matching loss at each level
    learning_rate: Annotated[float, Field(gt=0)] = 0.05  # of these steps, in the image range [-1, 1]
    start: Annotated[float, Field(gt=0, le=1)] = 0.7  # noise level of the first, of the schedule
    consensus: Annotated[float, Field(ge=0, lt=1)] = 0.8  # part of the rate for what the labels share; 0 unties them
    layer_norm_power: Annotated[float, Field(ge=0, le=1)] = 0.5  # 0: layers as they come, 1: by the root of their size
    gradient_blur: Annotated[float, Field(ge=0)] = 1.5  # pixels, Gaussian on the matching gradient
    rounds: Annotated[int, Field(ge=1)] = 1  # updates of the user that are explained together: this and earlier ones


def needs(settings: Settings) -> Needs:
    return Needs(settings.prior, rounds=settings.rounds, second_derivatives=True)


def attack(
    observations: Sequence[Observation],
    attacker: Attacker,
    settings: Settings,
    generators: Sequence[torch.Generator],
    progress: Progress,
) -> list[Reconstruction]:
    """One image a label, the heaviest label's first."""
    prior = attacker.require_prior()
    problem = matching_problem(observations, attacker, arrange_by_label(), settings.layer_norm_power)
    counts, owner = problem.counts, problem.owner
    own, together = Adam(False), Adam(False)

    def guided(x: Tensor) -> Tensor:
        """Images (n, 3, H, W) after some steps down the matching loss."""
        for _ in range(settings.guidance):
            grad = gaussian_blur(problem.loss_and_grad(x, settings.distance)[1], settings.gradient_blur)
            move = (1 - settings.consensus) * own(unit(grad))
            if settings.consensus:
                move = move + settings.consensus * together(unit(sum_per_victim(grad, owner, len(counts))))[owner]
            x = (x - settings.learning_rate * move).clamp(-1, 1)
        return x

    times = torch.linspace(settings.start * (prior.steps - 1), 0, settings.levels).round().long().tolist()
    noise = draw(counts, generators, torch.randn, prior.channels, prior.size, prior.size).to(attacker.device)
    grey = torch.zeros(len(owner), 3, attacker.image_size, attacker.image_size, device=attacker.device)
    x = grey if attacker.faces is None else grey + attacker.faces.mean
    trail = Trail(attacker.frames, settings.levels)
    trail(0, x)
    for level, t in enumerate(times):
        now = torch.full((len(owner),), t, device=attacker.device)
        seen = prior.add_noise(prior.encode(x), noise, now)
        x = guided(prior.decode(prior.predict_x0(seen, now)))
        noise = draw(counts, generators, torch.randn, prior.channels, prior.size, prior.size).to(attacker.device)
        trail(level + 1, x)
        progress(level + 1, settings.levels)
    losses, _ = problem.loss_and_grad(x, settings.distance)
    return problem.reconstructions(x, losses, frames=trail.frames(x))
