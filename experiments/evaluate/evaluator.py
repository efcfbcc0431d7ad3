"""What the face recogniser, the attribute classifier and the image metrics say of a candidate: a row of the table."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clients.datasets import open_dataset
from clients.user import User
from experiments.evaluate import attributes, embedders, image_metrics
from experiments.evaluate.candidates import Candidate, Prediction
from experiments.evaluate.draws import spread
from experiments.evaluate.embedders import Embedder
from experiments.evaluate.gallery import Gallery, build_gallery
from experiments.evaluate.looks import Looks
from experiments.evaluate.realism import FACES, SHARPNESS, Reference, reference
from fl_sim.config import Dataset, Leakage

PUBLIC = 100  # people whose photos pictures are compared with


@dataclass(frozen=True)
class Models:
    """All that looks at pictures, the same for every user."""

    embed: Embedder
    classify: attributes.Classifier
    looks: Looks  # of both and a face detector, at single pictures
    attributes: list[str]  # that `classify` infers
    gallery: Gallery
    real: Reference  # what photos of public people are like
    lpips: Path | None  # the weights of LPIPS; None: that column stays empty


@lru_cache(maxsize=1)  # the cells of a sweep have them in common
def open_models(dataset: Dataset, leakage: Leakage, seed: int) -> Models:
    """The models of `leakage`, and the gallery of `dataset`. Raises ConfigError where one of them cannot be had."""
    embed, classify = embedders.open_embedder(leakage), attributes.open_classifier(leakage)
    people = open_dataset(dataset, seed)
    shown = min(people.num_public, PUBLIC)
    photos = torch.cat([people.public(index).photos[:2] for index in range(shown)])
    gallery = build_gallery(people, embed, leakage.gallery_size)
    lpips = image_metrics.lpips_weights(leakage)
    return Models(
        embed, classify, Looks(embed, classify), attributes.names(classify), gallery, reference(photos), lpips
    )


class Evaluator:
    """Scores candidates and predictions against one user."""

    def __init__(self, models: Models, user: User) -> None:
        self.models, self.looks, self.user = models, models.looks, user
        self.photos = user.private.photos  # (n, 3, H, W)
        self.best_ssim = image_metrics.BestSsim(self.photos)
        self.embeddings = models.embed(self.photos)  # (n, d)
        above = torch.triu_indices(len(self.photos), len(self.photos), 1)
        pairs = (self.embeddings @ self.embeddings.T)[above[0], above[1]]  # (n (n - 1) / 2,) cosines
        self.truth: dict[str, Any] = {
            f"attr_{name}_true": attributes.true_value(user.private.attributes, name) for name in models.attributes
        }
        if len(pairs):
            self.truth |= {"in_batch_min": float(pairs.min()), "in_batch_max": float(pairs.max())}

    def score(self, candidate: Candidate) -> dict[str, Any]:
        """The row of a candidate, without its keys; null metrics for no image, or one that is not finite."""
        row = self._blank(candidate.arm) | {"matching_loss": candidate.matching_loss, "seconds": candidate.seconds}
        images, weights = candidate.images, candidate.weights
        if images is None or not bool(torch.isfinite(images).all()):
            return row
        embeddings = torch.stack([self.looks.embedding(image) for image in images])  # (k, d)
        if candidate.arm == "best_image":
            best = (embeddings @ self.embeddings.mean(0)).argmax(0, keepdim=True)
            images, weights, embeddings = images[best], torch.ones(1), embeddings[best]
        embedding = embeddings[0] if len(images) == 1 else F.normalize(weights @ embeddings, dim=0)
        row |= self._recognised(embedding) | {
            "psnr": _mean([image_metrics.best_psnr(image, self.photos) for image in images], weights),
            "ssim": _mean([self.best_ssim(image) for image in images], weights),
        }
        row |= self._realism(images, weights)
        if self.models.lpips is not None:
            distances = [image_metrics.best_lpips(image, self.photos, self.models.lpips) for image in images]
            row["lpips"] = _mean(distances, weights)
        if candidate.draws is not None and bool(torch.isfinite(candidate.draws).all()):
            return row | self._drawn(candidate.draws)
        return row | {f"attr_{name}_inferred": value for name, (value, _) in self._vote(images, weights).items()}

    def score_prediction(self, prediction: Prediction) -> dict[str, Any]:
        """The row of what was said without a picture; null are all metrics of pictures."""
        inferred = {f"attr_{name}_inferred": value for name, value in prediction.attributes.items()}
        return self._blank(prediction.arm) | self._recognised(prediction.embedding) | inferred

    def _vote(self, images: Tensor, weights: Tensor) -> dict[str, tuple[int, float]]:
        """Of each attribute the class that `images` (k, 3, H, W) show by weighted vote, and its share in (0, 1]."""
        classes = [self.looks.classes(image) for image in images]
        winners = {}
        for name in self.models.attributes:
            votes = torch.bincount(torch.cat([of_image[name] for of_image in classes]), weights.double())  # (classes,)
            winners[name] = int(votes.argmax()), float(votes.max() / votes.sum())
        return winners

    def _drawn(self, draws: Tensor) -> dict[str, Any]:
        """What `draws` (n, 3, H, W) of one update say: the columns `draws...`, and attributes by their majority."""
        embeddings = torch.stack([self.looks.embedding(draw) for draw in draws])  # (n, d)
        cosines = embeddings.double() @ self.embeddings.double().T
        row: dict[str, Any] = {"draws": len(draws), "draws_spread": spread(draws)}
        row["draws_similarity"] = float(cosines.mean())
        for name, (value, share) in self._vote(draws, torch.ones(len(draws))).items():
            row |= {f"attr_{name}_inferred": value, f"attr_{name}_share": share}
        return row

    def _realism(self, images: Tensor, weights: Tensor) -> dict[str, Any]:
        """How real images (k, 3, H, W) look, whomever they show; no probability where the detector fails on photos."""
        real = self.models.real
        row: dict[str, Any] = dict(zip(SHARPNESS, (weights @ real.sharpness(images)).tolist(), strict=True))
        if real.detected >= FACES:
            row["face_probability"] = float(weights @ torch.stack([self.looks.face(image) for image in images]))
        return row

    def _blank(self, arm: str) -> dict[str, Any]:
        return {"arm": arm, "gallery_size": self.models.gallery.size, **self.truth}

    def _recognised(self, embedding: Tensor) -> dict[str, Any]:
        """What the face recogniser says of an embedding (d,) of norm 1."""
        cosines = self.embeddings @ embedding
        gallery = self.models.gallery
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
