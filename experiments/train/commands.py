"""What the training commands do: find the right people to learn from, train, and say how well."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from attacker.priors import start as prior_start
from attacker.priors import train as train_prior
from attacker.priors.pairs import Album
from attacker.priors.training_state import State
from clients.datasets import open_dataset, task_of
from clients.datasets.examine import examine
from clients.datasets.synthetic import TrainingPhotos, training_photos
from experiments.train import classifier
from fl_sim import seeds
from fl_sim.config import Config, ConfigError, Dataset
from fl_sim.initial_model import fresh_model
from fl_sim.modules import state
from fl_sim.runs import write_atomically

HELD_OUT = 1536  # photos of synthetic people of their own, on whom the denoising loss is measured
ALBUM = 24  # photos of each synthetic person that a prior is trained on, of which it sees means
PHOTOS_PER_PERSON = 4  # that a model is: many people matter more than many photos of each
MODEL_PHOTOS = 6000  # of synthetic people, that a victim model is trained and tested on

Progress = Callable[[str, int, int], None]  # (stage, done, total)


def prior(
    dataset: Dataset,
    out: Path,
    photos: int,
    network: str | tuple[int, ...],
    options: dict[str, Any],
    seed: int,
    threads: int,
    progress: Progress,
) -> dict[str, Any]:
    """Train a conditional diffusion prior into `out`; the figures it ended with.

    `network` is the prior to start from, or the channels of a new one. ConfigError if there is nobody to learn from.
    """
    torch.set_num_threads(threads or os.cpu_count() or 1)
    size = dataset.image_size
    start = (
        prior_start.fresh(size, network, seed) if isinstance(network, tuple) else prior_start.of_prior(network, size)
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    state = State(start, out, device)
    if dataset.name == "synthetic":
        task = task_of(dataset, seed)
        train, held_out = (
            _album(training_photos(stream, count, size, ALBUM, seed, device), task)
            for stream, count in (("prior", photos), ("prior-held-out", HELD_OUT))
        )
        source = f"synthetic people of the stream training/prior, seed {seed}"
    else:
        public, labels, people = _public_photos(dataset, seed, "a prior")
        held = _held_out(people)
        train = Album(public[~held][:photos], people[~held][:photos], labels[~held][:photos])
        held_out = Album(public[held], people[held], labels[held])
        source = _source(dataset)
    settings = train_prior.Settings(**options)
    outcome = train_prior.train(
        train, held_out, state, settings, seed, {"source": source}, lambda k, n, loss: progress("steps", k, n)
    )
    return {**asdict(outcome), "train_photos": len(train.photos), "samples": str(out / "samples.png")}


def _album(made: TrainingPhotos, task: str) -> Album:
    return Album(made.photos, made.identity, _labels(made, task))


def _labels(made: TrainingPhotos, task: str) -> Tensor:
    """The task's labels (n,) of synthetic photos; of `identity` -1, since these people are no classes of any model."""
    if task == "identity":
        return torch.full_like(made.identity, -1)
    return made.smiles if task == "smile" else made.attributes[task]


def identity(out: Path, steps: int, seed: int, threads: int, progress: Progress) -> dict[str, Any]:
    """Train the identity encoder for synthetic faces into the file `out`; its figures on people it never saw."""
    from experiments.train.identity import Settings, train_identity

    torch.set_num_threads(threads or os.cpu_count() or 1)
    command = f"fl-sim train-identity --out {out.name} --steps {steps} --seed {seed}"
    settings = Settings(steps=steps, seed=seed)
    return dict(
        train_identity(out, settings, progress=lambda step, n, figures: progress("steps", step, n), command=command)
    )


def model(config: Config, out: Path, steps: int, threads: int, progress: Progress) -> dict[str, Any]:
    """Train the config's model for its task into the file `out`, which `model.weights` takes; how well it does.

    On people who are never users, every tenth of them held out. ConfigError for the task `identity`.
    """
    torch.set_num_threads(threads or os.cpu_count() or 1)
    dataset, settings = config.dataset, classifier.Settings(steps=steps)
    task = task_of(dataset, config.seed)
    if task == "identity":
        raise ConfigError(
            "dataset.task is 'identity', which is about the users, of whom nobody else has photos; train for a binary "
            "task such as smile: model.weights gives that backbone a fresh head for identity"
        )
    if dataset.name == "synthetic":
        made = training_photos("model", MODEL_PHOTOS, dataset.image_size, PHOTOS_PER_PERSON, config.seed)
        photos, labels, held = made.photos, _labels(made, task), _held_out(made.identity)
        source = f"synthetic people of the stream training/model, seed {config.seed}"
    else:
        photos, labels, people = _public_photos(dataset, config.seed, "a model")
        held = _held_out(people)
        known = _known([labels], held)
        photos, labels, held = photos[known], labels[known], held[known]
        source = _source(dataset)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network, began = fresh_model(config.model, 2, dataset.image_size, config.seed).to(device), time.monotonic()
    draws = seeds.generator(config.seed, "train-model")
    classifier.train(
        network, photos[~held], labels[~held], settings, draws, lambda done, total: progress("steps", done, total)
    )
    facts = {
        "task": task,
        "source": source,
        "train_photos": int((~held).sum()),
        "held_out_photos": int(held.sum()),
        "held_out_accuracy": classifier.accuracy(network, photos[held], labels[held]),
        "held_out_commoner_label": float(labels[held].bincount().max() / held.sum()),  # what guessing gets
        "seconds": time.monotonic() - began,
        **asdict(settings),
    }
    weights = {name: value.cpu().contiguous() for name, value in state(network).items()}
    write_atomically(out, save(weights, {"facts": json.dumps(facts)}))
    return facts


