"""The candidates of each arm: pictures, or predictions without a picture, that stand in the place of the user's photo.

An attack that leaves several images (one a photo, or one a label) is read in two more ways: what they say together,
and the best of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clients.user import User
from experiments.evaluate.pictures import Answer, Draws, Eye, Picture


@dataclass(frozen=True)
class Candidate:
    """What is judged as one: a picture, or several by the mean of their embeddings."""

    arm: str  # one of experiments.evaluate.arms.ARMS
    pictures: Sequence[Picture | None]  # none where the attack left none; None for one that is not finite
    weights: Tensor  # (k,) of the pictures in the mean, sums to 1
    matching_loss: float | None = None  # only of a reconstruction from this user's own update
    seconds: float | None = None
    draws: Draws | None = None  # what the update leaves possible; the picture is one of them

    @property
    def shown(self) -> list[Picture]:
        """The pictures; none where one of them is not finite."""
        finite = [picture for picture in self.pictures if picture is not None]
        return finite if len(finite) == len(self.pictures) else []


@dataclass(frozen=True)
class Prediction:
    """What is said of a user without any picture."""

    arm: str  # one of experiments.evaluate.arms.ARMS
    embedding: Tensor  # (d,) of norm 1, in the space of the evaluator's embedder
    attributes: Mapping[str, int]  # the class of each that is predicted


def references(user: User, public_mean: Picture | None, eye: Eye) -> list[Candidate]:
    """The arms that are the same for each attack and round."""
    (photo, mean), _ = eye.look([user.held_out.photos[0], user.private.photos.mean(0)])
    pictures = {"public_mean": public_mean, "own_photo": photo, "own_mean": mean}
    return [Candidate(arm, [picture], torch.ones(1)) for arm, picture in pictures.items()]


def candidates(
    user: int,
    answers: Mapping[int, Answer],
    prior: Mapping[int, Answer] | None,
    several: bool,
    determines: bool = False,
) -> list[Candidate]:
    """The arms that differ by attack, in one round.

    `answers` and `prior` (those of the prior alone; None if it was not run) are by user. `several`: the attack
    leaves more than one image of some user, so all users get the arms that read them; `determines`: it leaves the mean
    face behind its draws of some user.
    """
    own = answers.get(user)
    arms = [_of("attack", own)]
    if determines:
        arms.append(_determined(own))
    if several:
        arms += [_all("all_images", own), _all("best_image", own)]
    if prior is not None:
        arms.append(_of("prior_only", prior.get(user)))
    other = wrong_user(user, sorted(answers.keys() | {user}))
    if other is not None:
        wrong = answers[other]
        arms.append(Candidate("wrong_update", wrong.pictures[:1], torch.ones(1), draws=wrong.draws))
    return arms


def wrong_user(user: int, users: Sequence[int]) -> int | None:
    """The next of `users` (ascending, `user` among them), cyclically; None if there is no other."""
    other = users[(users.index(user) + 1) % len(users)]
    return None if other == user else other


def prior_label(attack: Mapping[str, Any], controls: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Which of the prior-only attacks in `controls` (settings by label) stands beside an attack: with its prior."""
    same = [label for label, settings in controls.items() if settings.get("prior") == attack.get("prior")]
    return min(same or controls, default=None)


def _of(arm: str, own: Answer | None) -> Candidate:
    if own is None:
        return Candidate(arm, (), torch.ones(0))
    return Candidate(arm, own.pictures[:1], torch.ones(1), own.matching_loss, own.seconds, own.draws)


def _determined(own: Answer | None) -> Candidate:
    if own is None or not own.determined:
        return Candidate("determined", (), torch.ones(0))
    return Candidate("determined", own.determined, torch.ones(1), own.matching_loss, own.seconds)


def _all(arm: str, own: Answer | None) -> Candidate:
    if own is None:
        return Candidate(arm, (), torch.ones(0))
    return Candidate(arm, own.pictures, own.weights / own.weights.sum(), own.matching_loss, own.seconds)
