"""An attack of somebody else's that looks at no update: noisy copies of samples of a prior, as draws; their mean."""

import math
from dataclasses import dataclass

import torch

from attacker.attack import Needs
from attacker.observation import Reconstruction


@dataclass(frozen=True)
class Settings:
    prior: str = "synthetic64"
    steps: int = 10
    draws: int = 8
    noise: float = 0.02  # standard deviation, of pixels in [0, 1]


def needs(settings):
    return Needs(prior=settings.prior)


def attack(observations, attacker, settings, generators, progress):
    prior, answers = attacker.require_prior(), []
    for generator in generators:
        noise = torch.randn(settings.draws, prior.channels, prior.size, prior.size, generator=generator)
        samples = (prior.sample(noise.to(attacker.device), settings.steps).cpu() + 1) / 2
        draws = (samples + settings.noise * torch.randn(samples.shape, generator=generator)).clamp(0, 1)
        answers.append(Reconstruction(draws[:1], torch.ones(1), math.nan, 0.1, draws, draws.mean(0)))
    progress(1, 1)
    return answers
