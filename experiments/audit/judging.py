"""How much the pictures of somebody else's users tell of them: scored as in a run, against photos the auditor has.

The users are looked for among each other, since an auditor has photos of nobody else. The first photo of each is set
apart, where all have two or more: it shows what the face recogniser makes of a real photo. The mean of others is that
of the other users.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from attacker.capture.store import CaptureStore
from clients.user import Faces, User
from experiments.evaluate.arms import CAPTIONS
from experiments.evaluate.candidates import Prediction
from experiments.evaluate.columns import KEYS, typed, write
from experiments.evaluate.embedders import Embedder
from experiments.evaluate.evaluator import Models
from experiments.evaluate.gallery import Gallery
from experiments.evaluate.pictures import Eye
from experiments.evaluate.realism import BANDS, SHARPNESS, Reference
from experiments.evaluate.reconstructions import find_reconstructions
from experiments.evaluate.score import Scorer
from experiments.evaluate.textures import Textures
from fl_sim.runs import RunFolder

NO_PUBLIC = Reference(torch.ones(len(BANDS)), (), 0.0)  # of how real pictures look, nothing is said
VERIFIED = {"verified_at_far_1e2": 100, "verified_at_far_1e3": 1000}  # column: pairs of people that the rate takes


@dataclass(frozen=True)
class People:
    """The audited users whose photos are known, and who looks at them."""

    photos: Mapping[int, Tensor]  # by user, ascending: (n, 3, H, W) in [0, 1]; two users or more
    embed: Embedder
    judge: str  # the embedder by name

    @property
    def apart(self) -> bool:
        """Whether a photo of each user can be set apart."""
        return all(len(own) > 1 for own in self.photos.values())

    @property
    def arms(self) -> set[str]:
        """What can be measured of them: no base rate of public people, a real photo only if it is set apart."""
        return set(CAPTIONS) - {"base_rate"} - (set() if self.apart else {"own_photo"})

    def user(self, number: int) -> User:
        """A user under the place that it has in the gallery."""
        own = self.photos[number]
        private, place = own[1:] if self.apart else own, list(self.photos).index(number)
        return User(place, f"user {number}", _faces(private), _faces(own[:1]))

    def gallery(self) -> Gallery:
        embedded = [self.embed(own) for own in self.photos.values()]
        templates = torch.stack([F.normalize((own[1:] if self.apart else own).mean(0), dim=0) for own in embedded])
        cosines = torch.stack([own[0] for own in embedded]) @ templates.T  # (people, people)
        impostors = cosines[~torch.eye(len(cosines), dtype=torch.bool)].sort().values
        everybody = torch.cat(list(self.photos.values())).mean(0)
        return Gallery(templates, len(templates), impostors, everybody)

    def mean_of_others(self, number: int) -> Tensor:
        """(3, H, W): the mean of the other users' photos."""
        return torch.cat([own for other, own in self.photos.items() if other != number]).mean(0)


def measure(run: RunFolder, people: People, seed: int) -> pd.DataFrame:
    """The leakage table (experiments.evaluate.columns) of all reconstructions of `people` in `run`.

    Written as `leakage.parquet` and `leakage.csv`. Null is what takes photos of public people: how real pictures look,
    and rates of false acceptance that the pairs of `people` are too few to show.
    """
    store, users = CaptureStore(run), list(people.photos)
    captured = {number: store.users(number) for number in store.finished_rounds()}
    by_place = {
        number: {place: user for place, user in enumerate(users) if user in sent} for number, sent in captured.items()
    }
    found, gallery = find_reconstructions(run, captured), people.gallery()
    unseen = [*SHARPNESS, *(column for column, pairs in VERIFIED.items() if len(gallery.impostors) < pairs)]
    eye, rows = Eye(people.embed, lambda photos: {}, NO_PUBLIC), []
    for user in users:
        models = Models(eye, [], replace(gallery, public_mean=people.mean_of_others(user)), None)
        nothing = Prediction("base_rate", gallery.templates[0], {})
        textures = Textures(NO_PUBLIC, len(users))
        scorer = Scorer(models, found, by_place, (), {}, nothing, lambda updates: None, textures)
        key = {"run": run.name, "seed": seed, "user": user, **dict.fromkeys(unseen)}
        rows += [row | key for row in scorer.rows(people.user(user)) if row["arm"] in people.arms]
    table = typed(rows, []).sort_values(KEYS, ignore_index=True)
    write(run, table)
    return table


def beside(attacked: pd.DataFrame, leakage: pd.DataFrame, label: str) -> pd.DataFrame:
    """The rows of one attack (round, user, ...) with what was measured of them.

    facial_similarity   mean cosine to the user's own photos, in [-1, 1]; higher leaks
    wrong_update        the same of the picture that was made from another user's update; not in a round of one user
    rank, among         of the user among all users, by the mean embedding of their photos; 1 leaks
    draws_similarity    facial_similarity of a draw, the mean over all draws of the update; only of attacks with draws
    determined          facial_similarity of the mean face behind them
    """
    own = leakage[leakage["attack"] == label].set_index(["round", "user"])
    places = pd.MultiIndex.from_frame(attacked[["round", "user"]])
    columns = {
        "facial_similarity": ("attack", "facial_similarity"),
        "wrong_update": ("wrong_update", "facial_similarity"),
        "rank": ("attack", "rank"),
        "among": ("attack", "gallery_size"),
        "draws_similarity": ("attack", "draws_similarity"),
        "determined": ("determined", "facial_similarity"),
    }
    found = {name: own.loc[own["arm"] == arm, column].reindex(places) for name, (arm, column) in columns.items()}
    return attacked.assign(**{name: values.to_numpy() for name, values in found.items() if values.notna().any()})


def _faces(photos: Tensor) -> Faces:
    return Faces(photos, torch.full((len(photos),), -1), {})
