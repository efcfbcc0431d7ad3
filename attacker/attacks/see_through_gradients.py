"""See Through Gradients: batch recovery via GradInversion (Yin et al. 2021, arXiv 2104.07586).

One image a photo, with labels read off the last layer, optimised by Adam from several random seeds at once:

    min_x  D(dummy gradient, observed) + tv TV(x) + l2 ||x||^2 + statistics R_BN(x) + group ||x - mean over seeds||^2

R_BN is the relative distance of the batch's means and variances in each batch-norm layer to those of the user's
photos, where the threat model grants them (`threat_model.batch_norm_statistics`); without, the term is absent. Here
the seeds agree on their pixel mean, which the paper first registers by RANSAC flow: faces that fill the frame
need none. The paper's noise on each step is left out, and each term enters on the scale of a gradient of norm 1. The
paper's squared distance rewards images whose gradient vanishes, and from noise on an untrained network it ends there
(a loss of 1.0); hence the cosine. The seed that matches best is the answer.

On a batch of 4 faces with four labels, 16 px, under an untrained ResNet-18 with fixed normalisation, two seeds reach
13.5 dB PSNR in 150 steps, and 15.8 dB with the batch-norm statistics, 46 s of one core each
(python -m experiments.benchmarks.existing_attacks see_through_gradients). A user's photos of one face share few
labels, so the seeds need not put the same photo in the same place, and may agree on a smear.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from attacker.attack import Attacker, Needs, Progress
from attacker.attacks.inverting_gradients import total_variation_gradient
from attacker.inversion.descent import Adam, cosine_decay
from attacker.inversion.matching import Representatives
from attacker.inversion.problem import MatchingProblem, matching_problem
from attacker.inversion.representatives import Labels, whole_batch
from attacker.inversion.trail import Trail
from attacker.observation import Observation, Reconstruction
from fl_sim.models import batch_statistics
from fl_sim.updates import Update

ADAPTS = True  # by attacker.inversion.problem.matching_problem


@dataclass(frozen=True)
class Settings:
    seeds: Annotated[int, Field(ge=1)] = 4  # independent starts that are drawn towards each other
    steps: Annotated[int, Field(ge=1)] = 200  # of Adam (paper: 20,000)
    learning_rate: Annotated[float, Field(gt=0)] = 0.1  # in the image range [-1, 1]; falls to a tenth along a cosine
    distance: Literal["cosine", "mse"] = "cosine"  # between dummy and observed gradient (paper: mse)
    layer_norm_power: Annotated[float, Field(ge=0, le=1)] = 0.5  # 0: layers as they come (paper), 1: by root of size
    tv: Annotated[float, Field(ge=0)] = 1e-2  # weight of total variation
    l2: Annotated[float, Field(ge=0)] = 1e-6  # weight of each image's squared norm
    statistics: Annotated[float, Field(ge=0)] = 0.1  # weight of the batch-norm statistics, where they are granted
    group: Annotated[float, Field(ge=0)] = 1e-3  # weight of each image's squared distance to the mean over the seeds
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
    """All images of the seed that matches best, those of the heaviest label first; the first is the answer."""

    def arrange(labels: Labels, observation: Observation) -> Representatives:
        return whole_batch(labels.photos, min(observation.num_examples, settings.max_images))

    problem = matching_problem(observations, attacker, arrange, settings.layer_norm_power)
    rate = cosine_decay(settings.learning_rate)

    def solve(victim: int, source: torch.Generator, report: Callable[[int], None]) -> tuple[Tensor, float, Tensor]:
        granted = observations[victim].statistics if settings.statistics else None
        statistics = granted and {name: value.to(attacker.device) for name, value in granted.items()}
        seeds, own = _seeds(problem, victim, settings.seeds), problem.counts[victim]
        shape = (settings.seeds, own, 3, attacker.image_size, attacker.image_size)
        x, adam = torch.randn(shape, generator=source).to(attacker.device), Adam(pixelwise=True)
        trail = Trail(attacker.frames, settings.steps)
        trail(0, x.flatten(0, 1))
        for step in range(settings.steps):
            grad = seeds.loss_and_grad(x.flatten(0, 1), settings.distance)[1].view_as(x) + regularisers(x, settings)
            if statistics:
                grad = grad + settings.statistics * statistics_gradient(problem.model, x, statistics)
            x = (x - rate(step / max(settings.steps - 1, 1)) * adam(grad.flatten(0, 1)).view_as(x)).clamp(-1, 1)
            trail(step + 1, x.flatten(0, 1))
            report(step + 1)
        losses, _ = seeds.loss_and_grad(x.flatten(0, 1), settings.distance)
        best = int(losses.argmin())
        frames = trail.frames(x.flatten(0, 1))  # (seeds * own, frames, 3, H, W)
        return x[best], float(losses[best]), frames[best * own : (best + 1) * own]

    return problem.solve_each(solve, generators, settings.steps, progress)


def _seeds(problem: MatchingProblem, victim: int, count: int) -> MatchingProblem:
    """One victim `count` times over: each seed is a batch of its own."""
    fixed, observed = problem.representatives[victim], problem.observed_gradients[victim]
    return MatchingProblem(problem.model, [fixed] * count, [observed] * count, [[]] * count)


def regularisers(x: Tensor, settings: Settings) -> Tensor:
    """The gradient (seeds, n, 3, H, W) of total variation, squared norm and group consistency."""
    variation = total_variation_gradient(x.flatten(0, 1)).view_as(x)
    return settings.tv * variation + 2 * settings.l2 * x + 2 * settings.group * (x - x.mean(0)) / x[0, 0].numel()


def statistics_gradient(model: nn.Module, x: Tensor, statistics: Update) -> Tensor:
    """The gradient (seeds, n, 3, H, W) of the mean relative distance of each seed's statistics to `statistics`."""
    grads = []
    for batch in x:
        pixels = batch.detach().requires_grad_(True)
        seen = batch_statistics(model, pixels)
        distances = [(seen[name] - value).norm() / value.norm().clamp_min(1e-6) for name, value in statistics.items()]
        grads.append(torch.autograd.grad(torch.stack(distances).mean(), pixels)[0])
    return torch.stack(grads)
