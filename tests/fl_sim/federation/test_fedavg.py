"""Laws of several local steps: where they equal FedSGD, a hand-written loop, and each other."""

import pytest
import torch
from grids import initial_arrays
from tiny_faces import model_of, open_tiny, tiny_config
from torch.nn import functional

from attacker.capture.store import CaptureStore
from attacker.observation import LocalTraining
from clients.local_training import local_gradient, local_update
from experiments.plan.setup import prepare
from experiments.run.federation import run_federation
from fl_sim import models, seeds
from fl_sim.config import ConfigError, Federation
from fl_sim.models import normalise
from fl_sim.runs import RunFolder

USER = 2  # has four photos


@pytest.fixture
def faces():
    config = tiny_config()
    return open_tiny(config.dataset, config.seed).user(USER).private


@pytest.fixture
def model():
    return models.build("convnet", 2, 32, seeds.generator(0, "model"))


def sum_of_steps(model, faces, **section):
    return local_update(model, faces, Federation(**section), seeds.generator(0, "shuffle"))


def sgd(model, batches, rate):
    """Plain SGD in place over the batches: (w - w_end) / rate."""
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    for photos, labels in batches:
        loss = functional.cross_entropy(model(normalise(photos)), labels)
        slopes = torch.autograd.grad(loss, list(model.parameters()))
        for parameter, slope in zip(model.parameters(), slopes, strict=True):
            parameter.data -= rate * slope
    return {name: (start[name] - value.detach()) / rate for name, value in model.named_parameters()}


def same(left, right):
    return list(left) == list(right) and all(torch.equal(left[name], right[name]) for name in left)


def close(left, right, tolerance):
    assert list(left) == list(right)
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], rtol=0, atol=tolerance)


def captured(folder, **sections):
    """What the store holds of `USER` in round 1 of a run."""
    config, run = tiny_config(**sections), RunFolder(folder)
    run_federation(prepare(config), run)
    return CaptureStore(run).observation(1, USER)


def test_one_epoch_over_one_batch_is_fedsgd_bit_for_bit(model, faces):
    assert same(sum_of_steps(model, faces), local_gradient(model, faces))


def test_full_batch_epochs_are_a_loop_of_sgd_steps(model, faces):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    update = sum_of_steps(model, faces, local_epochs=3, learning_rate=0.5)
    assert same(before, model.state_dict())  # the caller's model does not move
    close(update, sgd(model, [(faces.photos, faces.labels)] * 3, 0.5), 1e-6)
    assert not torch.allclose(update["0.weight"], 3 * local_gradient(model, faces)["0.weight"], atol=1e-5)


def test_every_epoch_takes_each_photo_once_in_an_order_of_its_own(model, faces):
    draws = seeds.generator(0, "shuffle")
    orders = [torch.randperm(4, generator=draws) for _ in range(2)]
    batches = [(faces.photos[part], faces.labels[part]) for order in orders for part in order.split(3)]  # 3 + 1 photos
    update = sum_of_steps(model, faces, local_epochs=2, batch_size=3, learning_rate=0.5)
    close(update, sgd(model, batches, 0.5), 1e-6)


def test_the_order_of_the_photos_is_another_for_every_user_and_round_and_the_same_on_a_second_run(tmp_path):
    runs = [RunFolder(tmp_path / name) for name in ("first", "second")]
    for run in runs:
        run_federation(prepare(tiny_config(federation={"batch_size": 1, "learning_rate": 1e-9, "rounds": 2})), run)
    first, second = (CaptureStore(run) for run in runs)
    for server_round in (1, 2):
        assert same(first.observation(server_round, USER).gradient, second.observation(server_round, USER).gradient)
    # At a vanishing rate only the order of summation can tell two rounds apart.
    assert not same(first.observation(1, USER).gradient, first.observation(2, USER).gradient)


def test_weights_and_pseudo_gradients_tell_the_attacker_the_same(tmp_path):
    federation = {"local_epochs": 3, "batch_size": 2, "learning_rate": 0.5, "rounds": 1}
    seen = [
        captured(tmp_path / update, federation={**federation, "update": update}) for update in ("gradient", "weights")
    ]
    close(seen[0].gradient, seen[1].gradient, 1e-6)  # a weight of size up to 1 rounds at 6e-8, over the rate 0.5
    assert seen[0].local == seen[1].local == LocalTraining(epochs=3, batch_size=2, learning_rate=0.5)


def test_the_captured_update_of_several_steps_is_what_the_user_computes(tmp_path):
    federation = {"local_epochs": 2, "batch_size": 3}
    config = tiny_config(federation=federation)
    seen = captured(tmp_path, federation=federation)
    model = model_of(config)
    model.load_state_dict(dict(initial_arrays(config).to_torch_state_dict()))
    user = open_tiny(config.dataset, config.seed).user(USER)
    expected = local_update(model, user.private, config.federation, seeds.generator(config.seed, "local", 1, USER))
    assert same(seen.gradient, expected)


def test_the_server_steps_to_the_weighted_mean_of_the_users_weights(tmp_path):
    config = tiny_config(federation={"local_epochs": 2, "batch_size": 1, "rounds": 1, "learning_rate": 0.25})
    run = RunFolder(tmp_path)
    run_federation(prepare(config), run)
    store = CaptureStore(run)
    start, end = store.parameters(1), store.parameters(2)
    seen = [store.observation(1, user) for user in range(4)]
    total = sum(one.num_examples for one in seen)
    for name, value in seen[0].gradient.items():
        ends = [one.num_examples * (start[name] - 0.25 * one.gradient[name]) for one in seen]
        torch.testing.assert_close(end[name], sum(ends) / total, rtol=0, atol=1e-6)
        assert value.abs().sum() > 0


@pytest.mark.parametrize(
    "sections",
    [{}, {"federation": {"local_epochs": 2}, "threat_model": {"local_training": "unknown"}}],
    ids=["one gradient", "not told"],
)
def test_local_training_is_told_only_where_there_is_some_and_the_threat_model_grants_it(sections, tmp_path):
    assert captured(tmp_path, **sections).local is None


def test_mistakes(model):
    with pytest.raises(ConfigError, match="local_epochs"):
        tiny_config(federation={"local_epochs": 0})
    with pytest.raises(ConfigError, match="batch_size"):
        tiny_config(federation={"batch_size": -1})
