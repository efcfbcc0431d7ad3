"""The judges of the leakage table: face recogniser, attribute classifier, gallery, and what they say of a picture."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clients.datasets import open_dataset
from clients.user import User
from experiments.evaluate import attributes, embedders, image_metrics
from experiments.evaluate.controls import Exhibit, Guess
from experiments.evaluate.draws import spread
from experiments.evaluate.embedders import Embedder
from experiments.evaluate.gallery import Gallery, build_gallery
from experiments.evaluate.realism import FACES, SHARPNESS, Reference, face_probability, reference
from fl_sim.config import Config, Dataset, Leakage

PUBLIC = 100  # people whose photos pictures are compared with


@dataclass(frozen=True)
class Judges:
    """All that looks at pictures."""

    embed: Embedder
    classify: attributes.Classifier
    names: list[str]  # of attributes
    gallery: Gallery
    real: Reference  # what photos of public people are like
    config: Config


def open_judges(config: Config) -> Judges:
    """The judges of `config.leakage`. Raises ConfigError where one of them cannot be had."""
    looks = _looks(config.dataset.model_dump_json(), config.leakage.model_dump_json(), config.seed)
    embed, classify, gallery, real = looks
    return Judges(embed, classify, attributes.names(classify), gallery, real, config)


@lru_cache(maxsize=1)  # the cells of a sweep have them in common
def _looks(dataset: str, judging: str, seed: int) -> tuple[Embedder, attributes.Classifier, Gallery, Reference]:
    """Embedder, classifier, gallery and photos to compare with for these sections of the config, as JSON."""
    section = Leakage.model_validate_json(judging)
    embed, classify = embedders.open_embedder(section), attributes.open_classifier(section)
    people = open_dataset(Dataset.model_validate_json(dataset), seed)
    shown = min(people.num_public, PUBLIC)
    photos = torch.cat([people.public(index).photos[:2] for index in range(shown)])
    return embed, classify, build_gallery(people, embed, section.gallery_size), reference(photos)


class Judgement:
    """Scores what is exhibited against one user."""

    def __init__(self, judges: Judges, user: User) -> None:
        self.judges, self.user = judges, user
        self.photos = user.private.photos  # (n, 3, H, W)
        self.embeddings = judges.embed(self.photos)  # (n, d)
        self.lpips = image_metrics.lpips_weights(judges.config.leakage)
        above = torch.triu_indices(len(self.photos), len(self.photos), 1)
        pairs = (self.embeddings @ self.embeddings.T)[above[0], above[1]]  # (n (n - 1) / 2,) cosines
        self.truth: dict[str, Any] = {
            f"attr_{name}_true": attributes.true_value(user.private.attributes, name) for name in judges.names
        }
        if len(pairs):
            self.truth |= {"in_batch_min": float(pairs.min()), "in_batch_max": float(pairs.max())}

    def __call__(self, exhibit: Exhibit) -> dict[str, Any]:
        """The row of one exhibit, without its keys; null metrics for no image, or one that is not finite."""
        row = self._blank(exhibit.arm) | {"matching_loss": exhibit.matching_loss, "seconds": exhibit.seconds}
        images, weights = exhibit.images, exhibit.weights
        if images is None or not bool(torch.isfinite(images).all()):
            return row
        # One at a time: the batch would decide the last bits.
        embeddings = torch.cat([self.judges.embed(image[None]) for image in images])  # (k, d)
        if exhibit.arm == "best_image":
            best = (embeddings @ self.embeddings.mean(0)).argmax(0, keepdim=True)
            images, weights, embeddings = images[best], torch.ones(1), embeddings[best]
        embedding = embeddings[0] if len(images) == 1 else F.normalize(weights @ embeddings, dim=0)
        row |= self._recognised(embedding) | {
            "psnr": _mean([image_metrics.best_psnr(image, self.photos) for image in images], weights),
            "ssim": _mean([image_metrics.best_ssim(image, self.photos) for image in images], weights),
        }
        row |= self._real(images, weights)
        if self.lpips is not None:
            distances = [image_metrics.best_lpips(image, self.photos, self.lpips) for image in images]
            row["lpips"] = _mean(distances, weights)
        if exhibit.draws is not None and bool(torch.isfinite(exhibit.draws).all()):
            return row | self._drawn(exhibit.draws)
        return row | {f"attr_{name}_inferred": found for name, (found, _) in self._read(images, weights).items()}

    def guess(self, guess: Guess) -> dict[str, Any]:
        """The row of what was said without a picture; null are all metrics of pictures."""
        said = {f"attr_{name}_inferred": value for name, value in guess.attributes.items()}
        return self._blank(guess.arm) | self._recognised(guess.embedding) | said

    def _read(self, images: Tensor, weights: Tensor) -> dict[str, tuple[int, float]]:
        """Of each attribute the class that `images` (k, 3, H, W) show by weighted vote, and its share in (0, 1]."""
        read = [self.judges.classify(image[None]) for image in images]
        found = {}
        for name in self.judges.names:
            votes = torch.bincount(torch.cat([one[name] for one in read]), weights.double())  # (classes,)
            found[name] = int(votes.argmax()), float(votes.max() / votes.sum())
        return found

    def _drawn(self, draws: Tensor) -> dict[str, Any]:
        """What `draws` (n, 3, H, W) of one update say: the columns `draws...`, and attributes by their majority."""
        cosines = torch.cat([self.judges.embed(draw[None]) for draw in draws]).double() @ self.embeddings.double().T
        row: dict[str, Any] = {"draws": len(draws), "draws_spread": spread(draws)}
        row["draws_similarity"] = float(cosines.mean())
        for name, (found, share) in self._read(draws, torch.ones(len(draws))).items():
            row |= {f"attr_{name}_inferred": found, f"attr_{name}_share": share}
        return row

    def _real(self, images: Tensor, weights: Tensor) -> dict[str, Any]:
        """How real images (k, 3, H, W) look, whomever they show; no probability where the detector fails on photos."""
        real = self.judges.real
        found: dict[str, Any] = dict(zip(SHARPNESS, (weights @ real.sharpness(images)).tolist(), strict=True))
        if real.detected >= FACES:
            found["face_probability"] = float(weights @ face_probability(images))
        return found

    def _blank(self, arm: str) -> dict[str, Any]:
        return {"arm": arm, "gallery_size": self.judges.gallery.size, **self.truth}

    def _recognised(self, embedding: Tensor) -> dict[str, Any]:
        """What the face recogniser says of an embedding (d,) of norm 1."""
        cosines = self.embeddings @ embedding
        gallery = self.judges.gallery
        own = float(gallery.templates[self.user.partition] @ embedding)
        return {
            "facial_similarity": float(cosines.mean()),
            "similarity_min": float(cosines.min()),
            "similarity_max": float(cosines.max()),
            "rank": gallery.rank(embedding, self.user.partition),
            "verified_at_far_1e2": own > gallery.threshold(1e-2),
            "verified_at_far_1e3": own > gallery.threshold(1e-3),
        }


def _mean(values: list[float], weights: Tensor) -> float:
    return float(sum(weight * value for weight, value in zip(weights.tolist(), values, strict=True)))
