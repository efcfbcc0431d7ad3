"""Trains the face recogniser for synthetic faces, and classifiers of their attributes.

    fl-sim train-identity --out identity64.safetensors --steps 600

Supervised contrastive learning (Khosla et al. 2020) over a pool of people that is renewed all the time:
some thousand identities, none of which is a user, a public person or seen by the prior (their random
stream is `identity`). Two aids: a discarded head predicts the renderer's identity codes, which teaches in
minutes which details tell people apart; and the augmentation shows what reconstructions look like (blur,
noise, colour shift, the mean of several photos), so that those are judged by the person they show.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clients.datasets import renderer
from experiments.evaluate.identity_net import EMBEDDING, IMAGE_SIZE, SHIPPED, IdentityNet, infer, save_net
from fl_sim.seeds import generator


@dataclass(frozen=True)
class People:
    """Some people, with the same number of photos of each."""

    photos: Tensor  # (people, k, 3, 64, 64) in [0, 1]
    codes: Tensor  # (people, c) in [0, 1], what the renderer was told of each person
    attributes: dict[str, Tensor]  # name -> (people,) int64


Source = Callable[[torch.Generator, int, int], People]  # (generator, people, photos of each)
Progress = Callable[[int, int, dict[str, float]], None]  # (step, steps, figures)


@dataclass(frozen=True)
class Settings:
    steps: int = 600
    people: int = 64  # in a batch
    photos: int = 3  # of each person in a batch
    pool: int = 1000  # people rendered at a time
    pool_photos: int = 6  # of each
    renewed: int = 8  # people of the pool replaced before every step
    learning_rate: float = 2e-3  # peak; one warm-up of 5 %, then a cosine to zero
    weight_decay: float = 0.05
    scale: float = 12.0  # of the cosine in the contrastive softmax (1 / temperature)
    code_weight: float = 1.0  # of the auxiliary regression of identity codes
    attribute_weight: float = 2.0  # of the mean cross-entropy of the attributes
    unseen: int = 300  # people on whom the result is judged, at least 100 for the rank
    seed: int = 0


def synthetic_people(generator: torch.Generator, people: int, photos: int) -> People:
    """`people` fresh identities with `photos` pictures of each."""
    identity = renderer.sample_identity(generator, people)
    nuisance = renderer.sample_nuisance(generator, people * photos)
    noise = torch.randn(people * photos, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
    pictures = renderer.render(identity.repeat_interleave(photos, 0), nuisance, IMAGE_SIZE, noise)
    return People(pictures.view(people, photos, *pictures.shape[1:]), identity, renderer.attributes(identity))


def train_identity(
    out: Path = SHIPPED,
    settings: Settings = Settings(),
    source: Source = synthetic_people,
    progress: Progress | None = None,
    command: str = "",
) -> dict[str, float]:
    """Train, write the network to `out` (also every 100 steps), return its figures on unseen people."""
    draw = generator(settings.seed, "identity", "train")
    pool = source(draw, settings.pool, settings.pool_photos)
    photos = (pool.photos * 255).round().byte()  # (pool, k, 3, 64, 64); bytes, to keep thousands of people in memory
    codes, labels = pool.codes.clone(), {name: value.clone() for name, value in pool.attributes.items()}
    heads = {name: int(value.max()) + 1 for name, value in labels.items()}
    net, regression = fresh_nets(heads, codes.shape[1], settings.seed)
    parameters = [*net.parameters(), *regression.parameters()]
    optimiser = torch.optim.AdamW(parameters, settings.learning_rate, weight_decay=settings.weight_decay)
    net.train()
    started = time.perf_counter()
    for step in range(settings.steps):
        where = torch.arange(step * settings.renewed, (step + 1) * settings.renewed) % settings.pool
        fresh = source(draw, settings.renewed, settings.pool_photos)
        photos[where], codes[where] = (fresh.photos * 255).round().byte(), fresh.codes
        for name, value in fresh.attributes.items():
            labels[name][where] = value

        people = torch.randperm(settings.pool, generator=draw)[: settings.people]
        which = torch.rand(settings.people, settings.pool_photos, generator=draw).argsort(1)[:, : settings.photos]
        batch = augment(photos[people[:, None], which].float() / 255, draw)
        person = torch.arange(settings.people).repeat_interleave(settings.photos)
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * schedule(step / settings.steps)
        with torch.autocast("cpu", torch.bfloat16):
            embedding, logits = net(batch.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        same = contrastive(F.normalize(embedding.float(), dim=1), person, settings.scale)
        target = (codes[people] - 0.5) * math.sqrt(12)  # uniform codes to unit variance
        told = F.mse_loss(regression(embedding.float()), target[person])
        named = sum(
            (F.cross_entropy(logits[name].float(), labels[name][people][person]) for name in labels), torch.zeros(())
        )
        optimiser.zero_grad()
        torch.autograd.backward(same + settings.code_weight * told + settings.attribute_weight * named / len(labels))
        optimiser.step()
        if progress is not None:
            figures = {"contrastive": same.item(), "codes": told.item(), "attributes": named.item() / len(labels)}
            progress(step + 1, settings.steps, figures)
        if (step + 1) % 100 == 0 and step + 1 < settings.steps:
            save_net(net, out, {"steps": step + 1, "command": command, "seed": settings.seed})
    net.eval()
    seconds = time.perf_counter() - started
    save_net(net, out, {"steps": settings.steps, "command": command, "seed": settings.seed})
    unseen = source(generator(settings.seed, "identity", "held-out"), settings.unseen, settings.pool_photos)
    figures = evaluate(net, unseen)
    facts = {
        "steps": settings.steps,
        "command": command,
        "seed": settings.seed,
        "seconds": round(seconds),
        "metrics": figures,
    }
    save_net(net, out, facts)
    return figures


def fresh_nets(heads: dict[str, int], codes: int, seed: int) -> tuple[IdentityNet, nn.Linear]:
    """The net and the auxiliary head, whose initialisation follows from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator(seed, "identity", "weights"))))
        return IdentityNet(heads), nn.Linear(EMBEDDING, codes)


