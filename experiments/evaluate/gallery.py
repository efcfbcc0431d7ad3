"""The gallery: the people among whom a reconstruction is looked up.

Each person has one template, the mean embedding of photos that are neither private nor the reference photo.
The users are in it, and public people fill it up as distractors.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from clients.user import FaceDataset
from experiments.evaluate.embedders import Embedder
from fl_sim.config import ConfigError


@dataclass(frozen=True)
class Gallery:
    """`size` people for every user; users come first."""

    templates: Tensor  # (people, d), of L2 norm 1: all users, then the distractors
    size: int  # people among whom one user is ranked
    impostors: Tensor  # (pairs,) cosines of single photos to the templates of other people, ascending
    public_mean: Tensor  # (3, H, W) in [0, 1], the mean of all photos of the distractors
    attributes: tuple[Mapping[str, int], ...] = ()  # of each distractor, as the dataset says

    def rank(self, embedding: Tensor, user: int) -> int | None:
        """Of the true user among `size` people, 1 the best; None for an embedding (d,) that is not finite.

        Ties count against the attacker. Where users alone outnumber `size`, the others are those that
        follow the user, cyclically.
        """
        if not bool(torch.isfinite(embedding).all()):
            return None
        people = (user + torch.arange(self.size)) % len(self.templates)
        scores = self.templates[people] @ embedding
        return 1 + int((scores[1:] >= scores[0]).sum())

    def threshold(self, far: float) -> float:
        """The cosine above which two pictures pass for one person, at a false acceptance rate of at most `far`."""
        allowed = int(far * len(self.impostors))  # impostors that may lie above it
        return float(self.impostors[len(self.impostors) - 1 - allowed])


def check_size(dataset: FaceDataset, size: int) -> None:
    """Raise ConfigError where there are fewer than `size` people."""
    people = dataset.num_users + dataset.num_public
    if people < size:
        raise ConfigError(
            f"leakage.gallery_size is {size}, but there are only {people} people "
            f"({dataset.num_users} users and {dataset.num_public} public); set it to {people} or less"
        )
    if dataset.num_public == 0:
        raise ConfigError(
            "the dataset has no public people, whose mean face is a control; give some the split dataset.public_split"
        )


def build_gallery(dataset: FaceDataset, embed: Embedder, size: int) -> Gallery:
    """The gallery of a dataset: users by `held_out[1:]`, distractors by as many photos as users have.

    Raises ConfigError for too few people, or for a user with less than two held-out photos.
    """
    check_size(dataset, size)
    # A dataset may give these without making the private photos, which are more.
    held_out = getattr(dataset, "held_out", None) or (lambda user: dataset.user(user).held_out)
    embeddings = []
    for user in range(dataset.num_users):
        photos = held_out(user).photos
        if len(photos) < 2:
            raise ConfigError(
                f"user {user} has fewer than 2 held-out photos, too few for a gallery; lower dataset.photos"
            )
        embeddings.append(embed(photos))
    most = max(len(own) for own in embeddings)
    # A gallery full of users still needs public people for their mean face.
    public = [dataset.public(index) for index in range(max(size - len(embeddings), min(20, dataset.num_public)))]
    distractors = [faces.photos[:most] for faces in public]
    embeddings += [embed(person) for person in distractors]
    templates = torch.stack([F.normalize((own[1:] if len(own) > 1 else own).mean(0), dim=0) for own in embeddings])
    singles = torch.stack([own[0] for own in embeddings])
    cosines = singles @ templates.T  # (people, people)
    impostors = cosines[~torch.eye(len(cosines), dtype=torch.bool)].sort().values
    return Gallery(templates, size, impostors, torch.cat(distractors).mean(0), tuple(one.attributes for one in public))
