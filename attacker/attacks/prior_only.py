"""Control: what the prior alone yields. A plain sample of the diffusion model; the update is never looked at.

A sample, not `user_diffusion` with the matching term switched off: that procedure, without a gradient,
ends in the prior's blurred mode, which no metric could take for a person. A sample is as plausible a face
as the prior can draw, so it shows how much of a leakage number plausibility alone would earn (the prior
trap of arXiv 2503.11514).
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field

from attacker.attack import Attacker, Needs, Progress
from attacker.observation import Observation, Reconstruction


@dataclass(frozen=True)
class Settings:
    prior: str = "synthetic64"  # shipped name, diffusers folder or hub name
    steps: Annotated[int, Field(ge=1)] = 50  # DDIM steps, one U-Net pass each


def needs(settings: Settings) -> Needs:
    return Needs(settings.prior)


def attack(
    observations: Sequence[Observation],
    attacker: Attacker,
    settings: Settings,
    generators: Sequence[torch.Generator],
    progress: Progress,
) -> list[Reconstruction]:
    """One sample of the prior a user; its matching loss is NaN, since nothing was matched."""
    prior = attacker.require_prior()
    started = time.perf_counter()
    shape = (1, prior.channels, prior.size, prior.size)
    noise = torch.cat([torch.randn(shape, generator=source) for source in generators])
    samples = prior.sample(noise.to(attacker.device), settings.steps)
    progress(settings.steps, settings.steps)
    seconds = (time.perf_counter() - started) / len(observations)
    photos = ((samples + 1) / 2).cpu()  # (victims, 3, H, W) in [0, 1]
    return [Reconstruction(photo[None], torch.ones(1), math.nan, seconds) for photo in photos]
