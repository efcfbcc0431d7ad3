"""What Flower's privacy mechanisms and averages do, run as they are: the figures of the table in docs/protocol.md.

    python -m experiments.benchmarks.flower_mechanisms          # seconds; no network, no GPU

Ten clients, a model of a few numbers, messages made by hand: nothing of this project takes part, so the same file says
what another version of Flower does.
"""

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from typing import Any

import numpy as np
from dp_accounting import get_epsilon_gaussian
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from flwr.serverapp import strategy as flower
from flwr.supercore.task_identity import TaskIdentity

CLIENTS, BOUND, DELTA = 10, 1.0, 1e-5
ANYBODY: dict[str, Any] = {"min_available_nodes": 1, "min_train_nodes": 1}


class Nodes:
    """As much of a Grid as strategies need to choose clients."""

    def get_node_ids(self) -> Iterable[int]:
        return range(100, 100 + CLIENTS)


def arrays(dtype: Any = np.float32, **values: Any) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(value, dtype=dtype)) for name, value in values.items()})


def reply(client: int, content: ArrayRecord | None, examples: int = 1, **metrics: int) -> Message:
    """A reply to TRAIN; an error without `content`."""
    request = Message(RecordDict(), dst_node_id=100 + client, message_type="train")
    if content is None:
        return Message(Error(code=2, reason="gone"), reply_to=request)
    record = MetricRecord({"num-examples": examples, **metrics})
    return Message(RecordDict({"arrays": content, "metrics": record}), reply_to=request)


def step(strategy: Any, replies: Iterable[Message], model: ArrayRecord | None = None) -> dict[str, Any]:
    """The arrays after one round of `strategy`, from zeros or `model`; none after a void one."""
    list(strategy.configure_train(1, model or arrays(w=[0, 0]), ConfigRecord(), Nodes()))
    result, _ = strategy.aggregate_train(1, list(replies))
    return {name: array.numpy() for name, array in (result or {}).items()}


def central(bound: float = BOUND) -> Any:
    return flower.DifferentialPrivacyServerSideFixedClipping(flower.FedAvg(**ANYBODY), 0.0, bound, CLIENTS)


def epsilon(moved: float) -> float:
    """Of one round with noise_multiplier 1, where one client moves the mean by `moved`."""
    return float(get_epsilon_gaussian(BOUND / CLIENTS / moved, DELTA))


def others(count: int, value: float = -BOUND) -> list[Message]:
    return [reply(client, arrays(w=[value, 0])) for client in range(1, count)]


def moved(count: int, examples: int = 1, value: float = -BOUND) -> float:
    """How far the mean of `count` replies is from that without the first of them."""
    with_it = step(central(), [reply(0, arrays(w=[BOUND, 0]), examples), *others(count, value)])
    without = step(central(), others(count, value))
    return abs(float(with_it["w"][0] - without["w"][0]))


