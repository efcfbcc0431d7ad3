"""User-level gradient inversion with a diffusion prior (after Li et al. 2023, arXiv 2409.07291).

A few representative images per label group are optimised, whatever the number of photos:

    min_x  D(dummy gradient of x, observed gradient) + weight * || eps - eps_phi(x_t, t) ||^2

with t drawn from a window that slides from high noise to low (the paper's Figure 5). The paper leaves
the balance of the two terms open; here each enters with its gradient scaled to unit norm per image, so
that one weight serves models whose matching losses differ by orders of magnitude, and the U-Net's
Jacobian is left out (Poole et al. 2022), which costs a forward pass a step and works as well.

The paper optimises one image (`per_group = 1`). Here several explain the update together, and their mean is what the
update determines: a single image that must explain the spread of a user's photos explains it with artefacts. The prior
looks at that mean alone. `face_space` descends along the directions in which public people's faces vary.

A mean of photos is no photo. Where the prior is conditional on a mean face, the answer is a photo that it draws given
that mean, and all draws are told (attacker.priors.posterior); any other prior leaves the mean as the answer.

Where a defense is known to have added noise or to have bent the update, and there are public faces, the step keeps to
what stands out of that: `within_faces`.

On trained models more is to be had than the defaults take: `steps = 300`, and `per_group = 8` where all
photos have one label (docs/studies.md).
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from attacker.attacks import Attacker, Progress
from attacker.inversion.matching import Group, smooth, split, unit
from attacker.inversion.noise import noise_parts
from attacker.inversion.representatives import (
    Descent,
    by_label,
    cosine_decay,
    descend,
    draw,
    means,
    photos,
    reconstructions,
    victims,
)
from attacker.observation import Observation, Reconstruction
from attacker.priors.posterior import draw_faces, most_typical
from attacker.priors.prior import Prior
from fl_sim.config import ConfigError

LEVELS = (0.1, 0.3, 0.5)  # of the noise schedule, at which restarts are compared by the prior
ADAPTS = True  # by attacker.inversion.representatives.victims


@dataclass(frozen=True)
class Settings:
    prior: str = "synthetic64"  # shipped name, diffusers folder or hub name
    distance: Literal["cosine", "mse"] = "cosine"  # between dummy and observed gradient
    steps: Annotated[int, Field(ge=1)] = 100  # optimisation steps
    learning_rate: Annotated[float, Field(gt=0)] = 0.1  # in the image range [-1, 1]; falls to a tenth along a cosine
    per_group: Annotated[int, Field(ge=1)] = 4  # images for each label that jointly explain the update (paper: 1)
    spread: Annotated[float, Field(ge=0)] = 0.3  # by how much they differ at the start, in deviations of faces
    shared: Annotated[float, Field(ge=0, lt=1)] = 0.8  # part of the rate for what the images share; 0 unties them
    balance: Annotated[float, Field(ge=0, le=1)] = 1.0  # of the layers: 0 as they come, 1 by the root of their size
    face_space: Annotated[float, Field(ge=0, le=1)] = 0.6  # part of the step along public faces' components; 0: none
    blur: Annotated[float, Field(ge=0)] = 1.5  # pixels, Gaussian on the rest of the step; falls to a third of it
    prior_weight: Annotated[float, Field(ge=0)] = 0.2  # of the prior's unit-norm gradient against the matching one's
    prior_schedule: Literal["constant", "rising", "falling"] = "falling"  # of that weight: 0 to all of it, or back
    prior_every: Annotated[int, Field(ge=1)] = 1  # steps between two looks at the prior
    through_unet: bool = False  # the denoising loss' true gradient, with the U-Net's Jacobian (paper), or without
    t_start: Annotated[float, Field(ge=0, le=1)] = 0.7  # centre of the window at the first step, of the schedule
    t_end: Annotated[float, Field(ge=0, le=1)] = 0.0  # the same at the last step
    anneal: Literal["linear", "sqrt", "cosine"] = "linear"  # from t_start to t_end; sqrt falls early, cosine late
    repeats: Annotated[int, Field(ge=1)] = 1  # times that the window slides down
    window: Annotated[float, Field(ge=0, le=1)] = 0.15  # its width, of the schedule
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay of a running mean of the images, which is then the answer
    sharpen: Annotated[float, Field(ge=0)] = 0.5  # unsharp mask on the answer, which is softer than a photo
    draws: Annotated[int, Field(ge=0)] = 4  # photos that a conditional prior draws given that mean; 0: it is the answer
    draw_steps: Annotated[int, Field(ge=1)] = 16  # DDIM steps of each; a few understate how much the draws differ
    group_floor: Annotated[float, Field(ge=0, lt=1)] = 0.08  # labels with a smaller share get no image
    rounds: Annotated[int, Field(ge=1)] = 1  # updates of the user that are explained together: this and earlier ones
    unroll: Annotated[int, Field(ge=1)] = (
        1  # local steps (FedAvg) simulated at most; 1: their sum taken for one gradient
    )
    restarts: Annotated[int, Field(ge=1)] = 1  # independent runs; kept is the least matching loss times prior loss


def attack(
    observations: Sequence[Observation],
    attacker: Attacker,
    settings: Settings,
    generators: Sequence[torch.Generator],
    progress: Progress,
) -> list[Reconstruction]:
    """The user's face by label group, the heaviest group's first: a drawn photo, or the mean of the representatives."""
    prior = attacker.prior
    if prior is None:
        raise ConfigError("user_diffusion was given no prior; name one in its settings (prior = ...)")
    started = time.perf_counter()
    count, balance, unroll = settings.per_group, settings.balance, settings.unroll
    targets = victims(observations, attacker, by_label(settings.group_floor, count), balance, unroll)
    rate = cosine_decay(settings.learning_rate)
    descent = Descent(settings.steps, settings.distance, rate, settings.shared, unit, False, settings.ema)
    counts, top, taken = targets.counts, prior.steps - 1, 0
    faces, owner = attacker.faces if settings.face_space else None, targets.owner
    power = other = torch.ones(0)
    if faces is not None:
        at = faces.mean.expand(len(owner), -1, -1, -1)
        parts = noise_parts(targets, at, settings.distance, generators)
        bent = torch.tensor([seen.bent for seen in targets.targets], device=parts.device)
        power, other = within_faces(parts.maximum(bent), settings.face_space)

    def pull(x: Tensor, done: float) -> tuple[float, Tensor]:
        """The prior's term for images (n, 3, H, W), one a victim or all representatives."""
        each = [1] * len(counts) if len(x) == len(counts) else counts
        offset = (draw(each, generators, torch.rand).to(x.device) - 0.5) * settings.window  # (n,)
        t = ((centre(settings, done) + offset) * top).round().long().clamp(0, top)
        noise = draw(each, generators, torch.randn, prior.channels, prior.size, prior.size).to(x.device)
        weight = {"constant": 1.0, "rising": done, "falling": 1 - done}[settings.prior_schedule]
        return settings.prior_weight * weight, prior.residual(x, noise, t, settings.through_unet)

    def directions(x: Tensor, slope: Tensor, done: float, shared: bool) -> list[tuple[float | Tensor, Tensor]]:
        nonlocal taken
        blurred = smooth(slope, settings.blur * (1 - done * 2 / 3))
        if faces is None:
            terms: list[tuple[float | Tensor, Tensor]] = [(1.0, blurred)]
        else:
            whose = slice(None) if shared else owner
            rest = other[whose]
            terms = [((1 - rest).float(), faces.condition(slope, power[whose])), (rest.float(), blurred)]
        if shared == bool(settings.shared) and settings.prior_weight:
            taken += 1
            if taken % settings.prior_every == 0:
                terms.append(pull(x, done))
        return terms

    best, least = torch.empty(0), torch.full((len(counts),), torch.inf, device=attacker.device)
    lowest = least
    total = settings.steps * settings.restarts
    for passed in range(0, total, settings.steps):
        start = beginnings(counts, generators, attacker, settings.spread)
        images, losses = descend(targets, start, descent, directions, lambda step: progress(passed + step, total))  # noqa: B023
        found, groups = means(images, targets.groups, count)
        score = losses
        if settings.restarts > 1:
            each = [len(group.labels) for group in groups]
            noise = draw(each, generators, torch.randn, prior.channels, prior.size, prior.size).to(found.device)
            errors = torch.stack([_error(prior.residual(found, noise, _at(found, level * top))) for level in LEVELS])
            score = losses * torch.stack([part.mean() for part in torch.split(errors.mean(0), each)])
        better = (score < least) | least.isinf()  # (victims,)
        spot = better.repeat_interleave(torch.tensor([len(group.labels) for group in groups], device=better.device))
        best = torch.where(spot[:, None, None, None], found, best if len(best) else found)
        least, lowest = torch.where(better, score, least), torch.where(better, losses, lowest)
    drawn = None
    if prior.conditional and settings.draws:
        determined = [own[0] for own in split(best, groups)]
        best, drawn = draw_photos(best, groups, attacker, prior, settings, generators)
    shown = sharpened(best, settings.sharpen)
    answers = reconstructions(shown, lowest, groups, time.perf_counter() - started)
    if drawn is None:
        return answers
    return [
        replace(answer, draws=photos(sharpened(draws, settings.sharpen)), determined=photos(mean))
        for answer, draws, mean in zip(answers, drawn, determined, strict=True)
    ]


