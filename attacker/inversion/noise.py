"""Which part of an attack's step is noise that a defense added, so that the step can be kept to what stands out of it.

Of an update almost all may be noise and of the step that it causes little: noise is spread over all entries, and what
they say of the image adds up. So the noise is drawn once more, and its step compared with the update's.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from attacker.inversion.descent import sum_per_victim
from attacker.inversion.matching import TINY
from attacker.inversion.problem import MatchingProblem


def noise_parts(
    problem: MatchingProblem, images: Tensor, distance: str, generators: Sequence[torch.Generator]
) -> Tensor:
    """The part (victims,), in [0, 1], of the energy of each victim's step at `images` (n, 3, H, W) that is noise.

    The step is the matching gradient, summed over the victim's representatives. 0 for all where no noise is known of;
    then nothing is drawn from the victims' generators.
    """
    observed = problem.observed_gradients
    if all(seen.noise is None for seen in observed):
        return torch.zeros(len(observed), device=images.device)
    drawn = [
        torch.zeros_like(seen.vector)
        if seen.noise is None
        else seen.noise * torch.randn(len(seen.vector), generator=source).to(seen.vector)
        for seen, source in zip(observed, generators, strict=True)
    ]
    norms = torch.stack([noise.norm() for noise in drawn])
    pure = [
        replace(seen, vector=noise / (norm + TINY)) for seen, noise, norm in zip(observed, drawn, norms, strict=True)
    ]
    one_round = replace(problem, observed_gradients=pure, earlier=[[] for _ in observed], faster={})
    grads = (problem.loss_and_grad(images, distance)[1], one_round.loss_and_grad(images, distance)[1])
    whole, noise = (sum_per_victim(grad, problem.owner, len(observed)).square().sum((1, 2, 3)) for grad in grads)
    rounds = torch.tensor([1 + len(before) for before in problem.earlier], device=images.device)
    # In the mean over several rounds the signal stays, and the energy of the noise is divided by their number.
    return (norms.square() * noise / rounds / (whole + TINY)).clamp_max(1)
