import math
from dataclasses import replace

import pytest
import torch
from flwr.app import Array, ArrayRecord, Error, Message
from flwr.serverapp.strategy import FedAvg
from grids import ShuffledGrid, initial_arrays, train
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_faces import model_of, open_tiny, tiny_config

from attacker.capture.plugin import MaliciousServer
from attacker.capture.reply_checks import ReplySchema
from attacker.capture.store import CaptureStore
from clients.local_training import local_gradient
from fl_sim.federation.strategy import FedSGD
from fl_sim.runs import RunFolder
from fl_sim.threads import one_thread
from fl_sim.updates import apply_gradient


def parameter_names(config):
    return [name for name, _ in model_of(config).named_parameters()]


def wrapped(inner, config, folder):
    """The plugin around `inner`, and its store."""
    store, section = CaptureStore(RunFolder(folder)), config.federation
    schema = ReplySchema(parameter_names(config), section.update, section.learning_rate, section.max_norm)
    return MaliciousServer(inner, store, schema, 60), store


def fed_sgd(config):
    return FedSGD(config.federation.learning_rate, config.federation.update)


def fed_avg():
    return FedAvg(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)


def recomputed(config, parameters, user):
    model = model_of(config)
    model.load_state_dict(parameters)
    with one_thread():
        return local_gradient(model, open_tiny(config.dataset, config.seed).user(user).private)


def same(left, right):
    return list(left) == list(right) and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("model", ["mlp", "convnet"])
def test_the_captured_update_is_the_users_gradient_bit_for_bit(model, tmp_path):
    config = tiny_config(model={"name": model})
    plugin, store = wrapped(fed_sgd(config), config, tmp_path)
    final = train(plugin, config)
    store.wait()
    assert store.finished_rounds() == [1, 2]
    for server_round in (1, 2):
        assert store.users(server_round) == [0, 1, 2, 3]
        for user in store.users(server_round):
            seen = store.observation(server_round, user)
            assert same(seen.gradient, recomputed(config, seen.parameters, user))
            assert list(seen.gradient) == parameter_names(config)
            assert seen.num_examples == 2 + user % 3
            assert seen.label_proportions is None
    assert same(store.parameters(1), dict(initial_arrays(config).to_torch_state_dict()))
    assert not same(store.parameters(1), store.parameters(2))
    assert same(store.parameters(3), dict(final.to_torch_state_dict()))


def test_weights_give_the_gradient_back(tmp_path):
    config = tiny_config(federation={"update": "weights", "learning_rate": 0.5})
    plugin, store = wrapped(fed_sgd(config), config, tmp_path)
    train(plugin, config)
    store.wait()
    for user in store.users(2):
        seen = store.observation(2, user)
        gradient = recomputed(config, seen.parameters, user)
        for name, value in gradient.items():
            # A float32 weight of size up to 1 rounds at 6e-8; over the rate 0.5 that is about 1e-7.
            torch.testing.assert_close(seen.gradient[name], value, rtol=0, atol=3e-7)
        weights = apply_gradient(seen.parameters, gradient, 0.5)
        assert all(torch.allclose(apply_gradient(seen.parameters, seen.gradient, 0.5)[n], weights[n]) for n in weights)


@pytest.mark.parametrize(("strategy", "update"), [("FedSGD", "gradient"), ("FedSGD", "weights"), ("FedAvg", "weights")])
def test_training_with_and_without_the_plugin_ends_in_the_same_parameters(strategy, update, tmp_path):
    config = tiny_config(federation={"update": update, "rounds": 3})
    inner = (lambda: fed_sgd(config)) if strategy == "FedSGD" else fed_avg
    plain = train(inner(), config, ShuffledGrid(config))
    plugin, store = wrapped(inner(), config, tmp_path)
    watched = train(plugin, config, ShuffledGrid(config))
    store.wait()
    # FedAvg adds floats in the order of arrival, which the plugin's QUERY shifts; there the sums agree to rounding.
    left, right = dict(plain.to_torch_state_dict()), dict(watched.to_torch_state_dict())
    if strategy == "FedSGD":
        assert same(left, right)
    else:
        assert all(torch.allclose(left[name], right[name], rtol=1e-5, atol=1e-7) for name in left)
    assert [len(store.users(server_round)) for server_round in (1, 2, 3)] == [4, 4, 4]


@pytest.mark.parametrize("seed", range(5))
def test_partition_ids_are_right_under_random_node_ids_and_shuffled_replies(seed, tmp_path):
    config = tiny_config(dataset={"users": 9}, federation={"rounds": 1})
    grid = ShuffledGrid(config, seed)
    plugin, store = wrapped(fed_sgd(config), config, tmp_path)
    train(plugin, config, grid)
    store.wait()
    assert {row["user"]: int(row["node"]) for row in store.replies(1)} == {
        grid.partition_of(node): node for node in grid.get_node_ids()
    }
    for user in range(9):
        seen = store.observation(1, user)
        assert same(seen.gradient, recomputed(config, seen.parameters, user))


