"""User-level gradient inversion with a diffusion prior (after Li et al. 2023, arXiv 2409.07291).

A few representative images per label are optimised, whatever the number of photos:

    min_x  D(dummy gradient of x, observed gradient) + weight * || eps - eps_phi(x_t, t) ||^2

with t drawn from a window that slides from high noise to low (the paper's Figure 5). The paper leaves
the balance of the two terms open; here each enters with its gradient scaled to unit norm per image, so
that one weight serves models whose matching losses differ by orders of magnitude, and the U-Net's
Jacobian is left out (Poole et al. 2022), which costs a forward pass a step and works as well.

`preset = "paper"` is Algorithm 1 of the paper as far as it is known, and nothing else: one image, the true gradient of
the prior's term. What the defaults add to it:

- Several images (`images_per_label`) explain the update together, and their mean is what the update determines: a
  single image that must explain the spread of a user's photos explains it with artefacts. The prior looks at that mean
  alone.
- `eigenface_share` descends along the directions in which public people's faces vary. Where a defense is known to have
  added noise to the update or to have biased it, the step keeps to what stands out of that: `within_faces`.
- A mean of photos is no photo. Where the prior is conditional on a mean face, the answer is a photo that it draws given
  that mean, and all draws are shown (attacker.priors.posterior); any other prior leaves the mean as the answer.

On trained models more is to be had than the defaults take: `steps = 300`, and `images_per_label = 8` where all
photos have one label (docs/studies.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from attacker.attack import Attacker, Needs, Progress
from attacker.gaussian_blur import gaussian_blur
from attacker.inversion.descent import Descent, cosine_decay, descend
from attacker.inversion.matching import Representatives, split, unit
from attacker.inversion.noise import noise_parts
from attacker.inversion.problem import MatchingProblem, matching_problem
from attacker.inversion.representatives import arrange_by_label, draw, means, photos
from attacker.observation import Observation, Reconstruction
from attacker.priors.eigenfaces import Eigenfaces
from attacker.priors.posterior import draw_faces, most_photographic
from attacker.priors.prior import Prior

ADAPTS = True  # by attacker.inversion.problem.matching_problem
SPREAD = 0.3  # by how much a label's images differ at the start, in deviations of faces
SHARPEN = 0.5  # strength of the unsharp mask on a mean of several images, and on what is drawn given it


@dataclass(frozen=True)
class Settings:
    prior: str = "synthetic64"  # shipped name, diffusers folder or hub name
    distance: Literal["cosine", "mse"] = "cosine"  # between dummy and observed gradient
    steps: Annotated[int, Field(ge=1)] = 100  # optimisation steps
    learning_rate: Annotated[float, Field(gt=0)] = 0.1  # in the image range [-1, 1]; falls to a tenth along a cosine
    images_per_label: Annotated[int, Field(ge=1)] = 4  # that jointly explain the update (paper: 1)
    consensus: Annotated[float, Field(ge=0, lt=1)] = 0.8  # part of the rate for what the images share; 0 unties them
    layer_norm_power: Annotated[float, Field(ge=0, le=1)] = 1.0  # 0: layers as they come, 1: by the root of their size
    eigenface_share: Annotated[float, Field(ge=0, le=1)] = 0.6  # part of the step along public faces' components
    gradient_blur: Annotated[float, Field(ge=0)] = 1.5  # pixels, Gaussian on the rest of the step; falls to a third
    prior_weight: Annotated[float, Field(ge=0)] = 0.2  # of the prior's unit-norm gradient against the matching one's
    prior_schedule: Literal["constant", "rising", "falling"] = "falling"  # of that weight: 0 to all of it, or back
    unet_jacobian: bool = False  # the denoising loss' true gradient, with the U-Net's Jacobian (paper), or without
    t_start: Annotated[float, Field(ge=0, le=1)] = 0.7  # centre of the window at the first step, of the schedule
    t_end: Annotated[float, Field(ge=0, le=1)] = 0.0  # the same at the last step
    window: Annotated[float, Field(ge=0, le=1)] = 0.15  # its width, of the schedule
    draws: Annotated[int, Field(ge=0)] = 4  # photos that the prior draws given the mean face; 0: that is the answer
    draw_steps: Annotated[int, Field(ge=1)] = 10  # DDIM steps of each
    rounds: Annotated[int, Field(ge=1)] = 1  # updates of the user that are explained together: this and earlier ones
    simulated_steps: Annotated[int, Field(ge=1)] = (
        1  # local steps (FedAvg) at most; 1: their sum counts as one gradient
    )


def needs(settings: Settings) -> Needs:
    return Needs(
        prior=settings.prior,
        public_faces=settings.eigenface_share > 0 or settings.draws > 0,
        rounds=settings.rounds,
        simulated_steps=settings.simulated_steps,
        second_derivatives=True,
    )


def attack(
    observations: Sequence[Observation],
    attacker: Attacker,
    settings: Settings,
    generators: Sequence[torch.Generator],
    progress: Progress,
) -> list[Reconstruction]:
    """The user's face by label, the heaviest label's first: a drawn photo, or the mean of the representatives."""
    prior, count = attacker.require_prior(), settings.images_per_label
    arrange = arrange_by_label(count)
    problem = matching_problem(observations, attacker, arrange, settings.layer_norm_power, settings.simulated_steps)
    faces = attacker.faces if settings.eigenface_share else None
    directions = Directions(problem, prior, faces, settings, generators)
    start = beginnings(problem.counts, generators, attacker, faces)
    rate = cosine_decay(settings.learning_rate)
    descent = Descent(settings.steps, settings.distance, rate, settings.consensus, unit, False, attacker.frames)
    images, losses, frames = descend(problem, start, descent, directions, lambda step: progress(step, settings.steps))
    determined, labels = means(images, problem.representatives, count)
    frames, _ = means(frames, problem.representatives, count)
    if not (prior.conditional and settings.draws):
        if count > 1:
            determined, frames = sharpened(determined), sharpened(frames)
        return problem.reconstructions(determined, losses, labels, frames)
    drawn, draws = draw_photos(determined, labels, attacker, prior, settings, generators)
    answers = problem.reconstructions(drawn, losses, labels, frames)
    return [
        replace(answer, draws=photos(own), determined=photos(mean[0]))
        for answer, own, mean in zip(answers, draws, split(determined, labels), strict=True)
    ]


class Directions:
    """What the images of a problem follow (`attacker.inversion.descent.Directions`).

    The matching gradient, of which a share is kept to faces, and the prior's.
    """

    def __init__(
        self,
        problem: MatchingProblem,
        prior: Prior,
        faces: Eigenfaces | None,
        settings: Settings,
        generators: Sequence[torch.Generator],
    ) -> None:
        self._prior, self._faces, self._settings, self._generators = prior, faces, settings, generators
        self._counts, self._owner = problem.counts, problem.owner
        if faces is not None:
            at = faces.mean.expand(len(self._owner), -1, -1, -1)
            noise = noise_parts(problem, at, settings.distance, generators)  # (victims,)
            biased = torch.tensor([seen.bias_share for seen in problem.observed_gradients], device=noise.device)
            self._power, self._other = within_faces(noise.maximum(biased), settings.eigenface_share)

    def __call__(self, x: Tensor, grad: Tensor, done: float, consensus: bool) -> list[tuple[float | Tensor, Tensor]]:
        blurred = gaussian_blur(grad, self._settings.gradient_blur * (1 - done * 2 / 3))
        terms: list[tuple[float | Tensor, Tensor]] = [(1.0, blurred)]
        if self._faces is not None:
            whose = slice(None) if consensus else self._owner
            other, along = self._other[whose], self._faces.precondition(grad, self._power[whose])
            terms = [((1 - other).float(), along), (other.float(), blurred)]
        if consensus == bool(self._settings.consensus) and self._settings.prior_weight:
            terms.append(self._prior_term(x, done))
        return terms

    def _prior_term(self, x: Tensor, done: float) -> tuple[float, Tensor]:
        """Weight and gradient for images (n, 3, H, W), one a victim or all representatives."""
        prior, settings, top = self._prior, self._settings, self._prior.steps - 1
        each = [1] * len(self._counts) if len(x) == len(self._counts) else self._counts
        offset = (draw(each, self._generators, torch.rand).to(x.device) - 0.5) * settings.window  # (n,)
        t = ((centre(settings, done) + offset) * top).round().long().clamp(0, top)
        noise = draw(each, self._generators, torch.randn, prior.channels, prior.size, prior.size).to(x.device)
        weight = {"constant": 1.0, "rising": done, "falling": 1 - done}[settings.prior_schedule]
        return settings.prior_weight * weight, prior.sds_gradient(x, noise, t, settings.unet_jacobian)


def draw_photos(
    means: Tensor,
    labels: Sequence[Representatives],
    attacker: Attacker,
    prior: Prior,
    settings: Settings,
    generators: Sequence[torch.Generator],
) -> tuple[Tensor, Tensor]:
    """Photos for the `means` (n, 3, H, W) of all victims' `labels`, one each, and all draws (victims, draws, 3, H, W).

    The draws are of a victim's first label, and its photo is the most photographic of them. Other labels get a single
    draw, from the same noise. All are sharpened.
    """
    victims, shape = len(labels), (prior.channels, prior.size, prior.size)
    owner = torch.arange(victims).repeat_interleave(torch.tensor([len(own.labels) for own in labels]))
    first = torch.cat([torch.ones(1, dtype=torch.bool), owner[1:] != owner[:-1]])
    noise = draw([settings.draws] * victims, generators, torch.randn, *shape)
    noise = noise.view(victims, settings.draws, *shape).to(means.device)
    draws = sharpened(draw_faces(prior, means[first], noise, settings.draw_steps, attacker.faces))
    chosen = torch.tensor([most_photographic(own.clamp(-1, 1), attacker.faces) for own in draws])
    answers = torch.empty_like(means)
    answers[first] = draws[torch.arange(victims), chosen]
    if not first.all():
        others = noise[owner[~first], chosen[owner[~first]]][:, None]
        answers[~first] = sharpened(draw_faces(prior, means[~first], others, settings.draw_steps, attacker.faces)[:, 0])
    return answers, draws


def sharpened(images: Tensor) -> Tensor:
    """Images (..., 3, H, W) plus SHARPEN of what a Gaussian blur of a 64th of their side takes away (unsharp mask)."""
    flat = images.flatten(0, -4)
    return images + SHARPEN * (flat - gaussian_blur(flat, images.shape[-1] / 64)).view_as(images)


def centre(settings: Settings, done: float) -> float:
    """Centre of the window, of the schedule, at the fraction `done` of the steps, both in [0, 1] (paper, Figure 5)."""
    return settings.t_start + (settings.t_end - settings.t_start) * done


def within_faces(parts: Tensor, eigenface_share: float) -> tuple[Tensor, Tensor]:
    """How the step keeps to faces where `parts` (victims,) of it, in [0, 1], are noise or another doing of a defense.

    The power (victims,) of the deviations of faces (`Eigenfaces.precondition`), and the weight (victims, 1, 1, 1) of
    what is not along their components. Up to a half the latter falls to nothing, from there to all the power rises from
    1 to 2. Both were chosen on 16 synthetic and 16 real users; docs/frontier.md has others.
    """
    power = 1 + (2 * parts - 1).clamp_min(0)
    # Double, so that both weights are the setting's to the last digit where there is no noise.
    other = (1 - eigenface_share) * (1 - 2 * parts.double()).clamp_min(0)
    return power, other[:, None, None, None]


def beginnings(
    counts: Sequence[int], generators: Sequence[torch.Generator], attacker: Attacker, faces: Eigenfaces | None
) -> Tensor:
    """Images (n, 3, H, W) to start from: the mean of public faces, or grey, plus what tells them apart."""
    size, device = attacker.image_size, attacker.device
    if faces is not None:
        return faces.mean + SPREAD * faces.draw(draw(counts, generators, torch.randn, len(faces.deviations)).to(device))
    noise = gaussian_blur(draw(counts, generators, torch.randn, 3, size, size).to(device), size / 16)
    return SPREAD / 3 * noise / noise.std((1, 2, 3), keepdim=True)
