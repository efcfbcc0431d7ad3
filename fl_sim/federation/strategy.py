"""FedSGD as a Flower strategy: one gradient a user and round, one server step on their weighted mean.

    w <- w - lr * sum_k (n_k / n) g_k            (McMahan et al. 2017, FedSGD)

Users that reply with weights w - lr * g_k are averaged the same way, which is the same step. Users that take
several local steps of rate lr make it FedAvg by the same arithmetic: g_k is then the sum of their steps' gradients.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fl_sim.federation.replies import MOST
from fl_sim.updates import Update, apply_gradient


class FedSGD(Strategy):
    """All users every round; buffers of the model stay as they are.

    The result does not depend on the order of the replies: they are summed by partition id. A round
    without a usable reply changes nothing. Under differential privacy: fl_sim.federation.private_sgd.
    """

    def __init__(self, learning_rate: float, update: Literal["gradient", "weights"] = "gradient") -> None:
        self.learning_rate = learning_rate
        self.update = update
        self._sent = ArrayRecord()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._sent = arrays
        return _to_all(MessageType.TRAIN, server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        contents = _in_order(replies)
        if not contents:
            return self._sent, None
        examples = [_number(metrics, "num-examples") for _, metrics in contents]
        parameters: Update = dict(self._sent.to_torch_state_dict())
        # Decoded one by one: together they take as much memory again as the replies.
        mean = weighted_mean((arrays.to_torch_state_dict() for arrays, _ in contents), examples)
        step = mean if self.update == "weights" else apply_gradient(parameters, mean, self.learning_rate)
        return ArrayRecord({**parameters, **step}), MetricRecord({"num-examples": sum(examples)})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return _to_all(MessageType.EVALUATE, server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Accuracy in [0, 1] and mean loss over all held-out photos of all users; None without photos.

        A reply that no honest user sends is left out, which `num-examples` shows. A loss may be NaN or infinite:
        that of a model which has diverged.
        """
        nodes = {reply.metadata.src_node_id: reply for reply in reversed(list(replies))}  # the first of a node counts
        metrics = [metrics for _, metrics in _in_order(reply for reply in nodes.values() if _evaluated(reply))]
        examples = [_number(metric, "num-examples") for metric in metrics]
        if sum(examples) == 0:
            return None
        correct = sum(_number(metric, "correct") for metric in metrics)
        loss = sum(n * float(_number(metric, "loss")) for n, metric in zip(examples, metrics, strict=True))
        return MetricRecord(
            {"accuracy": correct / sum(examples), "loss": loss / sum(examples), "num-examples": sum(examples)}
        )

    def summary(self) -> None:
        """Nothing to log: the run's config is in its folder."""


def weighted_mean(updates: Iterable[Mapping[str, Tensor]], weights: Sequence[float]) -> Update:
    """sum_k weights_k * update_k / sum_k weights_k, by name, in the order given.

    Summed in double precision: the mean of any number of identical updates is that update.
    """
    sums: Update = {}
    for update, weight in zip(updates, weights, strict=True):
        for name, value in update.items():
            if name not in sums:
                sums[name] = torch.zeros_like(value, dtype=torch.float64)
            sums[name].add_(value, alpha=weight)
    return {name: (value / sum(weights)).to(update[name].dtype) for name, value in sums.items()}


def _to_all(kind: str, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
    config["server-round"] = server_round
    content = RecordDict({"arrays": arrays, "config": config})
    return [Message(content, dst_node_id=node, message_type=kind) for node in grid.get_node_ids()]


def _in_order(replies: Iterable[Message]) -> list[tuple[ArrayRecord, MetricRecord]]:
    """Arrays and metrics of the replies that are no errors, by partition id: floats add up in a fixed order."""
    contents = [reply.content for reply in replies if reply.has_content()]
    pairs = [(c.array_records.get("arrays", ArrayRecord()), _metrics(c)) for c in contents]
    return sorted(pairs, key=lambda pair: _number(pair[1], "partition-id"))


def _evaluated(reply: Message) -> bool:
    """Whether a reply to EVALUATE says what one must: whole numbers of photos, of which some are right, and a loss."""
    if not reply.has_content() or len(reply.content.metric_records) != 1:
        return False
    wanted = ("partition-id", "num-examples", "correct", "loss")
    user, examples, correct, loss = (_metrics(reply.content).get(key) for key in wanted)
    whole = isinstance(user, int) and isinstance(examples, int) and isinstance(correct, int)
    return whole and 0 <= correct <= examples < MOST and isinstance(loss, float)  # type: ignore[operator]


def _metrics(content: RecordDict) -> MetricRecord:
    """The one metric record of a reply, by whatever name."""
    return next(iter(content.metric_records.values()))


def _number(metrics: MetricRecord, key: str) -> Any:
    return metrics[key]
