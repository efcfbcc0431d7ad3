"""The rows of the leakage table, user by user: each attack's candidates in each round, beside their controls."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from clients.user import User
from experiments.evaluate.candidates import Candidate, Prediction, candidates, prior_label, references, wrong_user
from experiments.evaluate.evaluator import Evaluator, Models
from experiments.evaluate.pictures import Answer
from experiments.evaluate.reconstructions import Reconstructions
from experiments.evaluate.textures import Textures

Row = dict[str, Any]  # by column
Promise = Callable[[int], float | None]  # the epsilon of so many updates of a user; None: no guarantee


class Scorer:
    """Scores one user after the other; `textures` gathers what can only be compared once all users are scored."""

    def __init__(
        self,
        models: Models,
        reconstructions: Reconstructions,
        captures: Mapping[int, Mapping[int, int]],  # round -> user -> the capture that holds the update
        planned: Sequence[int],  # rounds that were to be attacked
        inferred: Mapping[tuple[int, int], Prediction],  # from updates alone, by (round, capture)
        base_rate: Prediction,
        promise: Promise,
        textures: Textures,
    ) -> None:
        self.models, self.reconstructions, self.textures = models, reconstructions, textures
        self.captures, self.planned = captures, planned
        self.inferred, self.base_rate, self.promise = inferred, base_rate, promise
        self._eye = models.eye
        (self._public_mean,), _ = self._eye.look([models.gallery.public_mean])
        self._group_sizes = {number: Counter(by_user.values()) for number, by_user in captures.items()}

    def rows(self, user: User) -> list[Row]:
        """The rows of a user, without those keys that are of the whole run."""
        evaluator = Evaluator(self.models, user)
        shared = references(user, self._public_mean, self._eye)
        shared_rows = [evaluator.score(candidate) for candidate in shared]
        shared_rows.append(evaluator.score_prediction(self.base_rate))
        rows: list[Row] = []
        for number, by_user in self.captures.items():
            if user.partition not in by_user:
                continue
            capture = by_user[user.partition]
            prediction = self.inferred.get((number, capture))
            without_picture = [] if prediction is None else [evaluator.score_prediction(prediction)]
            for label in self.reconstructions.labels:
                if number not in self.planned and not self.reconstructions.kept[label, number].captures:
                    continue
                shown = self._candidates(label, number, capture)
                self.textures.add(label, number, [*shown, *shared])
                scored = [*(evaluator.score(candidate) for candidate in shown), *without_picture, *shared_rows]
                key = {"user": user.partition, **self._key(label, number, capture)}
                rows.extend(key | row for row in scored)
        return rows

    def _candidates(self, label: str, number: int, capture: int) -> list[Candidate]:
        """What the attack made of the capture, of another one, and of none."""
        kept = self.reconstructions.kept[label, number]
        other = wrong_user(capture, sorted({capture, *kept.captures}))
        own = self._answers(label, number, {capture, other})
        control = prior_label(self.reconstructions.settings[label], self.reconstructions.priors)
        prior = self._answers(control, number, {capture}) if control is not None else None
        return candidates(capture, own, prior, kept.images > 1, kept.determined)

    def _answers(self, label: str, number: int, captures: Iterable[int | None]) -> dict[int, Answer]:
        """By capture; those that are missing are left out."""
        found = {capture: self._answer(label, number, capture) for capture in captures if capture is not None}
        return {capture: answer for capture, answer in found.items() if answer is not None}

    def _answer(self, label: str, number: int, capture: int) -> Answer | None:
        made = self.reconstructions.read(label, number, capture)
        return None if made is None else self._eye.answer(made)

    def _key(self, label: str, number: int, capture: int) -> Row:
        settings = self.reconstructions.settings[label]
        updates = min(number, int(settings.get("rounds", 1)))  # of the user, that the attack saw
        return {
            "round": number,
            "attack": label,
            "knowledge": str(settings.get("knowledge", "none")),
            "capture": capture,
            "group_size": self._group_sizes[number][capture],
            "epsilon": self.promise(updates),
        }
