"""Search in the latent space of a generator: the counterpart of GIAS and GGL for a diffusion prior.

Jeon et al. 2021 (GIAS, arXiv 2110.14962) and Li et al. 2022 (GGL, arXiv 2203.15696) invert gradients by moving the
latent code of a GAN. A diffusion model has such a code: the initial noise z of a deterministic sampler,

    min_z  D(dummy gradient of DDIM(z), observed gradient),        |z|^2 = dim z,

with the gradient taken through a few DDIM steps and z kept on the sphere where Gaussian noise lies, which
stands for GGL's penalty on unlikely codes. Whatever comes out is a sample of the prior; what the prior cannot draw
cannot come out, and few steps draw blurred faces. As in `user_diffusion` there is one image for each label.

On 30 photos of one synthetic person at 64 px and an untrained convnet the facial similarity to them rises from -0.09 to
0.84 in the default 60 steps, 33 s of one core (python -m experiments.benchmarks.existing_attacks generative_latent).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from attacker.attack import Attacker, Needs, Progress
from attacker.inversion.descent import Adam, cosine_decay, sum_per_victim
from attacker.inversion.matching import unit
from attacker.inversion.problem import matching_problem
from attacker.inversion.representatives import arrange_by_label
from attacker.inversion.trail import Trail
from attacker.observation import Observation, Reconstruction

ADAPTS = True  # by attacker.inversion.problem.matching_problem


@dataclass(frozen=True)
class Settings:
    prior: str = "synthetic64"  # shipped name, diffusers folder or hub name
    sampler_steps: Annotated[int, Field(ge=1)] = 4  # DDIM steps from noise to image; time grows with them
    distance: Literal["cosine", "mse"] = "cosine"  # between dummy and observed gradient
    steps: Annotated[int, Field(ge=1)] = 60  # optimisation steps
    learning_rate: Annotated[float, Field(gt=0)] = 0.3  # of z, whose entries have variance 1; falls to a tenth
    consensus: Annotated[float, Field(ge=0, le=1)] = 0.8  # part of the gradient that is summed over a user's images
    layer_norm_power: Annotated[float, Field(ge=0, le=1)] = 0.5  # 0: layers as they come, 1: by the root of their size


def needs(settings: Settings) -> Needs:
    return Needs(settings.prior, second_derivatives=True)


def attack(
    observations: Sequence[Observation],
    attacker: Attacker,
    settings: Settings,
    generators: Sequence[torch.Generator],
    progress: Progress,
) -> list[Reconstruction]:
    """One sample of the prior for each label, the heaviest label's first; it is the answer."""
    prior = attacker.require_prior()
    problem = matching_problem(observations, attacker, arrange_by_label(), settings.layer_norm_power)
    owner = problem.owner
    shape = (1, prior.channels, prior.size, prior.size)
    first = torch.cat([torch.randn(shape, generator=source) for source in generators]).to(attacker.device)
    z, adam = on_sphere(first[owner]), Adam(pixelwise=False)  # a user's labels start from one face
    rate = cosine_decay(settings.learning_rate)
    trail = Trail(attacker.frames, settings.steps)
    for step in range(settings.steps):
        z.requires_grad_(True)
        images = prior.sample(z, settings.sampler_steps, differentiable=True)
        trail(step, images)
        _, grad = problem.loss_and_grad(images.detach(), settings.distance)
        pull = unit(torch.autograd.grad(images, z, grad)[0])
        summed = unit(sum_per_victim(pull, owner, len(problem.counts)))[owner]
        move = adam((1 - settings.consensus) * pull + settings.consensus * summed)
        z = on_sphere(z.detach() - rate(step / max(settings.steps - 1, 1)) * move)
        progress(step + 1, settings.steps)
    images = prior.sample(z, settings.sampler_steps)
    losses, _ = problem.loss_and_grad(images, settings.distance)
    trail(settings.steps, images)
    return problem.reconstructions(images, losses, frames=trail.frames(images))


def on_sphere(z: Tensor) -> Tensor:
    """Each of (n, c, S, S) scaled to the norm sqrt(c S S) that Gaussian noise has."""
    return unit(z) * math.sqrt(z[0].numel())
