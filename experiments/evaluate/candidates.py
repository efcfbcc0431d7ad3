"""The candidates of each arm: pictures, or predictions without a picture, that stand in the place of the user's photo.

An attack that leaves several images (one a photo, or one a label) is read in two more ways: what they say together,
and the best of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attacker.observation import Reconstruction
from clients.user import User


@dataclass(frozen=True)
class Candidate:
    """What is judged as one: a picture, or several by the mean of their embeddings."""

    arm: str  # one of experiments.evaluate.arms.ARMS
    images: Tensor | None  # (k, 3, H, W) in [0, 1]; None where the attack left none
    weights: Tensor  # (k,) of the images in the mean, sums to 1
    matching_loss: float | None = None  # only of a reconstruction from this user's own update
    seconds: float | None = None
    draws: Tensor | None = None  # (n, 3, H, W) in [0, 1], what the update leaves possible; the picture is one of them


@dataclass(frozen=True)
class Prediction:
    """What is said of a user without any picture."""

    arm: str  # one of experiments.evaluate.arms.ARMS
    embedding: Tensor  # (d,) of norm 1, in the space of the evaluator's embedder
    attributes: Mapping[str, int]  # the class of each that is predicted


def references(user: User, public_mean: Tensor) -> list[Candidate]:
    """The arms that are the same for each attack and round."""
    return [
        _picture("public_mean", public_mean),
        _picture("own_photo", user.held_out.photos[0]),
        _picture("own_mean", user.private.photos.mean(0)),
    ]


def candidates(
    user: int,
    reconstructions: Mapping[int, Reconstruction],
    prior: Mapping[int, Reconstruction] | None,
    several: bool,
    determines: bool = False,
) -> list[Candidate]:
    """The arms that differ by attack, in one round.

    `reconstructions` and `prior` (those of the prior alone; None if it was not run) are by user. `several`: the attack
    leaves more than one image of some user, so all users get the arms that read them; `determines`: it leaves the mean
    face behind its draws of some user.
    """
    own = reconstructions.get(user)
    arms = [_of("attack", own)]
    if determines:
        arms.append(_determined(own))
    if several:
        arms += [_all("all_images", own), _all("best_image", own)]
    if prior is not None:
        arms.append(_of("prior_only", prior.get(user)))
    other = wrong_user(user, sorted(reconstructions.keys() | {user}))
    if other is not None:
        wrong = reconstructions[other]
        arms.append(Candidate("wrong_update", wrong.images[:1], torch.ones(1), draws=wrong.draws))
    return arms


def wrong_user(user: int, users: Sequence[int]) -> int | None:
    """The next of `users` (ascending, `user` among them), cyclically; None if there is no other."""
    other = users[(users.index(user) + 1) % len(users)]
    return None if other == user else other


def prior_label(attack: Mapping[str, Any], controls: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Which of the prior-only attacks in `controls` (settings by label) stands beside an attack: with its prior."""
    same = [label for label, settings in controls.items() if settings.get("prior") == attack.get("prior")]
    return min(same or controls, default=None)


def _of(arm: str, own: Reconstruction | None) -> Candidate:
    if own is None:
        return Candidate(arm, None, torch.ones(0))
    return Candidate(arm, own.images[:1], torch.ones(1), own.matching_loss, own.seconds, own.draws)


def _determined(own: Reconstruction | None) -> Candidate:
    if own is None or own.determined is None:
        return Candidate("determined", None, torch.ones(0))
    return Candidate("determined", own.determined[None], torch.ones(1), own.matching_loss, own.seconds)


def _all(arm: str, own: Reconstruction | None) -> Candidate:
    if own is None:
        return Candidate(arm, None, torch.ones(0))
    return Candidate(arm, own.images, own.weights / own.weights.sum(), own.matching_loss, own.seconds)


def _picture(arm: str, picture: Tensor) -> Candidate:
    return Candidate(arm, picture[None], torch.ones(1))