def draw_photos(
    means: Tensor,
    groups: Sequence[Group],
    attacker: Attacker,
    prior: Prior,
    settings: Settings,
    generators: Sequence[torch.Generator],
) -> tuple[Tensor, Tensor]:
    """Photos for the `means` (n, 3, H, W) of all `groups`, one each, and all draws (victims, draws, 3, H, W).

    The draws are of a victim's first group, and its photo is the most typical of them. Other groups get a single draw,
    from the same noise.
    """
    owner = torch.arange(len(groups)).repeat_interleave(torch.tensor([len(group.labels) for group in groups]))
    first = torch.cat([torch.ones(1, dtype=torch.bool), owner[1:] != owner[:-1]])
    noise = draw([settings.draws] * len(groups), generators, torch.randn, prior.channels, prior.size, prior.size)
    noise = noise.view(len(groups), settings.draws, *noise.shape[1:]).to(means.device)
    draws = draw_faces(prior, means[first], noise, settings.draw_steps, attacker.faces)
    typical = torch.tensor([most_typical(own) for own in draws])
    answers = torch.empty_like(means)
    answers[first] = draws[torch.arange(len(groups)), typical]
    if not first.all():
        others = noise[owner[~first], typical[owner[~first]]][:, None]
        answers[~first] = draw_faces(prior, means[~first], others, settings.draw_steps, attacker.faces)[:, 0]
    return answers, draws


