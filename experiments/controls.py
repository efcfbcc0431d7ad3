"""The arms of the experiment: what is put before the face recogniser in place of the user's photo.

A generative attack prints a plausible face whatever it is fed, so a similarity means nothing alone. Each
attack stands beside two floors that know nothing of this user's update, and two references.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from attacker.observation import Reconstruction
from clients.user import User

Arm = Literal["attack", "prior_only", "wrong_update", "public_mean", "own_photo", "own_mean"]
ARMS: dict[Arm, str] = {
    "attack": "the reconstruction made from this user's update",
    "prior_only": "what the prior draws without any update",
    "wrong_update": "the reconstruction made from another user's update of the same round (the next one's, cyclically)",
    "public_mean": "the mean face of people who are not users",
    "own_photo": "one real photo of the user that is neither private nor in the gallery: the ceiling",
    "own_mean": "the mean of the user's private photos",
}


@dataclass(frozen=True)
class Exhibit:
    """One picture to be judged."""

    arm: Arm
    picture: Tensor | None  # (3, H, W) in [0, 1]; None where the attack left none
    matching_loss: float | None = None  # only of a reconstruction from this user's own update
    seconds: float | None = None


def references(user: User, public_mean: Tensor) -> list[Exhibit]:
    """The arms that are the same for each attack and round."""
    return [
        Exhibit("public_mean", public_mean),
        Exhibit("own_photo", user.held_out.photos[0]),
        Exhibit("own_mean", user.private.photos.mean(0)),
    ]


def exhibits(
    user: int, made: Mapping[int, Reconstruction], prior: Mapping[int, Reconstruction] | None
) -> list[Exhibit]:
    """The arms that differ by attack, in one round: `made` and `prior` are by user; `prior` None if it was not run."""
    found = [_of("attack", made.get(user))]
    if prior is not None:
        found.append(_of("prior_only", prior.get(user)))
    other = wrong_user(user, sorted(made.keys() | {user}))
    if other is not None:
        found.append(Exhibit("wrong_update", made[other].images[0]))
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
    return Exhibit(arm, None) if made is None else Exhibit(arm, made.images[0], made.matching_loss, made.seconds)
