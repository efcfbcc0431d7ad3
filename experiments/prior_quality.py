"""How close the samples of a prior for synthetic faces come to the renderer's own pictures.

    python -m experiments.prior_quality --prior synthetic64 --samples 256

Both are embedded by the shipped identity encoder. Precision and recall as in Kynkäänniemi et al. 2019 with
k = 3: the share of samples that lie as close to a rendered face as rendered faces lie to their third neighbour,
and the same with the roles exchanged. The Fréchet distance of the two clouds is printed too. Each figure stands
beside its best possible value (other rendered faces in the place of samples) and beside a null (the same
faces blurred until features are gone).
"""

import argparse
import json

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from attacker.prior import Prior, load_prior
from clients.datasets.synthetic import training_photos
from experiments.embedders import Embedder, synthetic
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


def compare(samples: Tensor, embed: Embedder, seed: int) -> dict[str, dict[str, float]]:
    """Precision, recall and Fréchet distance to rendered faces: of `samples`, of other renders, of blurred ones."""
    count, size = len(samples), samples.shape[-1]
    rendered, others = (
        training_photos(stream, count, size, 1, seed).photos.float() / 255 for stream in ("quality", "quality-others")
    )
    reference = embed(rendered)
    arms = {"samples": samples, "renderer": others, "blurred": gaussian_blur(others, [23, 23], [size / 10] * 2)}
    found = {}
    for arm, pictures in arms.items():
        points = embed(pictures)
        found[arm] = {
            "precision": precision(points, reference),
            "recall": precision(reference, points),
            "frechet": frechet(points, reference),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare a prior's samples with rendered faces.")
    parser.add_argument("--prior", default="synthetic64")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--steps", type=int, default=50, help="DDIM steps a sample")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    try:
        prior = load_prior(given.prior, 64)
    except ValueError as error:
        parser.error(str(error))
    samples = draw(prior, given.samples, given.steps, given.seed)
    print(json.dumps(compare(samples, synthetic(), given.seed), indent=2))


if __name__ == "__main__":
    main()