def sharpened(images: Tensor, amount: float) -> Tensor:
    """Images (..., 3, H, W) plus `amount` of what a Gaussian blur of a 64th of their side takes away (unsharp mask)."""
    flat = images.flatten(0, -4)
    return images + amount * (flat - smooth(flat, images.shape[-1] / 64)).view_as(images)


def centre(settings: Settings, done: float) -> float:
    """Centre of the window, of the schedule, at the fraction `done` of the steps, both in [0, 1] (paper, Figure 5)."""
    part = done if done == 1 else (done * settings.repeats) % 1
    fallen = {"linear": part, "sqrt": math.sqrt(part), "cosine": 1 - math.cos(math.pi / 2 * part)}[settings.anneal]
    return settings.t_start + (settings.t_end - settings.t_start) * fallen


def within_faces(parts: Tensor, face_space: float) -> tuple[Tensor, Tensor]:
    """How the step keeps to faces where `parts` (victims,) of it, in [0, 1], are noise or another doing of a defense.

    The power (victims,) of the deviations of faces (`FaceSpace.condition`), and the weight (victims, 1, 1, 1) of what
    is not along their components. Up to a half the latter falls to nothing, from there to all the power rises from 1
    to 2. Both were chosen on 16 synthetic and 16 real users; docs/frontier.md has others.
    """
    power = 1 + (2 * parts - 1).clamp_min(0)
    # Double, so that both weights are the setting's to the last digit where there is no noise.
    other = (1 - face_space) * (1 - 2 * parts.double()).clamp_min(0)
    return power, other[:, None, None, None]


def beginnings(
    counts: Sequence[int], generators: Sequence[torch.Generator], attacker: Attacker, spread: float
) -> Tensor:
    """Images (n, 3, H, W) to start from: the mean face of public people, or grey, plus what tells them apart."""
    size, device = attacker.image_size, attacker.device
    if attacker.faces is not None:
        noise = draw(counts, generators, torch.randn, len(attacker.faces.deviations)).to(device)
        return attacker.faces.mean + spread * attacker.faces.draw(noise)
    noise = smooth(draw(counts, generators, torch.randn, 3, size, size).to(device), size / 16)
    return spread / 3 * noise / noise.std((1, 2, 3), keepdim=True)


def _at(images: Tensor, t: float) -> Tensor:
    return torch.full((len(images),), round(t), device=images.device)


def _error(residuals: Tensor) -> Tensor:
    """Mean square (n,) of residuals (n, 3, H, W)."""
    return residuals.square().mean((1, 2, 3))
