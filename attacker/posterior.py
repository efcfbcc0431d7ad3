"""Faces that an update leaves possible: draws of p(photo | mean face) from a conditional prior.

An update determines something like the mean of a user's photos (`user_diffusion` finds it), and a mean is nobody's
portrait. A conditional prior has learnt what photos of a person look like whose mean, damaged as attacks damage it, is
this one: sure where the mean is, free where it says nothing. What its draws share is what leaked; where they differ,
the prior made it up. Of an update that tells nothing they are as many strangers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from attacker.prior import Prior

TOGETHER = 32  # faces drawn in one pass of the U-Net, which bounds the memory


def draw_faces(prior: Prior, means: Tensor, noise: Tensor, steps: int) -> Tensor:
    """A photo (n, 3, H, W) in [-1, 1] for each of `means` (n, 3, H, W), by `steps` DDIM steps.

    `noise` (n, c, S, S), standard normal, decides what the mean leaves open. ValueError for a prior that is not
    conditional.
    """
    if not prior.conditional:
        raise ValueError("the prior is not conditional on a mean face")
    with torch.no_grad():
        parts = zip(torch.split(means, TOGETHER), torch.split(noise, TOGETHER), strict=True)
        return torch.cat([prior.sample(some, steps, condition=prior.encode(mean)) for mean, some in parts])


def most_typical(draws: Tensor) -> int:
    """Which of `draws` (n, 3, H, W) is the nearest to their mean; the first of equals."""
    return int((draws - draws.mean(0)).square().sum((1, 2, 3)).argmin())


def draw_users(
    prior: Prior, means: Sequence[Tensor], noise: Sequence[Tensor], steps: int
) -> list[tuple[Tensor, Tensor]]:
    """For each user the answers (groups, 3, H, W), one a mean of `means`, and all draws (draws, 3, H, W) of the first.

    `means` (groups, 3, H, W) in [-1, 1] a user, a label group each; `noise` (draws, c, S, S) a user. The first answer
    is the most typical draw; the other groups' are drawn from the same noise.
    """
    repeated = torch.cat([own[:1].expand(len(some), -1, -1, -1) for own, some in zip(means, noise, strict=True)])
    draws = torch.split(draw_faces(prior, repeated, torch.cat(list(noise)), steps), [len(some) for some in noise])
    chosen = [most_typical(one) for one in draws]
    rest = [own[1:] for own in means]
    again = [some[k].expand(len(own), -1, -1, -1) for some, k, own in zip(noise, chosen, rest, strict=True)]
    others = torch.cat(rest)
    if len(others):
        others = draw_faces(prior, others, torch.cat(again), steps)
    apart = torch.split(others, [len(own) for own in rest])
    return [(torch.cat([d[k][None], more]), d) for d, k, more in zip(draws, chosen, apart, strict=True)]
