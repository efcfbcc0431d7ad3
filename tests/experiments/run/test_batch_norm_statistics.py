"""Batch-norm statistics: computed as by hand, sent only where granted, checked, captured, kept from the strategy."""

import pytest
import torch
from flwr.app import ArrayRecord
from grids import ShuffledGrid, train
from tiny_faces import model_of, normed_net, open_tiny, tiny_config
from torch import nn

from attacker.capture.plugin import MaliciousServer
from attacker.capture.reply_checks import ReplySchema
from attacker.capture.store import CaptureStore
from experiments.plan.setup import prepare
from experiments.run.federation import run_federation
from fl_sim.config import ConfigError
from fl_sim.federation.strategy import FedSGD
from fl_sim.models import batch_statistics, normalise, statistics_like
from fl_sim.runs import RunFolder
from fl_sim.updates import apply_gradient


def normed_config(**sections):
    return tiny_config(
        **{"model": {"name": "tiny_faces:normed_net"}, "threat_model": {"batch_norm_statistics": True}, **sections}
    )


def run(folder, config):
    target = RunFolder(folder)
    run_federation(prepare(config), target)
    return CaptureStore(target)


def by_hand(model, photos):
    """Means and variances of what enters the two layers, from their definition."""
    entering, found = model[0](photos * 2 - 1), {}
    for name, following in (("1", model[1:3]), ("3", None)):
        count = entering.numel() // 4
        mean = entering.sum((0, 2, 3)) / count
        found[f"{name}.mean"] = mean
        found[f"{name}.var"] = (entering - mean[:, None, None]).square().sum((0, 2, 3)) / count
        entering = entering if following is None else following(entering)
    return found


def test_the_captured_statistics_are_those_of_all_private_photos(tmp_path):
    config = normed_config(federation={"batch_size": 1, "local_epochs": 2})
    store = run(tmp_path, config)
    model = model_of(config)
    for server_round in (1, 2):
        for user in store.users(server_round):
            seen = store.observation(server_round, user)
            model.load_state_dict(seen.parameters)
            expected = by_hand(model, open_tiny(config.dataset, config.seed).user(user).private.photos)
            assert list(seen.statistics) == list(expected)
            for name, value in expected.items():
                torch.testing.assert_close(seen.statistics[name], value.detach(), rtol=1e-4, atol=1e-6)
            assert list(seen.gradient) == [name for name, _ in model.named_parameters()]


def test_they_say_how_the_photos_would_have_to_change():
    model = normed_net(2, 8).eval()
    photos = torch.rand(3, 3, 8, 8, dtype=torch.float32, requires_grad=True)
    sum(value.sum() for value in batch_statistics(model, normalise(photos)).values()).backward()
    assert photos.grad.abs().sum() > 0
    found = batch_statistics(model, normalise(photos))
    assert {name: value.shape for name, value in found.items()} == {
        name: value.shape for name, value in statistics_like(model).items()
    }
    assert batch_statistics(nn.Flatten(), photos) == statistics_like(nn.Flatten()) == {}
    assert not any(layer._forward_pre_hooks for layer in model)


def test_nothing_else_changes_with_them(tmp_path):
    defenses = [{"name": "clip", "max_norm": 0.1}]
    told = run(tmp_path / "told", normed_config(defenses=defenses))
    not_told = run(tmp_path / "not", normed_config(defenses=defenses, threat_model={}))
    for server_round in (1, 2, 3):
        left, right = told.parameters(server_round), not_told.parameters(server_round)
        assert all(torch.equal(left[name], right[name]) for name in left)
    for user in told.users(2):
        left, right = told.observation(2, user), not_told.observation(2, user)
        assert all(torch.equal(left.gradient[name], right.gradient[name]) for name in left.gradient)
        assert right.statistics is None


def nan(record):
    values = record.to_torch_state_dict()
    values["1.mean"][0] = float("nan")
    return ArrayRecord(values)


def negative(record):
    values = record.to_torch_state_dict()
    values["1.var"][2] = -1e-3
    return ArrayRecord(values)


def fewer(record):
    values = record.to_torch_state_dict()
    return ArrayRecord({name: values[name] for name in ("1.mean", "1.var", "3.mean")})


def other_shape(record):
    return ArrayRecord({name: value[:3] for name, value in record.to_torch_state_dict().items()})


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (nan, "'1.mean' holds NaN or Inf"),
        (negative, "a batch-norm variance is below 0"),
        (fewer, "missing key '3.var'"),
        (other_shape, "'1.mean' has shape (3,), expected (4,)"),
        (None, "missing key '1.mean' and 3 more"),
    ],
)
def test_statistics_that_no_photos_have_are_rejected(spoil, reason, tmp_path):
    config = normed_config(federation={"rounds": 1})

    def tamper(message):
        if "statistics" in message.content and int(message.content["metrics"]["partition-id"]) == 1:
            if spoil is None:
                del message.content["statistics"]
            else:
                message.content["statistics"] = spoil(message.content["statistics"])
        return [message]

    store = train_watched(config, tmp_path, statistics_like(model_of(config)), tamper)
    assert [(row["user"], row["reason"]) for row in store.rejected()] == [(1, reason)]
    assert store.users(1) == [0, 2, 3]


def test_statistics_that_were_not_asked_for_are_rejected(tmp_path):
    store = train_watched(normed_config(federation={"rounds": 1}), tmp_path, {})
    assert {row["reason"] for row in store.rejected()} == {"the reply holds 2 array records, expected 1"}
    assert store.users(1) == []


def train_watched(config, folder, statistics, tamper=lambda message: [message]):
    """The store after a federation whose strategy sees one array record a reply, or fails."""
    section, names = (
        config.federation,
        [name for name, _ in model_of(config).named_parameters()],
    )

    class OneRecord(FedSGD):
        def aggregate_train(self, server_round, replies):
            replies = list(replies)
            assert all(len(reply.content.array_records) == 1 for reply in replies)
            return super().aggregate_train(server_round, replies)

    store = CaptureStore(RunFolder(folder))
    inner = OneRecord(section.learning_rate, section.update)
    schema = ReplySchema(names, section.update, section.learning_rate, section.max_norm, statistics=statistics)
    plugin = MaliciousServer(inner, store, schema, 60)
    train(plugin, config, ShuffledGrid(config, tamper=tamper))
    store.wait()
    return store


def test_a_model_without_batch_norm_has_none_to_send(tmp_path):
    with pytest.raises(ConfigError, match=r"batch_norm_statistics is set, but model 'mlp' has no batch norm"):
        run_federation(prepare(normed_config(model={"name": "mlp"})), RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_weights_carry_them_too(tmp_path):
    store = run(tmp_path, normed_config(federation={"update": "weights", "rounds": 1}))
    seen = store.observation(1, 0)
    assert set(seen.statistics) == {"1.mean", "1.var", "3.mean", "3.var"}
    assert set(apply_gradient(seen.parameters, seen.gradient, 0.1)) == set(seen.gradient)