def schedule(done: float) -> float:
    """Learning-rate factor at the share `done` of the training."""
    return done / 0.05 if done < 0.05 else 0.5 + 0.5 * math.cos(math.pi * (done - 0.05) / 0.95)


def contrastive(embeddings: Tensor, person: Tensor, scale: float) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020, equation 2) of normalised embeddings (n, d), persons (n,)."""
    alone = torch.eye(len(person), dtype=torch.bool)
    logits = (scale * embeddings @ embeddings.T).masked_fill(alone, -math.inf)
    positive = (person[:, None] == person[None, :]) & ~alone
    log_share = (logits - logits.logsumexp(1, keepdim=True)).masked_fill(~positive, 0.0)
    return -(log_share.sum(1) / positive.sum(1)).mean()


def augment(photos: Tensor, draw: torch.Generator) -> Tensor:
    """Photos (people, k, 3, s, s) in [0, 1] as seen through a poor reconstruction: same shape and range."""
    people, k = photos.shape[:2]
    averaged = torch.rand(people, k, 1, 1, 1, generator=draw) < 0.15
    photos = torch.where(averaged, photos.mean(1, keepdim=True), photos).flatten(0, 1)
    n = len(photos)

    def uniform(low: float, high: float, channels: int = 1) -> Tensor:
        return low + (high - low) * torch.rand(n, channels, 1, 1, generator=draw)

    angle, size = uniform(-0.08, 0.08).flatten(), uniform(0.93, 1.07).flatten()  # radians, factor
    shift = uniform(-0.07, 0.07, 2).flatten(1)  # half frames
    rows = torch.stack(
        [size * angle.cos(), -size * angle.sin(), shift[:, 0], size * angle.sin(), size * angle.cos(), shift[:, 1]], 1
    )
    grid = F.affine_grid(rows.view(n, 2, 3), list(photos.shape), align_corners=False)
    photos = F.grid_sample(photos, grid, padding_mode="reflection", align_corners=False)
    blurred = torch.cat([blur(part, 2.0 * float(torch.rand((), generator=draw))) for part in photos.chunk(8)])
    photos = torch.where(uniform(0, 1) < 0.4, blurred, photos)
    photos = (
        (photos - 0.5) * uniform(0.7, 1.2) * uniform(0.92, 1.08, 3) + 0.5 + uniform(-0.1, 0.1) + uniform(-0.04, 0.04, 3)
    )
    noise = torch.randn(photos.shape, generator=draw) * (uniform(-0.06, 0.08)).clamp(min=0)
    return torch.clamp(photos + noise, 0, 1).view(people, k, *photos.shape[1:])


def blur(photos: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of standard deviation `sigma` pixels, photos (n, 3, s, s)."""
    offsets = torch.arange(-6, 7, dtype=photos.dtype)
    kernel = torch.exp(-offsets.square() / (2 * max(sigma, 0.1) ** 2))
    kernel = (kernel / kernel.sum()).repeat(3, 1, 1, 1)  # (3, 1, 1, 13)
    padded = F.pad(photos, (6, 6, 6, 6), mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.transpose(2, 3), groups=3)


def evaluate(net: IdentityNet, people: People) -> dict[str, float]:
    """Figures on unseen people, all in [0, 1], 1 the best: `auc`, `rank1_of_100`, `attr_NAME` accuracies.

    Also the mean cosines `same` and `different` of two photos.
    """
    n, k = people.photos.shape[:2]
    embeddings, logits = infer(net, people.photos.flatten(0, 1))
    cosine, person = embeddings @ embeddings.T, torch.arange(n).repeat_interleave(k)
    upper = torch.triu(torch.ones_like(cosine, dtype=torch.bool), 1)
    equal = person[:, None] == person[None, :]
    same, different = cosine[equal & upper], cosine[~equal & upper]
    below = torch.searchsorted(different.sort().values, same)  # AUC: how often a pair of one person is the closer one
    shaped = embeddings.view(n, k, -1)
    found = []
    for start in range(0, n - 99, 100):
        probes, templates = shaped[start : start + 100, 0], shaped[start : start + 100, 1:].mean(1)
        found.append((probes @ F.normalize(templates, dim=1).T).argmax(1) == torch.arange(100))
    figures = {
        "auc": float(below.double().mean() / len(different)),
        "rank1_of_100": float(torch.cat(found).double().mean()) if found else math.nan,
        "same": float(same.mean()),
        "different": float(different.mean()),
    }
    for name, value in people.attributes.items():
        figures[f"attr_{name}"] = float((logits[name].argmax(1) == value[person]).double().mean())
    return {name: round(value, 4) for name, value in figures.items()}
