"""What attacks on representatives share: the groups that an update shows, the descent, the answer.

A representative is one image that stands for all of a user's photos of one label. In a mean gradient each
photo enters with the sign of its label, so one image with a mixed label cannot explain a mixed batch; one
image per label, weighted by its share, can.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacker.attacks import Attacker
from attacker.inversion.cuda_graph import Recorded
from attacker.inversion.defense_aware import adapt
from attacker.inversion.finite_difference import Agreed, Difference, Slope
from attacker.inversion.labels import recover_proportions, unexplained
from attacker.inversion.local_simulation import plan
from attacker.inversion.matching import DISTANCES, Group, Target, load_model, match, split, target
from attacker.observation import Observation, Reconstruction
from fl_sim.config import ConfigError
from fl_sim.modules import logits_layer
from fl_sim.seeds import generator

LITTLE = 0.9  # a model that leaves more than this of the labels unexplained has learnt little
PROBES = 64  # images on which the model's mean softmax is read for label recovery


@dataclass(frozen=True)
class Victims:
    """The users attacked together: one model, and per victim the fixed part of its representatives."""

    model: nn.Module  # with the parameters that the server sent
    groups: list[Group]  # one a victim
    targets: list[Target]  # one a victim
    earlier: list[list[tuple[nn.Module, Target]]]  # per victim, the models and updates of rounds before, latest first
    faster: dict[str, Slope] = field(default_factory=dict)  # `match`, per distance

    @property
    def counts(self) -> list[int]:
        """Representatives of each victim."""
        return [len(group.labels) for group in self.groups]

    @property
    def owner(self) -> Tensor:
        """Whose each image is: (n,) places in `groups`."""
        places = torch.arange(len(self.groups)).repeat_interleave(torch.tensor(self.counts))
        return places.to(self.targets[0].vector.device)

    def match(self, images: Tensor, distance: str) -> tuple[Tensor, Tensor]:
        """Matching losses (victims,) and their gradients in the images (n, 3, H, W); means over the rounds known."""
        # Not a method: it would lead back here, and what GPUs record must go as soon as its victims do.
        function = partial(match_rounds, self.model, self.groups, self.targets, self.earlier, distance)
        if distance not in self.faster:
            if images.is_cuda:  # convolutions round too much there (TF32), and launches cost more than products
                self.faster[distance] = Recorded(function)
            else:
                self.faster[distance] = Agreed(function, partial(function, difference=cache(Difference)))
        return self.faster[distance](images)


def match_rounds(
    model: nn.Module,
    groups: list[Group],
    targets: list[Target],
    earlier: list[list[tuple[nn.Module, Target]]],
    distance: str,
    images: Tensor,
    difference: Callable[[nn.Module], Difference | None] = lambda model: None,
) -> tuple[Tensor, Tensor]:
    """What `Victims.match` does."""
    losses, slopes = match(model, images, groups, targets, DISTANCES[distance], difference(model))
    if not any(earlier):
        return losses, slopes
    parts = zip(losses, split(images, groups), split(slopes, groups), strict=True)
    fused = []
    for (loss, part, slope), group, known in zip(parts, groups, earlier, strict=True):
        before = [match(sent, part, [group], [seen], DISTANCES[distance], difference(sent)) for sent, seen in known]
        count = 1 + len(before)
        total = sum((one[0] for one, _ in before), loss) / count
        fused.append((total, sum((more for _, more in before), slope) / count))
    return torch.stack([loss for loss, _ in fused]), torch.cat([slope for _, slope in fused])


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
    scaled = any(one.scales for one in observation.defenses)
    masked = any(one.zeroes != "none" for one in observation.defenses)
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


def group_by_label(shares: Tensor, floor: float, count: int = 1) -> Group:
    """`count` representatives for each class whose share is at least `floor` (the heaviest always), heaviest first.

    One image cannot explain the spread of a user's photos, and what it cannot explain it answers with artefacts.
    Several images that differ take up the spread, and leave their mean clean.
    """
    order = shares.argsort(descending=True, stable=True)
    kept = order[(shares[order] >= floor) | (order == order[0])]
    weights = shares[kept] / shares[kept].sum() / count
    return Group(labels=kept.repeat_interleave(count), weights=weights.repeat_interleave(count))


def by_label(floor: float, count: int = 1) -> Callable[[Labels, Observation], Group]:
    """`group_by_label`, by what labels contribute, for `victims` to arrange by."""
    return lambda labels, _: group_by_label(labels.contributed, floor, count)


def whole_batch(shares: Tensor, count: int) -> Group:
    """`count` images, as many of each label as its share says, heaviest label first."""
    photos = (shares * count).round().long()
    photos[shares.argmax()] += count - int(photos.sum())
    order = shares.argsort(descending=True, stable=True)
    labels = order.repeat_interleave(photos[order])
    return Group(labels=labels, weights=torch.full((count,), 1 / count, device=labels.device))


def victims(
    observations: Sequence[Observation],
    attacker: Attacker,
    arrange: Callable[[Labels, Observation], Group],
    balance: float,
    unroll: int = 1,
) -> Victims:
    """Load the model as it was sent and `arrange` what is known of each user's labels into its representatives.

    `balance` of the layers is that of `attacker.inversion.matching.target`; a user's local steps are simulated in
    `unroll` steps at most, 1 takes their sum for one gradient.
    Raises ConfigError if the observations are of more than one round.
    """
    rounds = sorted({observation.server_round for observation in observations})
    if len(rounds) != 1:
        raise ConfigError(f"observations of rounds {rounds} given; an attack takes the victims of one round together")
    model = load_model(attacker.model, observations[0].parameters).to(attacker.device)
    groups = [
        replace(
            arrange(known_labels(observation, model, attacker), observation),
            local=plan(observation.local, observation.num_examples, unroll),
        )
        for observation in observations
    ]
    models: dict[int, nn.Module] = {}

    def seen(observation: Observation) -> Target:
        gradient = {name: value.to(attacker.device) for name, value in observation.gradient.items()}
        return target(gradient, balance, adapt(gradient, observation.defenses))

    def sent(observation: Observation) -> nn.Module:
        if observation.server_round not in models:
            loaded = load_model(attacker.model, observation.parameters)
            models[observation.server_round] = loaded.to(attacker.device)
        return models[observation.server_round]

    earlier = [[(sent(before), seen(before)) for before in observation.history] for observation in observations]
    return Victims(model, groups, [seen(observation) for observation in observations], earlier)


def draw(
    counts: Sequence[int], generators: Sequence[torch.Generator], normal: Callable[..., Tensor], *shape: int
) -> Tensor:
    """Random numbers (sum of counts, *shape): `counts[v]` of victim v, from its own generator.

    `normal` is torch.randn or torch.rand. Drawn on the CPU, so that the device does not change the result.
    """
    return torch.cat([normal(n, *shape, generator=source) for n, source in zip(counts, generators, strict=True)])


Directions = Callable[[Tensor, Tensor, float, bool], Sequence[tuple[float | Tensor, Tensor]]]


@dataclass(frozen=True)
class Descent:
    """How pixels move."""

    steps: int
    distance: str  # a key of DISTANCES
    rate: Callable[[float], float]  # learning rate in the image range [-1, 1] at the fraction of steps done, in [0, 1]
    shared: float  # part of the rate, in [0, 1), for the image that a victim's representatives share; 0 unties them
    scale: Callable[[Tensor], Tensor]  # brings gradients (n, 3, H, W) to a common size: `unit`, or torch.sign
    pixelwise: bool  # Adam's second moment per pixel, or its mean over the image
    ema: float = 0.0  # decay of a running mean of the images, which is then the result; 0: the last ones are


class Adam:
    """Kingma & Ba 2015 with the usual moments (0.9, 0.999); images do not feel each other.

    With the second moment averaged over each image, smooth gradients make smooth steps; taken per pixel it
    inflates the faint noise of pixels that hardly matter.
    """

    def __init__(self, pixelwise: bool) -> None:
        self.pixelwise, self.step = pixelwise, 0
        self.mean, self.square = torch.zeros(()), torch.zeros(())

    def __call__(self, slope: Tensor) -> Tensor:
        """The step, of about unit size per pixel, for this slope (n, 3, H, W)."""
        self.step += 1
        square = slope.square() if self.pixelwise else slope.square().mean((1, 2, 3), keepdim=True)
        self.mean = 0.9 * self.mean.to(slope) + 0.1 * slope
        self.square = 0.999 * self.square.to(slope) + 0.001 * square
        return (self.mean / (1 - 0.9**self.step)) / ((self.square / (1 - 0.999**self.step)).sqrt() + 1e-12)


def descend(
    victims: Victims,
    start: Tensor,
    descent: Descent,
    directions: Directions,
    progress: Callable[[int], None],
) -> tuple[Tensor, Tensor]:
    """Move images from `start` (n, 3, H, W) in [-1, 1]; return them and their matching losses (victims,).

    `directions(images, matching gradient, fraction done, shared)` gives the terms to follow, (weight, gradient)
    each: of the representatives, and with shared = True of each victim's mean image (victims, 3, H, W).

    A representative is x_k = shared + own_k, and both parts descend. Without the shared part the labels'
    opposite signs drive the groups apart: only w_A x_A - w_B x_B is seen, and its shortest explanation is
    the face in one group and the *negative* of the face in the other, each too faint. All groups show one
    person, so what they share should take the bulk; its gradient is the plain sum over the groups.
    """
    counts, owner = torch.tensor(victims.counts, device=start.device), victims.owner
    x, own, shared = start, Adam(descent.pixelwise), Adam(descent.pixelwise)
    average = start
    for step in range(descent.steps):
        done = step / max(descent.steps - 1, 1)
        _, slope = victims.match(x, descent.distance)
        move = (1 - descent.shared) * own(sum_terms(directions(x, slope, done, False), descent.scale))
        if descent.shared:
            face = sum_groups(x, owner, len(counts)) / counts[:, None, None, None]
            terms = directions(face, sum_groups(slope, owner, len(counts)), done, True)
            move = move + descent.shared * shared(sum_terms(terms, descent.scale))[owner]
        x = (x - descent.rate(done) * move).clamp(-1, 1)
        average = x + min(descent.ema, step / (step + 10)) * (average - x)  # a young mean forgets faster
        progress(step + 1)
    return average, victims.match(average, descent.distance)[0]


def sum_terms(terms: Sequence[tuple[float | Tensor, Tensor]], scale: Callable[[Tensor], Tensor]) -> Tensor:
    """The weighted sum of scaled gradients (n, 3, H, W); a weight is one number, or (n, 1, 1, 1)."""
    return torch.stack([weight * scale(term) for weight, term in terms]).sum(0)


def sum_groups(images: Tensor, owner: Tensor, count: int) -> Tensor:
    """The sum (victims, 3, H, W) of each victim's images; `owner` (n,) says whose each is."""
    return torch.zeros(count, *images.shape[1:], device=images.device).index_add_(0, owner, images)


