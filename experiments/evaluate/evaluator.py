"""What the face recogniser, the attribute classifier and the image metrics say of a candidate: a row of the table."""

from collections.abc import Sequence
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
from experiments.evaluate.gallery import Gallery, build_gallery
from experiments.evaluate.pictures import Draws, Eye, Picture, vote
from experiments.evaluate.realism import SHARPNESS, reference
from fl_sim.config import Dataset, Leakage

PUBLIC = 100  # people whose photos pictures are compared with


@dataclass(frozen=True)
class Models:
    """All that looks at pictures, the same for every user."""

    eye: Eye  # recogniser, classifier and face detector, and what photos of public people are like to them
    attributes: list[str]  # that the classifier infers
    gallery: Gallery
    lpips: Path | None  # the weights of LPIPS; None: that column stays empty


@lru_cache(maxsize=4)  # the cells of a sweep have them in common, those of one seed
def open_models(dataset: Dataset, leakage: Leakage, seed: int) -> Models:
    """The models of `leakage`, and the gallery of `dataset`. Raises ConfigError where one of them cannot be had."""
    embed, classify = embedders.open_embedder(leakage), attributes.open_classifier(leakage)
    people = open_dataset(dataset, seed)
    shown = min(people.num_public, PUBLIC)
    photos = torch.cat([people.public(index).photos[:2] for index in range(shown)])
    gallery = build_gallery(people, embed, leakage.gallery_size)
    lpips = image_metrics.lpips_weights(leakage)
    return Models(Eye(embed, classify, reference(photos)), attributes.names(classify), gallery, lpips)


class Evaluator:
    """Scores candidates and predictions against one user."""

    def __init__(self, models: Models, user: User) -> None:
        self.models, self.user = models, user
        photos = user.private.photos  # (n, 3, H, W)
        self.embeddings = models.eye.embed(photos)  # (n, d)
        self._likeness = image_metrics.likeness(photos, models.lpips)
        self._seen: dict[Picture, dict[str, float]] = {}  # likeness of each picture, which may be in several arms
        above = torch.triu_indices(len(photos), len(photos), 1)
        pairs = (self.embeddings @ self.embeddings.T)[above[0], above[1]]  # (n (n - 1) / 2,) cosines
        self.truth: dict[str, Any] = {
            f"attr_{name}_true": attributes.true_value(user.private.attributes, name) for name in models.attributes
        }
        if len(pairs):
            self.truth |= {"in_batch_min": float(pairs.min()), "in_batch_max": float(pairs.max())}

    def score(self, candidate: Candidate) -> dict[str, Any]:
        """The row of a candidate, without its keys; null metrics for no picture, or one that is not finite."""
        row = self._blank(candidate.arm) | {"matching_loss": candidate.matching_loss, "seconds": candidate.seconds}
        pictures, weights = candidate.shown, candidate.weights
        if not pictures:
            return row
        embeddings = torch.stack([picture.embedding for picture in pictures])  # (k, d)
        if candidate.arm == "best_image":
            best = int((embeddings @ self.embeddings.mean(0)).argmax())
            pictures, weights, embeddings = [pictures[best]], torch.ones(1), embeddings[best : best + 1]
        embedding = embeddings[0] if len(pictures) == 1 else F.normalize(weights @ embeddings, dim=0)
        row |= self._recognised(embedding) | self._likenesses(pictures, weights) | _realism(pictures, weights)
        if candidate.draws is not None:
            return row | self._drawn(candidate.draws)
        classes = {name: torch.cat([one.classes[name] for one in pictures]) for name in self.models.attributes}
        return row | {f"attr_{name}_inferred": value for name, (value, _) in vote(classes, weights).items()}

    def score_prediction(self, prediction: Prediction) -> dict[str, Any]:
        """The row of what was said without a picture; null are all metrics of pictures."""
        inferred = {f"attr_{name}_inferred": value for name, value in prediction.attributes.items()}
        return self._blank(prediction.arm) | self._recognised(prediction.embedding) | inferred

    def _drawn(self, draws: Draws) -> dict[str, Any]:
        """What the draws of one update say: the columns `draws...`, and attributes by their majority."""
        cosines = draws.embeddings.double() @ self.embeddings.double().T
        row: dict[str, Any] = {"draws": len(cosines), "draws_spread": draws.spread}
        row["draws_similarity"] = float(cosines.mean())
        for name, (value, share) in vote(draws.classes, torch.ones(len(cosines))).items():
            row |= {f"attr_{name}_inferred": value, f"attr_{name}_share": share}
        return row

    def _likenesses(self, pictures: Sequence[Picture], weights: Tensor) -> dict[str, float]:
        """PSNR, SSIM and LPIPS."""
        for picture in pictures:
            if picture not in self._seen:
                self._seen[picture] = self._likeness(picture.image)
        each = [self._seen[picture] for picture in pictures]
        return {name: _mean([one[name] for one in each], weights) for name in each[0]}

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


def _realism(pictures: Sequence[Picture], weights: Tensor) -> dict[str, float]:
    """How real pictures look, whomever they show; no probability where the detector fails on photos."""
    sharpness = weights @ torch.stack([picture.sharpness for picture in pictures])
    row = dict(zip(SHARPNESS, sharpness.tolist(), strict=True))
    faces = [picture.face_probability for picture in pictures if picture.face_probability is not None]
    return row | ({"face_probability": float(weights @ torch.tensor(faces))} if faces else {})


def _mean(values: list[float], weights: Tensor) -> float:
    return float(sum(weight * value for weight, value in zip(weights.tolist(), values, strict=True)))
