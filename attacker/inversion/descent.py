"""The descent of images: Adam, two parts of each image, and how the rate falls."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from attacker.inversion.problem import MatchingProblem
from attacker.inversion.trail import Trail

Directions = Callable[[Tensor, Tensor, float, bool], Sequence[tuple[float | Tensor, Tensor]]]
"""Of images, their matching gradient, the fraction of steps done, and whether they are each victim's consensus."""


@dataclass(frozen=True)
class Descent:
    """How pixels move."""

    steps: int
    distance: str  # a key of DISTANCES
    rate: Callable[[float], float]  # learning rate in the image range [-1, 1] at the fraction of steps done, in [0, 1]
    consensus: float  # part of the rate, in [0, 1), for the image that a victim's representatives share; 0 unties them
    scale: Callable[[Tensor], Tensor]  # brings gradients (n, 3, H, W) to a common size: `unit`, or torch.sign
    pixelwise: bool  # Adam's second moment per pixel, or its mean over the image
    frames: int = 0  # of the images on their way that are kept (attacker.inversion.trail)


class Descended(NamedTuple):
    """Where images arrived."""

    images: Tensor  # (n, 3, H, W) in [-1, 1]
    losses: Tensor  # (victims,)
    frames: Tensor  # (n, frames, 3, H, W): each image on its way, the last where it arrived


class Adam:
    """Kingma & Ba 2015 with the usual moments (0.9, 0.999); images do not feel each other.

    With the second moment averaged over each image, smooth gradients make smooth steps; taken per pixel it
    inflates the faint noise of pixels that hardly matter.
    """

    def __init__(self, pixelwise: bool) -> None:
        self.pixelwise, self.step = pixelwise, 0
        self.mean, self.square = torch.zeros(()), torch.zeros(())

    def __call__(self, grad: Tensor) -> Tensor:
        """The step, of about unit size per pixel, for this gradient (n, 3, H, W)."""
        self.step += 1
        square = grad.square() if self.pixelwise else grad.square().mean((1, 2, 3), keepdim=True)
        self.mean = 0.9 * self.mean.to(grad) + 0.1 * grad
        self.square = 0.999 * self.square.to(grad) + 0.001 * square
        return (self.mean / (1 - 0.9**self.step)) / ((self.square / (1 - 0.999**self.step)).sqrt() + 1e-12)


def descend(
    problem: MatchingProblem,
    start: Tensor,
    descent: Descent,
    directions: Directions,
    progress: Callable[[int], None],
) -> Descended:
    """Move images from `start` (n, 3, H, W) in [-1, 1].

    `directions(images, matching gradient, fraction done, consensus)` gives the terms to follow, (weight, gradient)
    each: of the representatives, and with consensus = True of each victim's mean image (victims, 3, H, W).

    A representative is x_k = consensus + own_k, and both parts descend. Without the consensus the labels'
    opposite signs drive them apart: only w_A x_A - w_B x_B is seen, and its shortest explanation is
    the face for one label and the *negative* of the face for the other, each too faint. All labels show one
    person, so what they share should take the bulk; its gradient is the plain sum over the representatives.
    """
    counts, owner = torch.tensor(problem.counts, device=start.device), problem.owner
    x, own, consensus = start, Adam(descent.pixelwise), Adam(descent.pixelwise)
    trail = Trail(descent.frames, descent.steps)
    trail(0, x)
    for step in range(descent.steps):
        done = step / max(descent.steps - 1, 1)
        _, grad = problem.loss_and_grad(x, descent.distance)
        move = (1 - descent.consensus) * own(sum_terms(directions(x, grad, done, False), descent.scale))
        if descent.consensus:
            face = sum_per_victim(x, owner, len(counts)) / counts[:, None, None, None]
            terms = directions(face, sum_per_victim(grad, owner, len(counts)), done, True)
            move = move + descent.consensus * consensus(sum_terms(terms, descent.scale))[owner]
        x = (x - descent.rate(done) * move).clamp(-1, 1)
        trail(step + 1, x)
        progress(step + 1)
    return Descended(x, problem.loss_and_grad(x, descent.distance)[0], trail.frames(x))


def best_of_each(runs: Iterable[Descended], counts: Sequence[int]) -> Descended:
    """For each victim the run of least loss, of one or more; `counts` are the images of each victim."""
    restarts = iter(runs)
    best = next(restarts)
    for run in restarts:
        better = run.losses < best.losses  # (victims,)
        whose = better.repeat_interleave(torch.tensor(counts, device=better.device))[:, None, None, None]
        best = Descended(
            torch.where(whose, run.images, best.images),
            torch.where(better, run.losses, best.losses),
            torch.where(whose[..., None], run.frames, best.frames),
        )
    return best


def sum_terms(terms: Sequence[tuple[float | Tensor, Tensor]], scale: Callable[[Tensor], Tensor]) -> Tensor:
    """The weighted sum of scaled gradients (n, 3, H, W); a weight is one number, or (n, 1, 1, 1)."""
    return torch.stack([weight * scale(term) for weight, term in terms]).sum(0)


def sum_per_victim(images: Tensor, owner: Tensor, count: int) -> Tensor:
    """The sum (victims, 3, H, W) of each victim's images; `owner` (n,) says whose each is."""
    return torch.zeros(count, *images.shape[1:], device=images.device).index_add_(0, owner, images)


def cosine_decay(peak: float, last: float = 0.1) -> Callable[[float], float]:
    """A rate that falls from `peak` to the fraction `last` of it along half a cosine."""
    return lambda done: peak * (last + (1 - last) * 0.5 * (1 + math.cos(math.pi * done)))


def step_decay(peak: float, steps: int) -> Callable[[float], float]:
    """A rate divided by 10 after 3/8, 5/8 and 7/8 of `steps`, rounded down (Geiping et al. 2020)."""
    marks = [steps * eighths // 8 for eighths in (3, 5, 7)]
    return lambda done: float(peak * 0.1 ** sum(round(done * (steps - 1)) >= mark for mark in marks))