def attributes(
    config: Config, out: Path, names: list[str], steps: int, threads: int, progress: Progress
) -> dict[str, Any]:
    """Train classifiers of the attributes `names` into the file `out`; their balanced accuracy on people held out.

    On photographs of a dataset's public people. ConfigError for synthetic ones, and for what is no binary attribute.
    """
    from experiments.evaluate import identity_net
    from experiments.train import attributes

    torch.set_num_threads(threads or os.cpu_count() or 1)
    if config.dataset.name == "synthetic":
        raise ConfigError(
            "dataset.name is 'synthetic', for which classifiers are shipped (leakage.attributes = 'synthetic'); "
            "give a dataset of photographs, such as -o dataset.name=folder -o dataset.root=FACES"
        )
    if not names or "identity" in names:
        raise ConfigError(f"attributes are {', '.join(names) or 'none'}; name binary ones, such as eyeglasses,smiling")
    labels: dict[str, Tensor] = {}
    for name in names:  # as if it were the task: so the labels are those of the photos, not of the people
        one = config.dataset.model_copy(update={"task": name})
        photos, labels[name.lower()], people = _public_photos(one, config.seed, "a classifier")
    held = _held_out(people)
    known = _known(list(labels.values()), held)
    photos, held, labels = photos[known], held[known], {name: values[known] for name, values in labels.items()}
    settings, began = attributes.Settings(steps=steps, seed=config.seed), time.monotonic()
    network = attributes.train(
        photos[~held],
        {name: known[~held] for name, known in labels.items()},
        settings,
        lambda done, total: progress("steps", done, total),
    )
    facts = {
        "source": _source(config.dataset),
        "train_photos": int((~held).sum()),
        "held_out_photos": int(held.sum()),
        "held_out_balanced_accuracy": attributes.balanced_accuracies(
            network, photos[held], {name: known[held] for name, known in labels.items()}
        ),
        "held_out_share": {name: float(known[held].float().mean()) for name, known in labels.items()},
        "seconds": time.monotonic() - began,
        **asdict(settings),
    }
    identity_net.save_net(network, out, facts)
    return facts


def _known(labels: list[Tensor], held: Tensor) -> Tensor:
    """Which photos have a label, (n,), in all of `labels`. ConfigError if there is none to train or to test on."""
    known = torch.stack(labels).amin(0) >= 0
    if not (bool(known[held].any()) and bool(known[~held].any())):
        raise ConfigError("too few public people have labels; give labels to people, every tenth of whom is held out")
    return known


def _source(dataset: Dataset) -> str:
    return f"public people of {dataset.name} (split {dataset.public_split!r})"


def _public_photos(dataset: Dataset, seed: int, purpose: str) -> tuple[Tensor, Tensor, Tensor]:
    """All photos (n, 3, H, W) uint8 of the dataset's public people, their labels (n,), and whom each shows (n,).

    A label that is unknown is -1.
    """
    faces = open_dataset(dataset, seed)
    examine(dataset, seed)  # refuses a photo that a user has too
    if faces.num_public < 10:
        raise ConfigError(
            f"dataset {dataset.name} has {faces.num_public} public people; {purpose} needs at least 10 who are no users"
        )
    photos, labels, people = [], [], []
    for index in range(faces.num_public):
        person = faces.public(index)
        photos.append((person.photos * 255).round().to(torch.uint8))
        labels.append(person.labels)
        people.append(torch.full_like(person.labels, index))
    return torch.cat(photos), torch.cat(labels), torch.cat(people)


def _held_out(people: Tensor) -> Tensor:
    """Which photos are of people (n,) held out: every tenth."""
    return people % 10 == 9