def cosine_decay(peak: float, last: float = 0.1) -> Callable[[float], float]:
    """A rate that falls from `peak` to the fraction `last` of it along half a cosine."""
    return lambda done: peak * (last + (1 - last) * 0.5 * (1 + math.cos(math.pi * done)))


def step_decay(peak: float, steps: int) -> Callable[[float], float]:
    """A rate divided by 10 after 3/8, 5/8 and 7/8 of `steps`, rounded down (Geiping et al. 2020)."""
    marks = [steps * eighths // 8 for eighths in (3, 5, 7)]
    return lambda done: float(peak * 0.1 ** sum(round(done * (steps - 1)) >= mark for mark in marks))


def means(images: Tensor, groups: Sequence[Group], count: int) -> tuple[Tensor, list[Group]]:
    """The mean (n / count, 3, H, W) of every `count` representatives of one label, and the groups of these means."""
    merged = [Group(group.labels[::count], group.weights.view(-1, count).sum(1), group.local) for group in groups]
    return images.view(-1, count, *images.shape[1:]).mean(1), merged


def reconstructions(images: Tensor, losses: Tensor, groups: Sequence[Group], seconds: float) -> list[Reconstruction]:
    """One Reconstruction a victim from images (n, 3, H, W) in [-1, 1]; the job's `seconds` are shared equally."""
    return [
        Reconstruction(part, group.weights.cpu(), float(loss), seconds / len(groups))
        for part, group, loss in zip(split(photos(images), groups), groups, losses, strict=True)
    ]


def photos(images: Tensor) -> Tensor:
    """Images (..., 3, H, W) in [-1, 1] as pictures in [0, 1], on the CPU."""
    return ((images + 1) / 2).clamp(0, 1).cpu()
