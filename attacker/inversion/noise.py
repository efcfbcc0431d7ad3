"""Which part of an attack's step is noise that a defense added, so that the step can be kept to what stands out of it.

Of an update almost all may be noise and of the step that it causes little: noise is spread over all entries, and what
they say of the image adds up. So the noise is drawn once more, and its step compared with the update's.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from attacker.inversion.matching import TINY
from attacker.inversion.representatives import Victims, sum_groups


def noise_parts(victims: Victims, images: Tensor, distance: str, generators: Sequence[torch.Generator]) -> Tensor:
    """The part (victims,), in [0, 1], of the energy of each victim's step at `images` (n, 3, H, W) that is noise.

    The step is the matching gradient, summed over the victim's representatives. 0 for all where no noise is known of;
    then nothing is drawn from the victims' generators.
    """
    targets = victims.targets
    if all(seen.noise is None for seen in targets):
        return torch.zeros(len(targets), device=images.device)
    drawn = [
        torch.zeros_like(seen.vector)
        if seen.noise is None
        else seen.noise * torch.randn(len(seen.vector), generator=source).to(seen.vector)
        for seen, source in zip(targets, generators, strict=True)
    ]
    norms = torch.stack([noise.norm() for noise in drawn])
    pure = [
        replace(seen, vector=noise / (norm + TINY)) for seen, noise, norm in zip(targets, drawn, norms, strict=True)
    ]
    one_round = replace(victims, targets=pure, earlier=[[] for _ in targets], faster={})
    slopes = (victims.match(images, distance)[1], one_round.match(images, distance)[1])
    whole, noise = (sum_groups(each, victims.owner, len(targets)).square().sum((1, 2, 3)) for each in slopes)
    rounds = torch.tensor([1 + len(before) for before in victims.earlier], device=images.device)
    # In the mean over several rounds the signal stays, and the energy of the noise is divided by their number.
    return (norms.square() * noise / rounds / (whole + TINY)).clamp_max(1)