def test_the_result_does_not_depend_on_the_order_of_replies():
    config = tiny_config(dataset={"users": 7})
    first, second = (train(fed_sgd(config), config, ShuffledGrid(config, seed)) for seed in (1, 2))
    assert same(dict(first.to_torch_state_dict()), dict(second.to_torch_state_dict()))


def test_label_proportions_come_along_only_where_the_threat_model_grants_them(tmp_path):
    config = tiny_config(threat_model={"labels": "known"}, federation={"rounds": 1})
    plugin, store = wrapped(fed_sgd(config), config, tmp_path)
    train(plugin, config)
    store.wait()
    for user in store.users(1):
        labels = open_tiny(config.dataset, config.seed).user(user).private.labels
        expected = torch.tensor([(labels == 0).float().mean(), (labels == 1).float().mean()])
        torch.testing.assert_close(store.observation(1, user).label_proportions, expected)


# Replies that no honest user sends. Each takes the honest arrays (name -> numpy) and the metrics and spoils them.


def missing_key(arrays, metrics):
    del arrays["2.weight"]


def unknown_key(arrays, metrics):
    arrays["extra"] = arrays["2.weight"]


def wrong_shape(arrays, metrics):
    arrays["2.weight"] = arrays["2.weight"][:-1]


def wrong_dtype(arrays, metrics):
    arrays["2.weight"] = arrays["2.weight"].astype("float64")


def not_a_number(arrays, metrics):
    arrays["2.weight"][0, 0] = math.nan


def infinite(arrays, metrics):
    arrays["2.weight"][0, 0] = math.inf


def absurd_norm(arrays, metrics):
    arrays["2.weight"][0, 0] = 1e30


def no_examples(arrays, metrics):
    metrics["num-examples"] = 0


def no_count(arrays, metrics):
    del metrics["num-examples"]


def fractional_examples(arrays, metrics):
    metrics["num-examples"] = math.nan


def impossible_proportions(arrays, metrics):
    metrics["label-proportions"] = [0.9, 0.9]


REASONS = {
    missing_key: "missing key '2.weight'",
    unknown_key: "unexpected key 'extra'",
    wrong_shape: "has shape (7, 48), expected (8, 48)",
    wrong_dtype: "has dtype torch.float64, expected torch.float32",
    not_a_number: "holds NaN or Inf",
    infinite: "holds NaN or Inf",
    absurd_norm: "exceeds the limit 1e+06",
    no_examples: "num-examples is 0, expected",
    no_count: "num-examples is None, expected",
    fractional_examples: "num-examples is nan, expected",
    impossible_proportions: "label-proportions are not",
}


def spoiling(spoils):
    """A tamper function that spoils the TRAIN replies of the users in `spoils` (user -> spoil)."""

    def tamper(message: Message):
        if message.metadata.message_type == "train":
            metrics = message.content.metric_records["metrics"]
            spoil = spoils.get(metrics["partition-id"])
            if spoil is not None:
                arrays = {name: value.numpy() for name, value in message.content.array_records["arrays"].items()}
                spoil(arrays, metrics)
                message.content["arrays"] = ArrayRecord({name: Array(value) for name, value in arrays.items()})
        return [message]

    return tamper


@settings(max_examples=15, deadline=None)
@given(st.dictionaries(st.integers(0, 3), st.sampled_from(sorted(REASONS, key=str)), max_size=4))
def test_a_spoilt_reply_is_recorded_and_kept_out_and_the_round_goes_on(tmp_path_factory, spoils):
    config = tiny_config(federation={"rounds": 1})
    plugin, store = wrapped(fed_sgd(config), config, tmp_path_factory.mktemp("run"))
    final = dict(train(plugin, config, ShuffledGrid(config, tamper=spoiling(spoils))).to_torch_state_dict())
    store.wait()
    honest = [user for user in range(4) if user not in spoils]
    assert store.users(1) == honest
    assert (plugin.accepted, plugin.rejected) == (len(honest), len(spoils))
    for row in store.rejected():
        assert row["status"] == "rejected"
        assert REASONS[spoils[row["user"]]] in row["reason"]
        assert not store.run.capture(1, row["user"]).exists()
    sent = store.parameters(1)
    if not honest:
        assert same(final, sent)
        return
    gradients = {user: recomputed(config, sent, user) for user in honest}
    counts = {user: 2 + user % 3 for user in honest}
    for name, value in final.items():
        mean = sum(counts[user] * gradients[user][name].double() for user in honest) / sum(counts.values())
        torch.testing.assert_close(value, sent[name] - config.federation.learning_rate * mean.float())


