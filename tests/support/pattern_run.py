"""A run whose people are coloured patterns, and a recogniser that knows them: leakage tables within milliseconds."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from attacker.capture.store import Capture, CaptureStore, write_reconstruction
from attacker.observation import Reconstruction
from clients.user import Faces, User
from experiments.evaluate import evaluator
from experiments.run import leakage
from fl_sim.config import Config, Leakage
from fl_sim.runs import RunFolder
from fl_sim.seeds import generator

SIZE = 32
USERS, ROUNDS = 4, 2


@dataclass
class Patterns:
    """A `FaceDataset` whose people are 4x4 patterns of colour; photos differ by noise."""

    num_users: int = USERS
    num_public: int = 40
    num_classes: int = 2
    image_size: int = SIZE

    def _faces(self, kind: str, person: int, count: int) -> Faces:
        pattern = torch.rand(1, 3, 4, 4, generator=generator(0, kind, person))
        noise = 0.05 * torch.randn(count, 3, SIZE, SIZE, generator=generator(1, kind, person, count))
        photos = (F.interpolate(pattern, size=(SIZE, SIZE)) + noise).clamp(0, 1)
        return Faces(photos, torch.zeros(count, dtype=torch.int64), {"Red": int(pattern[0, 0].mean() > 0.5)})

    def user(self, partition: int) -> User:
        return User(partition, f"p{partition}", self._faces("u", partition, 6), self._faces("u", partition, 4))

    def public(self, index: int) -> Faces:
        return self._faces("p", index, 4)


def embed(photos: Tensor) -> Tensor:
    return F.normalize((F.adaptive_avg_pool2d(photos, 4) - 0.5).flatten(1), dim=1)


def classify(photos: Tensor) -> dict[str, Tensor]:
    return {"red": (photos[:, 0].mean((1, 2)) > 0.5).long()}


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Config:
    for module in (leakage, evaluator):
        monkeypatch.setattr(module, "open_dataset", lambda dataset, seed: Patterns())
    monkeypatch.setattr(evaluator.embedders, "open_embedder", lambda settings: embed)
    monkeypatch.setattr(evaluator.attributes, "open_classifier", lambda settings: classify)
    return Config(name="r", leakage=Leakage(gallery_size=20), attacks={})  # a test plans none but what it leaves


def reconstruction(picture: Tensor) -> Reconstruction:
    return Reconstruction(picture[None], torch.ones(1), matching_loss=0.25, seconds=1.5)


def pattern_run(
    root: Path, attacks: tuple[str, ...] = ("copy", "prior_only"), rejected: int | None = None
) -> RunFolder:
    """A run whose attack `copy` returns the user's mean photo, and whose prior draws the same grey."""
    run, dataset = RunFolder(root), Patterns()
    store = CaptureStore(run)
    weights = {"w": torch.zeros(2)}
    store.save_model(1, weights)
    for number in range(1, ROUNDS + 1):
        captures = [
            Capture(user, user, "rejected" if user == rejected else "accepted", "", 6, 0.0, 8, 0.1,
                    None if user == rejected else weights)
            for user in range(USERS)
        ]  # fmt: skip
        store.save_round(number, captures, "gradient", 0.1, weights)
        for label in attacks:
            for user in range(USERS):
                own = dataset.user(user).private.photos.mean(0)
                picture = torch.full_like(own, 0.4) if label == "prior_only" else own
                if user != rejected:
                    write_reconstruction(run, label, number, user, reconstruction(picture), {"name": label})
    store.wait()
    return run


def leave(run: RunFolder, user: int, images: list[Tensor], weights: list[float]) -> None:
    made = Reconstruction(torch.stack(images), torch.tensor(weights), 0.25, 1.5)
    for number in range(1, ROUNDS + 1):
        write_reconstruction(run, "copy", number, user, made, {"name": "copy"})


def rows_of(table: pd.DataFrame, user: int, number: int = 1) -> pd.DataFrame:
    return table[(table["user"] == user) & (table["round"] == number)].set_index("arm").drop(columns=["seconds"])
