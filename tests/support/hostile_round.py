"""One round with four users whose replies are given: what must hold, whatever they are.

A reply is described by a `Reply`, which anything that draws (hypothesis, a fuzzer) can fill.
"""

import io
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from attacker.capture.plugin import MaliciousServer
from attacker.capture.reply_checks import ReplySchema
from attacker.capture.store import CaptureStore
from fl_sim.engines.inprocess import InProcessGrid
from fl_sim.federation.strategy import FedSGD, weighted_mean
from fl_sim.runs import RunFolder

USERS = 4
ROUND = 3  # so that there are earlier ones to be replayed
RATE = 0.5
MODEL = {"w": torch.ones(2, 3), "b": torch.zeros(2)}


@dataclass
class Reply:
    """The n-th user's reply to TRAIN or EVALUATE, honest but for what is given."""

    user: int = 0
    arrays: dict[str, Array] | None = None  # None: honest ones
    metrics: dict[str, Any] = field(default_factory=dict)  # in the place of honest ones; None: left out
    array_record: str = "arrays"
    metric_record: str = "metrics"
    more: tuple[str, ...] = ()  # names of further records, as the one of arrays and that of metrics
    node: int | None = None  # None: that of the user
    created_at: Any = None  # None: now
    error: str | None = None


def npy(value: Any) -> Array:
    return Array(np.asarray(value))


def raw(data: bytes, dtype: str = "float32", shape: tuple[int, ...] = (2,)) -> Array:
    """An array whose bytes are whatever they are."""
    return Array(dtype, shape, "numpy.ndarray", data)


def npy_bytes(header: str, data: bytes = b"") -> bytes:
    """A .npy file of version 1.0 with any text for a header."""
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def honest(user: int) -> dict[str, Array]:
    return {name: npy(np.full(tuple(value.shape), user + 1.0, np.float32)) for name, value in MODEL.items()}


def play(folder: Path, replies: list[Reply], evaluations: list[Reply]) -> list[dict[str, Any]]:
    """Let the server go through the round with exactly these replies; the index rows of the round.

    Asserts that nothing is raised, everything is recorded, and only what fits the model has been averaged.
    """
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        known = MetricRecord({"partition-id": context.node_config["partition-id"]})
        return Message(RecordDict({"metrics": known}), reply_to=message)

    store = CaptureStore(RunFolder(folder))
    server = MaliciousServer(FedSGD(RATE), store, ReplySchema(list(MODEL), "gradient", RATE, 1e6, num_classes=2), 60)
    grid = InProcessGrid(app, USERS)
    arrays = ArrayRecord(MODEL)
    requests = list(server.configure_train(ROUND, arrays, ConfigRecord(), grid))
    received = [_message(requests[reply.user], reply, _train_metrics(reply.user)) for reply in replies]
    ended, _ = server.aggregate_train(ROUND, received)
    store.wait()
    questions = list(server.configure_evaluate(ROUND, arrays, ConfigRecord(), grid))
    told = [_message(questions[reply.user], reply, _evaluation(reply.user)) for reply in evaluations]
    result = server.aggregate_evaluate(ROUND, told)
    assert result is None or 0 <= result["accuracy"] <= 1

    lines = (store.run.captures / "index.jsonl").read_bytes().splitlines()
    rows = [json.loads(line, parse_constant=_no_constant) for line in lines][:-1]  # the last is the end mark
    assert store.finished_rounds() == [ROUND]
    silent = USERS - len({request.metadata.dst_node_id for request in requests} & {_node(m) for m in received})
    assert len(rows) == len(replies) + silent
    assert (server.accepted, server.rejected) == (len(store.users(ROUND)), len(rows) - len(store.users(ROUND)))
    assert all("\n" not in row["reason"] and len(row["reason"]) <= 300 for row in rows)
    assert all(row["reason"] for row in rows if row["status"] != "accepted")
    _only_sound_updates(store, {name: value.clone() for name, value in ended.to_torch_state_dict().items()})
    return rows


def _only_sound_updates(store: CaptureStore, ended: dict[str, torch.Tensor]) -> None:
    """The new model is the old one less the weighted mean of what was accepted, and finite."""
    seen = [store.observation(ROUND, user) for user in store.users(ROUND)]
    for one in seen:
        assert one.user < USERS
        assert {name: value.shape for name, value in one.gradient.items()} == {n: v.shape for n, v in MODEL.items()}
        assert all(bool(torch.isfinite(value).all()) for value in one.gradient.values())
    mean = weighted_mean([one.gradient for one in seen], [one.num_examples for one in seen]) if seen else {}
    for name, value in MODEL.items():
        torch.testing.assert_close(ended[name], value - RATE * mean[name] if seen else value)


def _message(request: Message, reply: Reply, metrics: dict[str, Any]) -> Message:
    request.metadata.__dict__["_message_id"] = "1"
    if reply.error is not None:
        message = Message(Error(code=1, reason=reply.error), reply_to=request)
    else:
        chosen = {key: value for key, value in {**metrics, **reply.metrics}.items() if value is not None}
        content = RecordDict()
        for name in (reply.array_record, *reply.more):
            content[name] = ArrayRecord(honest(reply.user) if reply.arrays is None else reply.arrays)
        content[reply.metric_record] = MetricRecord(chosen)
        message = Message(content, reply_to=request)
    if reply.node is not None:
        message.metadata.__dict__["_src_node_id"] = reply.node
    if reply.created_at is not None:
        message.metadata.__dict__["_created_at"] = reply.created_at
    return message


def _train_metrics(user: int) -> dict[str, Any]:
    return {"num-examples": 5 + user, "partition-id": user, "server-round": ROUND}


def _evaluation(user: int) -> dict[str, Any]:
    return {"num-examples": 4, "correct": 3, "loss": 0.5, "partition-id": user}


def _node(message: Message) -> int:
    return message.metadata.src_node_id


def _no_constant(text: str) -> None:
    raise AssertionError(f"{text} is no JSON")


def buffer(value: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, value, allow_pickle=False)
    return file.getvalue()


SPECIAL = (0.0, -0.0, 1.0, 1e38, -3e38, 1e-45, math.nan, math.inf, -math.inf)
