"""Which mode somebody else's users train in is found by what matches, for models as apps have them."""

from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from external_nets import batch_normed, one_logit
from flwr.serverapp.strategy import FedAvg
from torch import Tensor, nn

from attacker.attack import Attacker
from attacker.capture.audit_plugin import AuditedStrategy
from attacker.external import modes
from attacker.external.external_model import ExternalModel, find_mode, invert, open_attack, remarks
from attacker.observation import LocalTraining, Observation
from clients.datasets import open_dataset
from experiments.evaluate import embedders
from fl_sim.config import ConfigError, Dataset
from fl_sim.threads import one_thread

EXTERNAL = ExternalModel("external_nets:batch_normed", 32)


@cache
def people():  # type: ignore[no-untyped-def]
    return open_dataset(Dataset(users=3, photos=12, image_size=32), 0)


def observed(network: nn.Module, user: int, loss=F.cross_entropy) -> Observation:  # type: ignore[no-untyped-def]
    """What a user's own training loop, in plain torch, makes of `network` in the mode that it is in."""
    private = people().user(user).private
    sent = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(0)
    value = loss(network(private.photos * 2 - 1), private.labels)
    names, parameters = zip(*network.named_parameters(), strict=True)
    gradient = dict(zip(names, torch.autograd.grad(value, parameters), strict=True))
    return Observation(1, user, sent, gradient, len(private.photos), None)


def similarities(external: ExternalModel, seen: Observation, **mode: str) -> Tensor:
    """Mean similarity (3,) of the reconstruction to the photos of each person."""
    attack = open_attack("inverting_gradients", {"steps": 60})
    found = invert(external, attack, [seen], 0, lambda done, total: None, **mode)[0]  # type: ignore[arg-type]
    embed = embedders.synthetic()
    face = embed(found.images[:1])[0]
    return torch.stack([(embed(people().user(one).private.photos) @ face).mean() for one in range(3)])


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_mode_of_the_users_is_found(mode: str) -> None:
    with one_thread():
        seen = observed(batch_normed().train(mode == "train"), 0)
        found = find_mode(EXTERNAL, [seen], 0)
    assert found is not None
    assert found.batch_norm == mode
    assert min(found.losses.values()) == found.losses[found.batch_norm]
    assert f"matching loss {found.losses[found.batch_norm]:.3g}" in found.sentence()


def test_a_user_in_training_mode_is_seen_in_that_mode_alone() -> None:
    with one_thread():
        seen = observed(batch_normed().train(), 1)
        right, wrong = (similarities(EXTERNAL, seen, batch_norm=mode) for mode in ("train", "eval"))
    assert int(right.argmax()) == 1
    assert float(right[1]) > 0.5
    assert float(right[1]) > float(wrong[1]) + 0.2


def test_a_model_without_running_statistics_has_no_mode() -> None:
    assert find_mode(ExternalModel("external_nets:Net", 32), [], 0) is None


def test_one_mode_that_fails_leaves_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """As training mode does for one value a channel."""

    def fails_in_training(attacker: Attacker, *others: object) -> float:
        if any(layer.training for layer in attacker.model.modules()):
            raise ValueError("Expected more than 1 value per channel when training")
        return 0.5

    monkeypatch.setattr(modes, "_loss", fails_in_training)
    found = find_mode(EXTERNAL, [], 0)
    assert found is not None
    assert found.batch_norm == "eval"
    assert found.losses == {"eval": 0.5}
    assert "training mode) it cannot be tried" in found.sentence()


def test_batch_norm_of_features_is_tried_in_training_mode_too() -> None:
    """It has one value a channel and image, so of one image alone there are no statistics."""
    model = ExternalModel("external_nets:normed_features", 32).open("train")
    assert model(torch.rand(3, 3, 32, 32)).shape == (3, 2)


def test_dropout_is_told() -> None:
    assert "has dropout (6)" in remarks(EXTERNAL)[0]
    assert len(remarks(EXTERNAL)) == 1  # and nothing that is not known
    assert remarks(ExternalModel("external_nets:Net", 32)) == []
    assert "acts otherwise in training mode" in remarks(ExternalModel("external_nets:functional_dropout", 32))[0]


@pytest.mark.parametrize(
    ("model", "loss", "trained"),
    [
        ("one_logit", None, lambda z, y: F.binary_cross_entropy_with_logits(z[:, 0], y.float())),
        (
            "one_logit",
            "torch.nn:BCEWithLogitsLoss",
            lambda z, y: F.binary_cross_entropy_with_logits(z[:, 0], y.float()),
        ),
        ("one_probability", "torch.nn:BCELoss", lambda z, y: F.binary_cross_entropy(z.sigmoid()[:, 0], y.float())),
    ],
)
def test_a_user_of_a_binary_model_is_seen(model: str, loss: str | None, trained) -> None:  # type: ignore[no-untyped-def]
    external = ExternalModel(f"external_nets:{model}", 32, loss)
    with one_thread():
        seen = observed(one_logit(), 2, trained)
        if model == "one_probability":
            seen = replace(
                seen,
                parameters={f"0.{name}": value for name, value in seen.parameters.items()},
                gradient={f"0.{name}": value for name, value in seen.gradient.items()},
            )
        assert int(similarities(external, seen).argmax()) == 2


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("Several", r"returns a tuple for two images, not logits"),
        ("fused", r"layer '2\.0' \(Fused\) has no second derivative"),
        ("Random", r"another gradient in '.*' each time it sees the same images"),
        ("Rounded", r"has no second derivative \(it is zero all over\)"),
        ("all_frozen", r"no parameter that is trained"),
        ("detached", r"a gradient of zeros"),
    ],
)
def test_what_cannot_be_attacked_is_refused_before_training(model: str, said: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    import external_nets

    factory = getattr(external_nets, model)
    with pytest.raises(ConfigError, match=said):
        AuditedStrategy(FedAvg(), ExternalModel.of(factory, 32), LocalTraining(1, 0, 0.1), tmp_path / "run")
    assert not (tmp_path / "run").exists()
