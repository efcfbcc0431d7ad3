"""How close the samples of a prior come to photos of people who are no users, rendered or real.

    python -m experiments.train.prior_quality --prior synthetic64 --samples 256
    python -m experiments.train.prior_quality --prior priors/mine -o dataset.name=folder -o dataset.root=FACES \\
        -o leakage.embedder=onnx -o leakage.embedder_path=FACE_RECOGNITION.onnx --out quality.json

Whom they show: both are embedded by the face recogniser of the config. Precision and recall as in Kynkäänniemi et al.
2019 with k = 3: the share of samples that lie as close to a photo as photos lie to their third neighbour, and the same
with the roles exchanged. The Fréchet distance of the two clouds is given, too. How real they look: the columns of
`experiments.evaluate.realism`. Each figure stands beside its best possible value (photos of other people in the place
of samples) and beside a null (these photos blurred until features are gone).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from attacker.priors.prior import Prior, load_prior
from clients.datasets import open_dataset
from clients.user import FaceDataset
from experiments.evaluate.embedders import Embedder, open_embedder
from experiments.evaluate.realism import (
    FACES,
    SHARPNESS,
    SWD,
    Reference,
    face_probability,
    projected_patches,
    reference,
)
from fl_sim.config import Config, ConfigError, load
from fl_sim.runs import write_atomically
from fl_sim.seeds import generator

NEIGHBOURS = 3


def precision(candidates: Tensor, reference: Tensor) -> float:
    """Share of `candidates` (m, d) inside the k-nearest-neighbour balls of `reference` (n, d); in [0, 1]."""
    among = torch.cdist(reference, reference)  # (n, n)
    radius = among.kthvalue(NEIGHBOURS + 1, dim=1).values  # (n,); the first neighbour is the point itself
    return float((torch.cdist(candidates, reference) <= radius).any(1).double().mean())


def frechet(a: Tensor, b: Tensor) -> float:
    """Fréchet distance of Gaussians fitted to (n, d) and (m, d): 0 for equal clouds (Heusel et al. 2017)."""
    x, y = a.double().numpy(), b.double().numpy()
    covariance_x, covariance_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = _root(covariance_x)
    cross = np.linalg.eigvalsh(root @ covariance_y @ root).clip(min=0)
    shift = np.square(x.mean(0) - y.mean(0)).sum()
    return float(shift + np.trace(covariance_x) + np.trace(covariance_y) - 2 * np.sqrt(cross).sum())


def _root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    root: NDArray[np.float64] = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return root


def draw(prior: Prior, count: int, steps: int, seed: int) -> Tensor:
    """`count` samples of `prior`, (count, 3, H, W) in [0, 1]."""
    random = generator(seed, "prior-quality")
    noise = torch.randn(count, prior.channels, prior.size, prior.size, generator=random)
    return torch.cat([(prior.sample(part, steps) + 1) / 2 for part in torch.split(noise, 32)])


def people(dataset: FaceDataset, count: int) -> tuple[Tensor, Tensor]:
    """A photo of each of `count` public people, and one of each of as many others: (count, 3, H, W) in [0, 1] both."""
    photos = torch.cat([dataset.public(index).photos[:1] for index in range(2 * count)])
    return photos[::2], photos[1::2]


def compare(samples: Tensor, photos: Tensor, others: Tensor, embed: Embedder) -> dict[str, dict[str, float]]:
    """Figures of `samples`, of photos of `others`, and of these blurred, against `photos`; (n, 3, H, W) in [0, 1] each.

    A face probability is given only where the detector sees the faces in `photos`.
    """
    arms = {"samples": samples, "photos": others, "blurred": gaussian_blur(others, [23, 23], [samples.shape[-1] / 10])}
    embedded, real = embed(photos), reference(photos)
    found = {}
    for arm, pictures in arms.items():
        points = embed(pictures)
        found[arm] = {
            "precision": precision(points, embedded),
            "recall": precision(embedded, points),
            "frechet": frechet(points, embedded),
            **realism(pictures, real),
        }
    return found


def realism(pictures: Tensor, real: Reference) -> dict[str, float]:
    """How real `pictures` (n, 3, H, W) in [0, 1] look beside those of `real`, by the leakage table's columns."""
    sharp = real.sharpness(pictures).mean(0).tolist()
    distances = real.patch_swd(projected_patches(pictures, len(pictures)))
    seen = {"face_probability": float(face_probability(pictures).mean())} if real.detected >= FACES else {}
    return {**seen, **dict(zip(SHARPNESS, sharp, strict=True)), **dict(zip(SWD, distances, strict=True))}


def measure(name: str, config: Config, count: int, steps: int) -> dict[str, Any]:
    """The figures of the prior `name` by `count` samples of `steps` steps, or as many as the dataset has people for.

    Raises ConfigError for a prior or an embedder that cannot be read, and for too few people.
    """
    dataset = open_dataset(config.dataset, config.seed)
    if config.leakage.embedder == "auto" and not getattr(dataset, "synthetic", False):
        raise ConfigError(
            f"dataset {config.dataset.name!r} shows photographs, but the shipped face recogniser knows synthetic faces "
            "alone; set leakage.embedder to 'dlib', 'onnx' or 'facenet'"
        )
    count = min(count, dataset.num_public // 2)
    if count <= NEIGHBOURS:
        raise ConfigError(
            f"{count} samples would be compared; give more with --samples, and a dataset of at least "
            f"{2 * NEIGHBOURS + 2} public people"
        )
    prior, embed = load_prior(name, config.dataset.image_size), open_embedder(config.leakage)
    samples = draw(prior, count, steps, config.seed)
    facts = {"prior": Path(name).name, "dataset": config.dataset.name, "samples": count, "steps": steps}
    return {**facts, "seed": config.seed, "figures": compare(samples, *people(dataset, count), embed)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare a prior's samples with photos.")
    parser.add_argument("--prior", default="synthetic64")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--steps", type=int, default=50, help="DDIM steps a sample")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    parser.add_argument("-o", "--override", action="append", default=[], metavar="KEY=VALUE", help="of the config")
    given = parser.parse_args()
    torch.set_num_threads(1)
    try:
        found = json.dumps(measure(given.prior, load(overrides=given.override), given.samples, given.steps), indent=2)
    except ConfigError as error:
        parser.error(str(error))
    print(found)
    if given.out is not None:
        write_atomically(given.out, found.encode())


if __name__ == "__main__":
    main()
