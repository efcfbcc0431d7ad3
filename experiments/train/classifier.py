"""Train a victim model centrally, as if a federation had converged: supervised learning on people who are no users.

    fl-sim train-model --out model.safetensors -o dataset.name=folder -o dataset.root=FACES

A trained model leaks far less than a fresh one, so attacks are judged on both. There are few public photos;
hence every photo is mirrored, moved, turned, scaled and lit anew each time it is seen.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fl_sim.models import normalise


@dataclass(frozen=True)
class Settings:
    """How a victim model is trained. The defaults suit 3,000 photos of 64 px and three minutes of one core."""

    steps: int = 2000  # optimiser steps
    batch_size: int = 32
    learning_rate: float = 1e-3  # AdamW, the highest; one cycle (Smith 2018)
    weight_decay: float = 0.05  # no more: 0.3 with dropout before the last layer was no better on real faces


def train(
    model: nn.Module,
    photos: Tensor,
    labels: Tensor,
    settings: Settings,
    generator: torch.Generator,
    progress: Callable[[int, int], None],
) -> None:
    """Fit `model` to photos (n, 3, H, W) uint8 and labels (n,) int64, in place; it ends in the mode it came in.

    Batch norm learns its running statistics on the way, where the model keeps any. `progress(step, steps)`
    follows every step.
    """
    device = next(model.parameters()).device
    optimiser = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=settings.steps, pct_start=0.1
    )
    modes = {layer: layer.training for layer in model.modules()}
    model.train()
    for step in range(settings.steps):
        chosen = torch.randint(len(photos), (settings.batch_size,), generator=generator)
        images = vary(photos[chosen].float() / 255, generator).to(device)
        loss = F.cross_entropy(model(normalise(images)), labels[chosen].to(device))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        rate.step()
        progress(step + 1, settings.steps)
    for layer, training in modes.items():
        layer.training = training


def vary(photos: Tensor, generator: torch.Generator) -> Tensor:
    """Photos (n, 3, H, W) in [0, 1], each as another camera might have taken it.

    Mirrored or not, turned by up to 10 degrees, scaled by up to 12 %, shifted by up to 4 % of the side, with
    other contrast, tint and light.
    """
    count = len(photos)

    def draw(*shape: int) -> Tensor:  # uniform in [-1, 1]
        return torch.rand(count, *shape, generator=generator) * 2 - 1

    angle, scale, mirror = 0.17 * draw(), 1 + 0.12 * draw(), torch.where(draw() < 0, -1.0, 1.0)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = [torch.stack([cos * mirror, -sin, 0.08 * draw()], 1), torch.stack([sin * mirror, cos, 0.08 * draw()], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(photos.shape), align_corners=False)  # [-1, 1] across the photo
    moved = F.grid_sample(photos, grid, padding_mode="border", align_corners=False)
    mean = moved.mean((1, 2, 3), keepdim=True)
    contrast = 1 + 0.25 * draw(1, 1, 1) + 0.1 * draw(3, 1, 1)
    return ((moved - mean) * contrast + mean + 0.15 * draw(1, 1, 1)).clamp(0, 1)


@torch.no_grad()
def accuracy(model: nn.Module, photos: Tensor, labels: Tensor) -> float:
    """Share of photos (n, 3, H, W) uint8 whose most likely label is theirs, in [0, 1]."""
    device = next(model.parameters()).device
    hits = [
        int((model(normalise(part.to(device).float() / 255)).argmax(1).cpu() == truth).sum())
        for part, truth in zip(torch.split(photos, 64), torch.split(labels, 64), strict=True)
    ]
    return sum(hits) / len(photos)
