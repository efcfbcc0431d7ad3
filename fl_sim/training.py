"""What the two training commands do: find the right people to learn from, train, and say how well."""

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attacker import train_prior
from clients.datasets import open_dataset
from clients.datasets.synthetic import training_photos
from fl_sim.config import ConfigError, Dataset

HELD_OUT = 512  # photos on which the denoising loss is measured, of people of their own
PHOTOS_PER_PERSON = 4  # of synthetic people: many people matter more than many photos of each

Progress = Callable[[str, int, int], None]  # (stage, done, total)


def prior(
    dataset: Dataset, out: Path, photos: int, options: dict[str, Any], seed: int, threads: int, progress: Progress
) -> dict[str, Any]:
    """Train a diffusion prior into `out`; the figures it ended with. ConfigError if there is nobody to learn from."""
    torch.set_num_threads(threads or os.cpu_count() or 1)
    settings = train_prior.Settings(**options)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if dataset.name == "synthetic":
        train = training_photos("prior", photos, dataset.image_size, PHOTOS_PER_PERSON, seed, device).photos
        held_out = training_photos("prior-held-out", HELD_OUT, dataset.image_size, 1, seed, device).photos
        source = f"synthetic people of the stream training/prior, seed {seed}"
    else:
        train, held_out = _public_photos(dataset, photos, seed)
        source = f"public people of {dataset.name} (split {dataset.public_split!r})"
    outcome = train_prior.train(
        train, held_out, out, settings, seed, device, {"source": source}, lambda k, n, loss: progress("steps", k, n)
    )
    return {**asdict(outcome), "train_photos": len(train), "samples": str(out / "samples.png")}


def identity(out: Path, steps: int, seed: int, threads: int, progress: Progress) -> dict[str, Any]:
    """Train the identity encoder for synthetic faces into the file `out`; its figures on people it never saw."""
    from experiments.train_identity import Settings, train_identity

    torch.set_num_threads(threads or os.cpu_count() or 1)
    command = f"fl-sim train-identity --out {out.name} --steps {steps} --seed {seed}"
    settings = Settings(steps=steps, seed=seed)
    return dict(
        train_identity(out, settings, progress=lambda step, n, figures: progress("steps", step, n), command=command)
    )


def _public_photos(dataset: Dataset, limit: int, seed: int) -> tuple[Tensor, Tensor]:
    """Photos of the dataset's public people, uint8; every tenth person is held out."""
    faces = open_dataset(dataset, seed)
    if faces.num_public < 10:
        raise ConfigError(
            f"dataset {dataset.name} has {faces.num_public} public people; a prior needs at least 10 who are no users"
        )
    train: list[Tensor] = []
    held_out: list[Tensor] = []
    for person in range(faces.num_public):
        photos = (faces.public(person).photos * 255).round().to(torch.uint8)
        (held_out if person % 10 == 9 else train).append(photos)
    return torch.cat(train)[:limit], torch.cat(held_out)[:HELD_OUT]
