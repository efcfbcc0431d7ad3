"""Laws that hold for every family of models that a user may bring."""

from typing import Any

import pytest
import tiny_faces
import torch
from tiny_faces import model_of, open_tiny, tiny_config
from torch import nn

from attacker.capture.store import CaptureStore
from attacker.inversion.matching import Representatives, cosine, dummy_gradient, load_model, observed_gradient
from attacker.inversion.model_check import check_model
from clients.local_training import local_gradient
from experiments.plan.setup import prepare
from experiments.run.federation import run_federation
from experiments.run.pipeline import preflight
from experiments.studies.model_families import FAMILIES
from fl_sim import models
from fl_sim.config import Config, ConfigError
from fl_sim.initial_model import remarks
from fl_sim.models import normalise
from fl_sim.modules import state
from fl_sim.runs import RunFolder
from fl_sim.seeds import generator

TORCHVISION = {"vision transformer", "MobileNetV3", "torchvision ResNet-18"}  # seconds to import
each = pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[pytest.mark.slow] * (name in TORCHVISION)) for name in FAMILIES]
)


def configured(family: str, **sections: Any) -> Config:
    factory, batch_norm = FAMILIES[family]
    name = f"experiments.studies.model_families:{factory.__name__}"
    sections = {"dataset": {"photos": 4, "users": 2}, "workers": {"backend": "none"}, **sections}
    return tiny_config(model={"name": name, "batch_norm": batch_norm}, **sections)


@each
def test_the_update_of_the_true_photos_is_matched_exactly(family: str) -> None:
    config = configured(family)
    model, faces = model_of(config), open_tiny(config.dataset, 0).user(1).private
    check_model(model, family, 32, 2)
    sent = {name: value.clone() for name, value in state(model).items()}
    update = local_gradient(model, faces)
    assert list(update) == [name for name, _ in model.named_parameters()]
    observed, count = observed_gradient(update, 1.0), len(faces.photos)
    reps = Representatives(faces.labels, torch.full((count,), 1 / count))
    other = model_of(config.model_copy(update={"seed": 1}))  # as an attacker has it: other weights, then those sent
    dummy = dummy_gradient(load_model(other, sent), normalise(faces.photos), reps)
    assert float(cosine(dummy.detach() * observed.scale, observed.vector)) < 1e-4
    assert all(
        torch.equal(value, state(model)[name]) for name, value in sent.items()
    )  # training leaves the model alone


@each
@pytest.mark.parametrize("update", ["gradient", "weights"])
def test_every_update_is_accepted_and_the_model_is_trained(family: str, update: str, tmp_path: Any) -> None:
    run, labels = RunFolder(tmp_path / "run"), {"labels": "known"}
    run_federation(prepare(configured(family, federation={"update": update}, threat_model=labels)), run)
    store = CaptureStore(run)
    assert store.users(1) == store.users(2) == [0, 1]
    assert store.rejected() == []
    first, last = store.parameters(1), store.parameters(3)
    assert any(not torch.equal(value, last[name]) for name, value in first.items())


def test_frozen_and_unused_parameters_stay_and_tied_ones_are_one() -> None:
    moved = {}
    for family in ("frozen backbone", "two heads", "tied weights"):
        config = configured(family)
        update = local_gradient(
            model_of(config),
            open_tiny(config.dataset, 0).user(0).private,
        )
        moved[family] = {name: bool(value.any()) for name, value in update.items()}
    assert [name for name, any_ in moved["frozen backbone"].items() if not any_] == ["0.0.weight", "0.0.bias"]
    assert [name for name, any_ in moved["two heads"].items() if not any_] == ["other.1.weight", "other.1.bias"]
    assert "second.weight" not in moved["tied weights"]


def test_frozen_parameters_that_the_attacker_does_not_know_of_are_not_compared() -> None:
    config = configured("frozen backbone")
    model, faces = model_of(config), open_tiny(config.dataset, 0).user(0).private
    observed, count = observed_gradient(local_gradient(model, faces), 1.0), len(faces.photos)
    thawed = load_model(model, state(model)).requires_grad_(True)
    reps = Representatives(faces.labels, torch.full((count,), 1 / count))
    dummy = dummy_gradient(thawed, normalise(faces.photos), reps)
    assert float(cosine(dummy.detach() * observed.scale, observed.vector)) < 1e-4


def test_training_mode_is_refused_where_there_is_no_batch_norm() -> None:
    config = configured("plain MLP")
    wrong = config.model_copy(update={"model": config.model.model_copy(update={"batch_norm": "train"})})
    with pytest.raises(ConfigError, match=r"model\.batch_norm is 'train', but model .*plain_mlp' has no batch norm"):
        model_of(wrong)


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("dropout", r"has dropout \(3, 7\), which is off"),
        ("own CNN, batch norm in training mode", "set model.batch_norm = 'train'"),
    ],
)
def test_what_is_trained_otherwise_than_in_an_app_is_told(family: str, said: str) -> None:
    config = configured(family)
    config = config.model_copy(update={"model": config.model.model_copy(update={"batch_norm": "eval"})})
    told: list[str] = []
    preflight(prepare(config), told.append)
    assert any(said.replace("\\", "") in sentence for sentence in told)
    assert remarks(tiny_config(), model_of(tiny_config(), 2)) == []


def pair(num_classes: int, image_size: int) -> nn.Module:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = models.mlp(num_classes, image_size)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.net(x), self.net(x)

    return Pair()


def test_several_outputs_are_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_faces, "pair", pair, raising=False)
    config = tiny_config(model={"name": "tiny_faces:pair"}, workers={"backend": "none"})
    with pytest.raises(ConfigError, match=r"model 'tiny_faces:pair' returns a tuple of 2, not logits; wrap it"):
        preflight(prepare(config), lambda sentence: None)
    model = models.build("mlp", 2, 32, generator(0))
    with pytest.raises(ConfigError, match=r"returns a tuple of 2, not logits; wrap it"):
        check_model(pair(2, 32), "pair", 32, 2)
    with pytest.raises(ConfigError, match=r"returns shape \(4, 2\) for 4 images, expected logits \(4, 3\)"):
        check_model(model, "mlp", 32, 3)
