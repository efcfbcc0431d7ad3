import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_sim.federation.strategy import FedSGD, weighted_mean

PARAMETERS = {"w": torch.tensor([1.0, 2.0]), "b": torch.tensor([0.5])}
BUFFERS = {"mean": torch.tensor([3.0]), "count": torch.tensor(7)}


class Nodes:
    """As much of a Grid as configure_train needs."""

    def get_node_ids(self):
        return [11, 22, 33]


@pytest.fixture(autouse=True)
def identity():
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1


def reply(user, arrays=None, **metrics):
    request = Message(RecordDict(), dst_node_id=user + 100, message_type="train")
    content = RecordDict({"metrics": MetricRecord({"partition-id": user, **metrics})})
    if arrays is not None:
        content["arrays"] = ArrayRecord(arrays)
    return Message(content, reply_to=request)


def step(strategy, replies):
    strategy.configure_train(1, ArrayRecord({**PARAMETERS, **BUFFERS}), ConfigRecord(), Nodes())
    arrays, _ = strategy.aggregate_train(1, replies)
    return dict(arrays.to_torch_state_dict())


@pytest.mark.parametrize("k", [1, 2, 7, 100])
def test_the_mean_of_k_identical_updates_is_that_update(k):
    update = {"w": torch.rand(50, generator=torch.Generator().manual_seed(k)) - 0.5}
    assert torch.equal(weighted_mean([update] * k, [30] * k)["w"], update["w"])


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 1000), st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=2)),
        min_size=1,
        max_size=20,
    )
)
def test_the_weighted_mean_is_the_formula(pairs):
    weights, values = [weight for weight, _ in pairs], [value for _, value in pairs]
    mean = weighted_mean([{"w": torch.tensor(value)} for value in values], weights)["w"]
    expected = [sum(w * v[i] for w, v in zip(weights, values, strict=True)) / sum(weights) for i in range(2)]
    torch.testing.assert_close(mean, torch.tensor(expected), rtol=1e-6, atol=1e-6)


def test_the_step_is_taken_on_the_parameters_alone():
    gradients = [
        {"w": torch.tensor([1.0, 0.0]), "b": torch.tensor([2.0])},
        {name: 0 * PARAMETERS[name] for name in "wb"},
    ]
    after = step(
        FedSGD(0.1), [reply(0, gradients[0], **{"num-examples": 3}), reply(1, gradients[1], **{"num-examples": 1})]
    )
    torch.testing.assert_close(after["w"], torch.tensor([1 - 0.1 * 0.75, 2.0]))
    torch.testing.assert_close(after["b"], torch.tensor([0.5 - 0.1 * 1.5]))
    assert torch.equal(after["mean"], BUFFERS["mean"])
    assert torch.equal(after["count"], BUFFERS["count"])
    assert list(after) == [*PARAMETERS, *BUFFERS]


def test_weights_and_gradients_make_the_same_step():
    generator = torch.Generator().manual_seed(0)
    gradients = [{"w": torch.randn(2, generator=generator), "b": torch.randn(1, generator=generator)} for _ in range(5)]
    weights = [{name: PARAMETERS[name] - 0.1 * one[name] for name in one} for one in gradients]
    counts = [{"num-examples": n} for n in (1, 5, 2, 30, 4)]
    left = step(FedSGD(0.1), [reply(k, one, **counts[k]) for k, one in enumerate(gradients)])
    right = step(FedSGD(0.1, "weights"), [reply(k, one, **counts[k]) for k, one in enumerate(weights)])
    assert all(torch.allclose(left[name], right[name], atol=1e-7) for name in left)


def test_the_order_of_replies_does_not_matter_bit_for_bit():
    generator = torch.Generator().manual_seed(0)
    replies = [
        reply(
            k,
            {"w": torch.randn(2, generator=generator), "b": torch.randn(1, generator=generator)},
            **{"num-examples": k + 1},
        )
        for k in range(20)
    ]
    left, right = step(FedSGD(0.1), replies), step(FedSGD(0.1), replies[::-1])
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_an_empty_round_changes_nothing():
    after = step(FedSGD(0.1), [])
    assert list(after) == [*PARAMETERS, *BUFFERS]
    assert all(torch.equal(after[name], value) for name, value in {**PARAMETERS, **BUFFERS}.items())


def test_every_node_gets_the_model_and_the_round():
    messages = list(FedSGD(0.1).configure_train(4, ArrayRecord(PARAMETERS), ConfigRecord(), Nodes()))
    assert [message.metadata.dst_node_id for message in messages] == [11, 22, 33]
    assert all(message.content.config_records["config"]["server-round"] == 4 for message in messages)


def test_accuracy_and_loss_are_over_photos_not_over_users():
    replies = [
        reply(0, **{"num-examples": 1, "correct": 1, "loss": 4.0}),
        reply(1, **{"num-examples": 3, "correct": 0, "loss": 0.0}),
    ]
    metrics = FedSGD(0.1).aggregate_evaluate(1, replies)
    assert (metrics["accuracy"], metrics["loss"], metrics["num-examples"]) == (0.25, 1.0, 4)
    assert FedSGD(0.1).aggregate_evaluate(1, []) is None
    assert FedSGD(0.1).aggregate_evaluate(1, [reply(0, **{"num-examples": 0, "correct": 0, "loss": 0.0})]) is None