def sensitivity() -> Iterator[tuple[str, str]]:
    promised = BOUND / CLIENTS
    yield "epsilon promised (noise multiplier 1, delta 1e-5)", f"{epsilon(promised):.3g}"
    for count in (CLIENTS, CLIENTS // 2):
        yield (
            f"{count} of 10 reply, one more or less",
            f"{moved(count) / promised:.3g} C/n: {epsilon(moved(count)):.3g}",
        )
    heavy = moved(CLIENTS, 100, value=-1e-9)
    yield "one client with 100 of 109 examples", f"{heavy / promised:.3g} C/n: {epsilon(heavy):.3g}"
    void = step(central(), [reply(0, None), *others(CLIENTS)])
    yield "an error among 10 replies", "the round counts" if void else "the round is void"


def pairing() -> Iterator[tuple[str, str]]:
    model, same = arrays(a=[1, 1], b=[5, 5]), {"b": [5, 5], "a": [1, 1]}  # the same model, in another order
    after = step(central(), [reply(client, arrays(**same)) for client in range(CLIENTS)], model)
    yield "nothing moved, arrays in another order: a = 1, b = 5 become", f"{after['a'][0]:.3g}, {after['b'][0]:.3g}"


def adaptive() -> Iterator[tuple[str, str]]:
    norms = [0.02 * 1.3**client for client in range(CLIENTS)]
    by_server = flower.DifferentialPrivacyServerSideAdaptiveClipping
    by_clients = flower.DifferentialPrivacyClientSideAdaptiveClipping
    for name, kind in (("server", by_server), ("client", by_clients)):
        for start in (1e-3, 10.0):
            private: Any = kind(flower.FedAvg(**ANYBODY), 0.0, CLIENTS, start)
            for _ in range(100):
                bound = private.clipping_norm if kind is by_clients else math.inf
                clipped = [(min(size, bound), int(size > bound)) for size in norms]
                step(private, [reply(k, arrays(w=[size, 0]), norm_bit=bit) for k, (size, bit) in enumerate(clipped)])
            what = f"{name}-side adaptive bound from {start:g}, median norm 0.06, 100 rounds"
            yield what, f"{private.clipping_norm:.2g}"


def local() -> Iterator[tuple[str, str]]:
    for asked in (1, 20, 100, 1000):
        deviation = 2 * BOUND * math.sqrt(2 * math.log(1.25 / DELTA)) / asked
        yield f"LocalDpMod asked for {asked}", f"{get_epsilon_gaussian(deviation / (2 * BOUND), DELTA):.3g}"
    found = through(LocalDpMod(BOUND, 2 * BOUND, 1.0, DELTA), arrays(s=0, w=[0, 0]), arrays(s=9, w=[0, 0]))
    yield "a 0-dimensional parameter of 9 becomes", f"{float(found['s']):.3g}"
    evaluate = Message(RecordDict({"arrays": arrays(w=[0])}), dst_node_id=100, message_type="evaluate")
    content = RecordDict({"metrics": MetricRecord({"loss": 1.0})})
    mod = LocalDpMod(BOUND, 2 * BOUND, 1.0, DELTA)
    answer = mod(evaluate, context(), lambda message, context: Message(content, reply_to=message))
    yield "LocalDpMod on the app: a reply to EVALUATE", "an error" if answer.has_error() else "goes through"


def clipping() -> Iterator[tuple[str, str]]:
    sent = ArrayRecord({**arrays(w=[0, 0]), **arrays(np.int64, num_batches_tracked=0)})
    back = ArrayRecord({**arrays(w=[0.1, 0]), **arrays(np.int64, num_batches_tracked=40)})
    found = through(fixedclipping_mod, sent, back)
    yield "a change of 0.1 clipped to 1, beside 40 batches tracked", f"{float(found['w'][0]):.2g}"
    try:
        through(fixedclipping_mod, arrays(w=[0, 0]), arrays(w=[0, 0]))
        yield "a change of zero", "stays zero"
    except ZeroDivisionError as error:
        yield "a change of zero", type(error).__name__


def averages() -> Iterator[tuple[str, str]]:
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float16)
    found = step(flower.FedAvg(**ANYBODY), [reply(k, arrays(np.float16, w=values)) for k in range(1000)])
    off = np.abs(found["w"].astype(float) - values) / np.abs(values)
    yield (
        "FedAvg of 1,000 equal float16 replies: relative error, median and largest",
        f"{np.median(off):.2f}, {off.max():.2f}",
    )
    for kind in (flower.FedAdam, flower.FedAvgM):
        yield f"{kind.__name__} over a running variance of 1 that falls to 0.01: negative after", negative(kind)


def negative(kind: Callable[..., Any]) -> str:
    momentum = {"server_momentum": 0.9} if kind is flower.FedAvgM else {}
    strategy, variance = kind(**ANYBODY, **momentum), 1.0
    for server_round in range(1, 61):
        closer = arrays(running_var=[0.5 * variance + 0.5 * 0.01])
        found = step(strategy, [reply(0, closer), reply(1, closer)], arrays(running_var=[variance]))
        variance = float(found["running_var"][0])
        if variance < 0:
            return f"{server_round} rounds"
    return "not in 60 rounds"


def context() -> Context:
    return Context(run_id=1, node_id=100, node_config={}, state=RecordDict(), run_config={})


def through(mod: Any, sent: ArrayRecord, back: ArrayRecord) -> dict[str, Any]:
    """What leaves a client that was sent `sent` and answers `back`, with `mod` around it."""
    config = ConfigRecord({"clipping_norm": BOUND})
    message = Message(RecordDict({"arrays": sent, "config": config}), dst_node_id=100, message_type="train")
    content = RecordDict({"arrays": back, "metrics": MetricRecord({"num-examples": 1})})
    answer = mod(message, context(), lambda message, context: Message(content, reply_to=message))
    return {name: array.numpy() for name, array in answer.content["arrays"].items()}


def lines() -> list[str]:
    """What was found, a line each."""
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parts = (sensitivity, pairing, adaptive, local, clipping, averages)
            return [f"{what:75} {found}" for part in parts for what, found in part()]
    finally:
        logging.disable(logging.NOTSET)


def main() -> None:
    print(f"flwr {version('flwr')}", *lines(), sep="\n")


if __name__ == "__main__":
    main()
