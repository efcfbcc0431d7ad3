"""Search in the latent space of a generator: the counterpart of GIAS and GGL for a diffusion prior.

Jeon et al. 2021 (GIAS, arXiv 2110.14962) and Li et al. 2022 (GGL, arXiv 2203.15696) invert gradients by moving the
latent code of a GAN. A diffusion model has such a code: the initial noise z of a deterministic sampler,

    min_z  D(dummy gradient of DDIM(z), observed gradient),        |z|^2 = dim z,

with the gradient taken through a few DDIM steps and z kept on the sphere where Gaussian noise lies, which
stands for GGL's penalty on unlikely codes. Whatever comes out is a sample of the prior; what the prior cannot draw
cannot come out, and few steps draw blurred faces. As in `user_diffusion` there is one image for each label group.

On 30 photos of one synthetic person at 64 px and an untrained convnet the facial similarity to them rises from -0.09 to
0.84 in the default 60 steps, 33 s of one core (python -m experiments.benchmarks.existing_attacks generative_latent).
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from attacker.attacks import Attacker, Progress
from attacker.inversion.matching import unit
from attacker.inversion.representatives import Adam, by_label, cosine_decay, reconstructions, sum_groups, victims
from attacker.observation import Observation, Reconstruction
from fl_sim.config import ConfigError

ADAPTS = True  # by attacker.inversion.representatives.victims


@dataclass(frozen=True)
class Settings:
    prior: str = "synthetic64"  # shipped name, diffusers folder or hub name
    sampler_steps: Annotated[int, Field(ge=1)] = 4  # DDIM steps from noise to image; time grows with them
    distance: Literal["cosine", "mse"] = "cosine"  # between dummy and observed gradient
    steps: Annotated[int, Field(ge=1)] = 60  # optimisation steps
    learning_rate: Annotated[float, Field(gt=0)] = 0.3  # of z, whose entries have variance 1; falls to a tenth
    shared: Annotated[float, Field(ge=0, le=1)] = 0.8  # part of the slope that is summed over a user's groups
    balance: Annotated[float, Field(ge=0, le=1)] = 0.5  # of the layers: 0 as they come, 1 by the root of their size
    group_floor: Annotated[float, Field(ge=0, lt=1)] = 0.08  # labels with a smaller share get no image


def attack(
    observations: Sequence[Observation],
    attacker: Attacker,
    settings: Settings,
    generators: Sequence[torch.Generator],
    progress: Progress,
) -> list[Reconstruction]:
    """One sample of the prior for each label group, the heaviest group's first; it is the answer."""
    prior = attacker.prior
    if prior is None:
        raise ConfigError("generative_latent was given no prior; name one in its settings (prior = ...)")
    started = time.perf_counter()
    targets = victims(observations, attacker, by_label(settings.group_floor), settings.balance)
    owner = targets.owner
    shape = (1, prior.channels, prior.size, prior.size)
    first = torch.cat([torch.randn(shape, generator=source) for source in generators]).to(attacker.device)
    z, adam = on_sphere(first[owner]), Adam(pixelwise=False)  # a user's groups start from one face
    rate = cosine_decay(settings.learning_rate)
    for step in range(settings.steps):
        z.requires_grad_(True)
        images = prior.sample(z, settings.sampler_steps, differentiable=True)
        _, slope = targets.match(images.detach(), settings.distance)
        pull = unit(torch.autograd.grad(images, z, slope)[0])
        summed = unit(sum_groups(pull, owner, len(targets.groups)))[owner]
        move = adam((1 - settings.shared) * pull + settings.shared * summed)
        z = on_sphere(z.detach() - rate(step / max(settings.steps - 1, 1)) * move)
        progress(step + 1, settings.steps)
    images = prior.sample(z, settings.sampler_steps)
    losses, _ = targets.match(images, settings.distance)
    return reconstructions(images, losses, targets.groups, time.perf_counter() - started)


def on_sphere(z: Tensor) -> Tensor:
    """Each of (n, c, S, S) scaled to the norm sqrt(c S S) that Gaussian noise has."""
    return unit(z) * math.sqrt(z[0].numel())