def test_every_reason_of_rejection_is_reached(tmp_path):
    config = tiny_config(dataset={"users": len(REASONS)}, federation={"rounds": 1})
    plugin, store = wrapped(fed_sgd(config), config, tmp_path)
    train(plugin, config, ShuffledGrid(config, tamper=spoiling(dict(enumerate(REASONS)))))
    store.wait()
    assert [REASONS[spoil] in row["reason"] for spoil, row in zip(REASONS, store.rejected(), strict=True)] == [
        True
    ] * len(REASONS)


def test_garbage_for_arrays_is_rejected(tmp_path):
    def tamper(message):
        if message.metadata.message_type == "train":
            record = message.content.array_records["arrays"]
            record["2.bias"] = Array("float32", (8,), "numpy.ndarray", b"no array at all")
        return [message]

    config = tiny_config(federation={"rounds": 1})
    plugin, store = wrapped(fed_sgd(config), config, tmp_path)
    train(plugin, config, ShuffledGrid(config, tamper=tamper))
    store.wait()
    assert ["cannot be decoded" in row["reason"] for row in store.rejected()] == [True] * 4


def test_error_replies_duplicates_and_silence_are_recorded(tmp_path):
    def tamper(message):
        if message.metadata.message_type != "train":
            return [message]
        user = message.content.metric_records["metrics"]["partition-id"]
        error = Message(Error(code=3, reason="out of memory"), reply_to=message)
        # An error reply has the metadata of the reply it replaces: from the node to the server.
        error.metadata.__dict__["_src_node_id"] = message.metadata.src_node_id
        return {0: [error], 1: [message, message], 2: [], 3: [message]}[user]

    config = tiny_config(federation={"rounds": 2})
    plugin, store = wrapped(fed_sgd(config), config, tmp_path)
    train(plugin, config, ShuffledGrid(config, tamper=tamper))
    store.wait()
    for server_round in (1, 2):
        rows = [(row["user"], row["status"], row["reason"]) for row in store.replies(server_round)]
        assert sorted(rows) == [
            (0, "error", "out of memory"),
            (1, "accepted", ""),
            (1, "rejected", "the node has already replied in this round"),
            (2, "error", "no reply in time"),
            (3, "accepted", ""),
        ]
        assert store.users(server_round) == [1, 3]


def test_two_nodes_cannot_speak_for_one_user(tmp_path):
    config = tiny_config(federation={"rounds": 1})
    grid = ShuffledGrid(config)
    for context in grid._contexts.values():
        context.node_config["partition-id"] = min(context.node_config["partition-id"], 2)
    plugin, store = wrapped(fed_sgd(config), config, tmp_path)
    train(plugin, config, grid)
    store.wait()
    assert store.users(1) == [0, 1, 2]
    assert [row["reason"] for row in store.rejected()] == ["user 2 has already replied in this round"]


def test_a_node_that_leaves_the_query_unanswered_is_known_by_its_reply_and_asked_again(tmp_path):
    questions = []

    def tamper(message):
        if message.metadata.message_type == "query":
            questions.append(message.metadata.src_node_id)
            return []
        return [message]

    config = tiny_config(federation={"rounds": 2})
    plugin, store = wrapped(fed_sgd(config), config, tmp_path)
    train(plugin, config, ShuffledGrid(config, tamper=tamper))
    store.wait()
    assert store.users(1) == store.users(2) == [0, 1, 2, 3]
    assert len(questions) == 8
    answered, store = wrapped(fed_sgd(config), config, tmp_path / "answered")
    grid = ShuffledGrid(
        config, tamper=lambda m: questions.append(1) or [m] if m.metadata.message_type == "query" else [m]
    )
    questions.clear()
    train(answered, config, grid)
    store.wait()
    assert len(questions) == 4


def test_a_user_that_does_not_exist_is_not_believed(tmp_path):
    """Its update would be judged against nobody, after the training and all attacks."""

    def tamper(message):
        for metrics in message.content.metric_records.values():
            if metrics.get("partition-id") == 2:
                metrics["partition-id"] = 999
        return [message]

    config = tiny_config(federation={"rounds": 1})
    plugin, store = wrapped(fed_sgd(config), config, tmp_path)
    plugin.schema = replace(plugin.schema, users=config.dataset.users)
    train(plugin, config, ShuffledGrid(config, tamper=tamper))
    store.wait()
    assert store.users(1) == [0, 1, 3]
    said = "the node says that it is user 999, but there are only 4 users, from 0"
    assert [row["reason"] for row in store.rejected()] == [said]
