"""Robbing the Fed (Fowl et al. 2022, arXiv 2110.13057): an actively malicious server imprints photos on a gradient.

Before the model is sent, its first linear layer, which sees all pixels of the image, is rewritten. All of its k
rows measure the same thing, the mean pixel m(x), against rising thresholds c_1 < ... < c_k, the quantiles of what
people's photos measure:

    h_i(x) = relu(gain * (m(x) - c_i)),        and every h_i enters the next layer alike.

So a photo adds g(x) * x to the gradient of each row whose threshold it exceeds, with the same factor g(x), and g(x)
to that row's bias. The difference of neighbouring rows holds the photos between two thresholds alone, and where that
is one photo,

    (dL/dW_i - dL/dW_i+1) / (dL/db_i - dL/db_i+1) = x,

to the last digits, whatever the number of photos, the loss and the rest of the model. Photos that share a bin come
out as their mixture, so more bins recover more.

With 256 bins and 30 photos of one person 70 % of the photos come back at more than 30 dB, most of them at more than
130 (python -m experiments.benchmarks.existing_attacks imprint); had all been spread evenly it would be 89 %.

The model must have such a layer: `mlp`, or `imprint_convnet` (a convnet behind the block of the paper). After GELU in
the place of ReLU a step is 6 / gain wide, and should be narrower than a bin, about 2.5 std / k. Only a single
gradient leaks photos so; users that reply with weights (`update = "weights"`) round it off, the more the larger the
gain, so take `imprint_convnet`, whose ReLU needs none, and `gain = 1`.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from attacker.attack import Attacker, Progress
from attacker.inversion.first_layer import first_linear
from attacker.observation import Observation, Reconstruction
from fl_sim.config import ConfigError
from fl_sim.updates import Update

EMPTY = 1e-4  # of the largest bias difference: below it a bin holds rounding errors


@dataclass(frozen=True)
class Settings:
    mean: Annotated[float, Field(ge=-1, le=1)] = -0.1  # of the mean pixel of public people's photos, in [-1, 1]
    std: Annotated[float, Field(gt=0)] = 0.22  # its standard deviation from photo to photo
    gain: Annotated[float, Field(gt=0)] = 1e4  # of the imprint's rows; a GELU is a step to about 3 / gain


def rewrite(server_round: int, parameters: Update, settings: Settings, image_size: int) -> Update:
    """`parameters` with the imprint in the first linear layer. ConfigError if that layer does not see the image."""
    weight, bias, following = _layers(parameters, image_size)
    bins, pixels = parameters[weight].shape
    levels = torch.arange(1, bins, dtype=torch.float64) / bins
    quantiles = settings.mean + settings.std * math.sqrt(2) * torch.erfinv(2 * levels - 1)  # of a normal distribution
    thresholds = torch.cat([torch.tensor([-1.0], dtype=torch.float64), quantiles.clamp(-1, 1)])  # no mean is below -1
    # All rows together then add about the size of one pixel to what the next layer puts out.
    mixing = 1 / (settings.gain * settings.std * bins)
    return {
        **parameters,
        weight: torch.full_like(parameters[weight], settings.gain / pixels),
        bias: (-settings.gain * thresholds).to(parameters[bias]),
        following: torch.full_like(parameters[following], mixing),
    }


def attack(
    observations: Sequence[Observation],
    attacker: Attacker,
    settings: Settings,
    generators: Sequence[torch.Generator],
    progress: Progress,
) -> list[Reconstruction]:
    """The photos that were alone in their bin, and the mixtures of the others, the most typical first.

    At most as many as the user has photos; one grey image where the update shows none. Nothing is matched, so the
    matching loss is NaN. The labels stay unknown, so each image has the same weight.
    """
    answers = []
    for done, observation in enumerate(observations):
        started = time.perf_counter()
        weight, bias, _ = _layers(observation.parameters, attacker.image_size)
        images = read_bins(observation.gradient[weight], observation.gradient[bias], observation.num_examples)
        if len(images) == 0:
            images = torch.zeros(1, observation.gradient[weight].shape[1])
        typical = (images - images.mean(0)).square().sum(1).argsort(stable=True)  # nearest to their mean first
        photos = (images[typical].view(-1, 3, attacker.image_size, attacker.image_size) + 1) / 2
        weights = torch.full((len(photos),), 1 / len(photos))
        answers.append(Reconstruction(photos, weights, math.nan, time.perf_counter() - started))
        progress(done + 1, len(observations))
    return answers


def read_bins(rows: Tensor, biases: Tensor, count: int) -> Tensor:
    """The images (k, d), clamped to [-1, 1], that the gradient of an imprint shows: rows (bins, d), biases (bins,).

    At most `count`, those of the strongest signal, in the order of their thresholds.
    """
    zero = torch.zeros(1, dtype=torch.float64)
    strength = biases.cpu().double() - torch.cat([biases.cpu().double()[1:], zero])  # (bins,)
    largest = float(strength.abs().max())
    kept = (strength.abs() > EMPTY * largest).nonzero()[:, 0] if math.isfinite(largest) else torch.empty(0).long()
    kept = kept[strength[kept].abs().argsort(descending=True, stable=True)[:count]].sort().values
    padded = torch.cat([rows.cpu(), torch.zeros_like(rows.cpu()[:1])])
    sums = padded[kept].double() - padded[kept + 1].double()  # (k, d)
    return (sums / strength[kept, None]).clamp(-1, 1).float()


def _layers(parameters: Update, image_size: int) -> tuple[str, str, str]:
    """Names of the first layer's weight (k, 3 * size^2) and bias (k,), and of the next layer's weight (m, k)."""
    first, following = first_linear(parameters, image_size), list(parameters)[2:3]
    if first is None or not following or parameters[following[0]].shape[1:] != parameters[first[1]].shape:
        raise ConfigError(
            "imprint needs a model whose first layer is linear, sees all pixels and feeds another linear layer; "
            "set model.name to mlp or imprint_convnet"
        )
    return (*first, following[0])
