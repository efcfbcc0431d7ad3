"""The arms of the experiment: what is put before the face recogniser in place of the user's photo.

A generative attack prints a plausible face whatever it is fed, so a similarity means nothing alone. Each
attack stands beside two floors that know nothing of this user's update, and two references. An attack that
leaves several images (one a photo, or one a label) is read in two more ways: what they say together, and the
best of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from attacker.observation import Reconstruction
from clients.user import User

Arm = Literal[
    "attack",
    "determined",
    "all_images",
    "best_image",
    "best_member",
    "direct_update",
    "prior_only",
    "wrong_update",
    "public_mean",
    "base_rate",
    "own_photo",
    "own_mean",
]
ARMS: dict[Arm, str] = {
    "attack": "the reconstruction made from this user's update: its first image, the answer",
    "determined": "the mean face that the update determines, before the prior drew the rest of the answer",
    "all_images": "all images of that reconstruction, embedded and averaged by their weights",
    "best_image": "the one of them most like the user, chosen by who knows the truth: an upper bound, no attack",
    "best_member": "the reconstruction from a sum of several users' updates, of the one alone whom it is most like",
    "direct_update": "no picture: attributes and an embedding regressed from this user's update (`leakage.direct`)",
    "prior_only": "what the prior draws without any update",
    "wrong_update": "the reconstruction made from another user's update of the same round (the next one's, cyclically)",
    "public_mean": "the mean face of people who are not users",
    "base_rate": "no picture: the commonest attributes of the public people in the gallery, their mean embedding",
    "own_photo": "one real photo of the user that is neither private nor in the gallery: the ceiling",
    "own_mean": "the mean of the user's private photos",
}


@dataclass(frozen=True)
class Exhibit:
    """What is judged as one: a picture, or several by the mean of their embeddings."""

    arm: Arm
    images: Tensor | None  # (k, 3, H, W) in [0, 1]; None where the attack left none
    weights: Tensor  # (k,) of the images in the mean, sums to 1
    matching_loss: float | None = None  # only of a reconstruction from this user's own update
    seconds: float | None = None
    draws: Tensor | None = None  # (n, 3, H, W) in [0, 1], what the update leaves possible; the picture is one of them


@dataclass(frozen=True)
class Guess:
    """What is said of a user without any picture."""

    arm: Arm
    embedding: Tensor  # (d,) of norm 1, in the space of the judge's embedder
    attributes: Mapping[str, int]  # the class of each that is guessed


def references(user: User, public_mean: Tensor) -> list[Exhibit]:
    """The arms that are the same for each attack and round."""
    return [
        _picture("public_mean", public_mean),
        _picture("own_photo", user.held_out.photos[0]),
        _picture("own_mean", user.private.photos.mean(0)),
    ]


def exhibits(
    user: int,
    made: Mapping[int, Reconstruction],
    prior: Mapping[int, Reconstruction] | None,
    several: bool,
    determines: bool = False,
) -> list[Exhibit]:
    """The arms that differ by attack, in one round: `made` and `prior` are by user; `prior` None if it was not run.

    `several`: the attack leaves more than one image of some user, so all users get the arms that read them;
    `determines`: it leaves the mean face behind its draws of some user.
    """
    found = [_of("attack", made.get(user))]
    if determines:
        found.append(_determined(made.get(user)))
    if several:
        found += [_all("all_images", made.get(user)), _all("best_image", made.get(user))]
    if prior is not None:
        found.append(_of("prior_only", prior.get(user)))
    other = wrong_user(user, sorted(made.keys() | {user}))
    if other is not None:
        found.append(Exhibit("wrong_update", made[other].images[:1], torch.ones(1), draws=made[other].draws))
    return found


def wrong_user(user: int, users: Sequence[int]) -> int | None:
    """The next of `users` (ascending, `user` among them), cyclically; None if there is no other."""
    other = users[(users.index(user) + 1) % len(users)]
    return None if other == user else other


def prior_label(attack: Mapping[str, Any], controls: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Which of the prior-only attacks in `controls` (settings by label) stands beside an attack: with its prior."""
    same = [label for label, settings in controls.items() if settings.get("prior") == attack.get("prior")]
    return min(same or controls, default=None)


def _of(arm: Arm, made: Reconstruction | None) -> Exhibit:
    if made is None:
        return Exhibit(arm, None, torch.ones(0))
    return Exhibit(arm, made.images[:1], torch.ones(1), made.matching_loss, made.seconds, made.draws)


def _determined(made: Reconstruction | None) -> Exhibit:
    if made is None or made.determined is None:
        return Exhibit("determined", None, torch.ones(0))
    return Exhibit("determined", made.determined[None], torch.ones(1), made.matching_loss, made.seconds)


def _all(arm: Arm, made: Reconstruction | None) -> Exhibit:
    if made is None:
        return Exhibit(arm, None, torch.ones(0))
    return Exhibit(arm, made.images, made.weights / made.weights.sum(), made.matching_loss, made.seconds)


def _picture(arm: Arm, picture: Tensor) -> Exhibit:
    return Exhibit(arm, picture[None], torch.ones(1))
