"""A user's representatives: which images explain an update, how they start, and the answer that is made of them.

A representative is one image that stands for all of a user's photos of one label. In a mean gradient each
photo enters with the sign of its label, so one image with a mixed label cannot explain a mixed batch; one
image per label, weighted by its share, can.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacker.attack import Attacker
from attacker.inversion.labels import recover_proportions, unexplained
from attacker.inversion.matching import Representatives
from attacker.observation import Observation
from fl_sim.modules import logits_layer
from fl_sim.seeds import generator

LITTLE = 0.9  # a model that leaves more than this of the labels unexplained has learnt little
PROBES = 64  # images on which the model's mean softmax is read for label recovery
MIN_SHARE = 0.08  # of what a label contributes to an update; labels with less get no representative


@dataclass(frozen=True)
class Labels:
    """What an attack knows of one user's labels: two answers (classes,), each in [0, 1] with sum 1.

    They differ on trained models, where photos that the model gets right hardly count in the update.
    """

    photos: Tensor  # the share of the photos that have each label: what a whole batch is made up from
    contributed: Tensor  # what each label contributes to the update: what representatives are weighted by


def known_labels(observation: Observation, model: nn.Module, attacker: Attacker) -> Labels:
    """What the threat model grants of the labels; what it does not is recovered from the update.

    What labels contribute is read off the update even if their shares are granted, where only labels that are granted
    can contribute (docs/studies.md has what that is worth). The granted shares are taken for both where that reading
    would be worse: of a model that has learnt little, where all photos contribute the same; without public faces to ask
    the model about; of an update that is known to be defended.
    """
    granted, probes = observation.label_proportions, label_probes(attacker)
    if granted is not None:
        granted = granted.float().to(attacker.device)
        readable = attacker.faces is not None and logits_layer(model, probes) is not None and not observation.defenses
        if not readable or unexplained(model, probes) > LITTLE:
            return Labels(granted, granted)
    steps = 1 if observation.local is None else observation.local.steps(observation.num_examples)
    gradient = {name: value.to(attacker.device) / steps for name, value in observation.gradient.items()}
    scaled = any(defense.scales for defense in observation.defenses)
    masked = any(defense.zeroes != "none" for defense in observation.defenses)
    read = recover_proportions(gradient, model, probes, observation.num_examples, scaled, masked)
    if granted is None:
        return Labels(read, read)
    read = read * (granted > 0)
    return Labels(granted, read / read.sum() if float(read.sum()) else granted)


def label_probes(attacker: Attacker) -> Tensor:
    """Images (m, 3, H, W) in [-1, 1] on which a model answers as on a user's photos: random faces, or smooth noise."""
    draws, size = generator(0, "label probes"), attacker.image_size
    if attacker.faces is not None:
        noise = torch.randn(PROBES, len(attacker.faces.deviations), generator=draws)
        return (attacker.faces.mean + attacker.faces.draw(noise.to(attacker.device))).clamp(-1, 1)
    noise = torch.randn(PROBES, 3, 8, 8, generator=draws)
    return F.interpolate(noise, (size, size), mode="bicubic").clamp(-1, 1).to(attacker.device)


def by_label(shares: Tensor, count: int = 1) -> Representatives:
    """`count` representatives for each class whose share is at least MIN_SHARE, and for the heaviest, heaviest first.

    One image cannot explain the spread of a user's photos, and what it cannot explain it answers with artefacts.
    Several images that differ take up the spread, and leave their mean clean.
    """
    order = shares.argsort(descending=True, stable=True)
    kept = order[(shares[order] >= MIN_SHARE) | (order == order[0])]
    weights = shares[kept] / shares[kept].sum() / count
    return Representatives(labels=kept.repeat_interleave(count), weights=weights.repeat_interleave(count))


def arrange_by_label(count: int = 1) -> Callable[[Labels, Observation], Representatives]:
    """`by_label`, by what labels contribute, for `matching_problem` to arrange by."""
    return lambda labels, _: by_label(labels.contributed, count)


def whole_batch(shares: Tensor, count: int) -> Representatives:
    """`count` images, as many of each label as its share says, heaviest label first."""
    photos = (shares * count).round().long()
    photos[shares.argmax()] += count - int(photos.sum())
    if photos.min() < 0:  # many labels whose shares are all rounded up: the largest remainders
        parts = shares * count
        photos = parts.floor().long()
        photos[(parts - photos).argsort(descending=True, stable=True)[: count - int(photos.sum())]] += 1
    order = shares.argsort(descending=True, stable=True)
    labels = order.repeat_interleave(photos[order])
    return Representatives(labels=labels, weights=torch.full((count,), 1 / count, device=labels.device))


def draw(
    counts: Sequence[int], generators: Sequence[torch.Generator], normal: Callable[..., Tensor], *shape: int
) -> Tensor:
    """Random numbers (sum of counts, *shape): `counts[v]` of victim v, from its own generator.

    `normal` is torch.randn or torch.rand. Drawn on the CPU, so that the device does not change the result.
    """
    return torch.cat([normal(n, *shape, generator=source) for n, source in zip(counts, generators, strict=True)])


def means(
    images: Tensor, representatives: Sequence[Representatives], count: int
) -> tuple[Tensor, list[Representatives]]:
    """The mean (n / count, ...) of every `count` representatives of one label, and what these means stand for.

    `images` are (n, 3, H, W), or (n, frames, 3, H, W).
    """
    merged = [
        Representatives(reps.labels[::count], reps.weights.view(-1, count).sum(1), reps.local)
        for reps in representatives
    ]
    return images.view(len(images) // count, count, *images.shape[1:]).mean(1), merged


def photos(images: Tensor) -> Tensor:
    """Images (..., 3, H, W) in [-1, 1] as pictures in [0, 1], on the CPU."""
    return ((images + 1) / 2).clamp(0, 1).cpu()
