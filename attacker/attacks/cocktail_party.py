"""The cocktail party attack (Kariyappa et al. 2023, arXiv 2209.05578): a user's photos, unmixed from one gradient.

Where the first layer is fully connected, as in `mlp`, each row of its weights' gradient is a linear mixture of the
user's photos (`attacker.inversion.first_layer`): G = A X, with one row of X a photo. The server does not know A. But
G has the rank of X, so the photos are among the combinations u G of n mixtures, n the number of photos, and independent
component analysis tells which (`attacker.inversion.unmixing`). The model is not run once.

Sign and size of a source, which that leaves open, the gradient of the layer's bias tells: it is the same mixture of
ones, g = A 1. The combination u that parts photo i from the others has u G = c x_i and u g = c, so x_i = u G / u g, in
pixels. Where the others are not quite parted, this is still a mixture of photos with weights that sum to 1.

`preset = "paper"` is the published attack: the pixels themselves are unmixed, by negentropy, total variation and a
penalty on sources that are alike. Only the size is by the rule above, as the paper leaves it open. The default unmixes
third derivatives by their likelihood instead: photos of one person are too much alike in their pixels. On trained
models, and of users who take several local steps, the photos are mixed all the same; those that a model gets right are
missing. Of a noisy update only what stands out of the noise is unmixed: of less and less of it, in the end, the mean.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from attacker.attack import Attacker, Progress
from attacker.inversion.first_layer import first_linear
from attacker.inversion.representatives import photos
from attacker.inversion.unmixing import by_adam, by_newton, derivatives, log_likelihood, negentropy, whitening
from attacker.observation import Observation, Reconstruction
from fl_sim.config import ConfigError

ROUNDING = 1e-8  # of the largest singular value of a gradient: what is smaller is float32's rounding
STANDS_OUT = 2.0  # times the largest singular value that cannot be a photo's: what is larger is one's


@dataclass(frozen=True)
class Settings:
    objective: Literal["likelihood", "negentropy"] = "likelihood"  # what parted photos maximise (paper: negentropy)
    derivatives: Annotated[int, Field(ge=0, le=6)] = 3  # order of the pixel differences looked at; 0: pixels (paper)
    steps: Annotated[int, Field(ge=1)] = 300  # at most, of L-BFGS; `negentropy`: of Adam
    tv: Annotated[float, Field(ge=0)] = 1.0  # `negentropy`: weight of the photos' total variation
    independence: Annotated[float, Field(ge=0)] = 0.01  # `negentropy`: weight of the likeness of two photos' rows


def attack(
    observations: Sequence[Observation],
    attacker: Attacker,
    settings: Settings,
    generators: Sequence[torch.Generator],
    progress: Progress,
) -> list[Reconstruction]:
    """The photos, as many as the update shows, the most typical first; one grey image where it shows none.

    Nothing is matched, so the matching loss is NaN; nothing is drawn; whose label is whose stays unknown, so each photo
    has the same weight. Raises ConfigError for a model whose first layer does not see all pixels.
    """
    answers, size = [], attacker.image_size
    for done, observation in enumerate(observations):
        started = time.perf_counter()
        layer = first_linear(observation.gradient, size)
        if layer is None:
            raise ConfigError(
                "cocktail_party needs a model whose first layer is linear, with a bias, and sees all pixels; set "
                "model.name to mlp, or leave the attack out"
            )
        rows, bias = (observation.gradient[name].cpu().double() for name in layer)
        combinations = visible(rows, observation.num_examples)
        mixtures = (combinations @ rows).view(-1, 3, size, size)
        found = torch.zeros(1, 3, size, size)
        if len(mixtures):
            unmixed = separate(mixtures, settings)
            found = scaled(unmixed @ mixtures.flatten(1), unmixed @ (combinations @ bias)).view_as(mixtures).float()
        typical = (found - found.median(0).values).square().sum((1, 2, 3)).argsort(stable=True)
        weights = torch.full((len(found),), 1 / len(found))
        answers.append(Reconstruction(photos(found[typical]), weights, math.nan, time.perf_counter() - started))
        progress(done + 1, len(observations))
    return answers


def visible(rows: Tensor, count: int) -> Tensor:
    """Combinations (n, k), orthonormal, of the `rows` (k, d), double, of a gradient that mix its photos and no noise.

    As many as there are photos (`count`), or fewer. A direction beyond these shows how large noise is.
    """
    if not bool(rows.isfinite().all()) or not bool(rows.any()):
        return rows.new_zeros(0, len(rows))
    squares, vectors = torch.linalg.eigh(rows @ rows.T)
    sizes = squares.clamp_min(0).sqrt().flip(0)  # (k,) singular values, falling
    noise = STANDS_OUT * float(sizes[count]) if count < len(sizes) else 0.0
    kept = int((sizes[:count] > max(noise, ROUNDING * float(sizes[0]))).sum())
    combinations: Tensor = vectors.flip(1)[:, :kept].T
    return combinations


def separate(mixtures: Tensor, settings: Settings) -> Tensor:
    """Rows (n, n), each of which parts one photo from mixtures (n, 3, H, W), double, up to sign and size."""
    signals = derivatives(mixtures, settings.derivatives)
    whiten = whitening(signals)
    z = (whiten @ signals.flatten(1)).view_as(signals).float()
    if settings.objective == "likelihood":
        return by_newton(log_likelihood(z), len(z), settings.steps) @ whiten
    images = (whiten @ mixtures.flatten(1)).view_as(mixtures).float()
    objective = negentropy(z, images, settings.tv, settings.independence)
    return by_adam(objective, len(z), settings.steps) @ whiten


def scaled(sources: Tensor, ones: Tensor) -> Tensor:
    """Images (n, d), clamped to [-1, 1], from sources (n, d) and what the same rows make of the bias (n,)."""
    smallest = torch.finfo(ones.dtype).tiny
    return (sources / torch.where(ones.abs() < smallest, smallest, ones)[:, None]).clamp(-1, 1)
