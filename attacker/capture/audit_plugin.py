"""The malicious server around the strategy of somebody else's app, where it only watches.

Every reply reaches the app's strategy as it came, nobody is asked anything, and nothing that goes wrong here reaches
the app: it is logged, and `fl-sim audit` tells what was not captured, and why.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from attacker.capture.reply_checks import Refused
from attacker.capture.store import Capture, CaptureStore
from attacker.capture.watched_replies import EXAMPLES, fit, partition, photos, read_weights
from attacker.capture.wrapping import Wrapping
from attacker.external.external_model import ExternalModel
from attacker.observation import LocalTraining
from fl_sim.config import ConfigError
from fl_sim.federation.replies import in_one_line, last_line, seconds_since, size_of
from fl_sim.state_dicts import ModelTensors, in_short
from fl_sim.updates import Update

logger = logging.getLogger("flwr")  # the app's own log, where somebody looks


class Watcher(Wrapping):
    """`inner`, with every reply captured into `store`.

    While `start` runs, it stands in the place of two methods of `inner`: Flower's loop and a loop of the app's own, in
    an overridden `start`, both come by. All else is `inner`'s. A user is known by the `partition-id` in the metrics of
    its first reply, else numbered as its node first replies.
    """

    def __init__(self, inner: Strategy, store: CaptureStore, watched: ExternalModel, local: LocalTraining) -> None:
        self.inner, self.store, self.local = inner, store, local
        self._watched = watched
        self._model, self._fixed = _opened(watched)
        self._configure, self._aggregate = inner.configure_train, inner.aggregate_train
        self._weight = _weight(inner)
        self._users: dict[int, int] = {}  # node id -> user
        self._parameters: Update = dict(self._model.state)  # the global model, as far as it was seen
        self._arrays = ArrayRecord()  # what it was read from
        self._record = ""  # name of the array record that users are sent
        self._requests: dict[int, float] = {}  # node id -> time at which this round's request was made
        self._unlike: set[int] = set()  # nodes that were sent another model than the first
        self._unread = "the round was not configured"  # why what was sent this round cannot be read; empty: it can
        self._notes: tuple[str, ...] = ()  # what had to be assumed of what was sent

    def __getattr__(self, name: str) -> Any:
        """What the app's strategy has beyond Flower's interface, for the app."""
        if name.startswith("__") or "inner" not in vars(self):
            raise AttributeError(name)
        return getattr(self.inner, name)

    def initialize_parameters(self, client_manager: object) -> None:
        """What a server of Flower's legacy API asks for first."""
        raise ConfigError(
            "this ServerApp is of Flower's legacy API (server_fn), which no strategy of flwr.serverapp can serve; "
            "write it with @app.main() and strategy.start(grid, ...), as of Flower 1.21"
        )

    def start(self, *arguments: Any, **named: Any) -> Result:
        """That of `inner`; returns when all captures are on disk."""
        own = vars(self.inner)
        watching = {"configure_train": self.configure_train, "aggregate_train": self.aggregate_train}
        before = {name: own[name] for name in watching if name in own}
        own.update(watching)
        try:
            return self.inner.start(*arguments, **named)
        finally:
            for name in watching:
                del own[name]
            own.update(before)
            with _harmless("the last rounds"):
                self.store.wait()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        messages = list(self._configure(server_round, arrays, config, grid))
        first = not self._arrays
        with _harmless(f"round {server_round}", but=ConfigError if first else ()):
            self._sends(server_round, messages, first)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies, captures = list(replies), list[Capture]()
        with _harmless(f"round {server_round}"):
            captures = self._captures(replies)  # before `inner` sees them, who may change them
        arrays: ArrayRecord | None = None
        try:
            arrays, metrics = self._aggregate(server_round, replies)
        finally:
            with _harmless(f"what came before round {server_round}"):
                self.store.wait()
            with _harmless(f"round {server_round}"):
                if arrays is not None:
                    self._read({"": arrays}, "")
                self.store.save_round(
                    server_round, captures, "weights", self.local.learning_rate, self._parameters, self.local
                )
        return arrays, metrics

    def _sends(self, server_round: int, messages: Sequence[Message], first: bool) -> None:
        """Remember what users are sent in a round. ConfigError where it cannot be the audited model."""
        self._requests = {message.metadata.dst_node_id: message.metadata.created_at for message in messages}
        sending = [message for message in messages if message.content.array_records]
        if not sending:
            self._unread = "users were sent no arrays"
            return
        records = dict(sending[0].content.array_records)
        self._unread = "what was sent cannot be read"
        try:
            self._record, self._notes = self._read(records, getattr(self.inner, "arrayrecord_key", ""))
        except Refused as refused:
            self._unread = f"the model that was sent cannot be read: {refused.reason}"
            if first:
                raise ConfigError(
                    f"{refused.reason}: the server does not send model {self._watched.model!r}; name the one it trains"
                ) from refused
            return
        self._unread = ""
        sent = records[self._record]
        self._unlike = {
            message.metadata.dst_node_id
            for message in messages
            if (got := message.content.array_records.get(self._record)) is not sent and got != sent
        }
        self.store.save_model(server_round, self._parameters)

    def _read(self, records: dict[str, ArrayRecord], preferred: str) -> tuple[str, tuple[str, ...]]:
        """Take the global model from the record that holds it: its name, and what had to be assumed."""
        name, fitted = fit(records, self._model, preferred)
        if records[name] is self._arrays:
            return name, self._notes
        absent = [one for one in self._model.parameters if one not in fitted.values]
        if absent and (fitted.unknown or len(absent) == len(self._model.parameters)):
            raise Refused(f"the server sends no {in_short(absent)}")
        unsure = [one for one in absent if one not in self._fixed] if not self._arrays else []
        if unsure:
            raise Refused(
                f"the server sends no {in_short(unsure)}, and the model's factory makes it anew each time; "
                "let the factory load what users start from"
            )
        notes = fitted.notes
        if absent:
            taken = "taken as it was last sent, or as the factory makes it"
            notes = (*notes, f"the server does not send {in_short(absent)}, {taken}")
        self._parameters = self._parameters | fitted.values
        self._arrays = records[name]
        return name, notes

    def _captures(self, replies: Iterable[Message]) -> list[Capture]:
        captures: list[Capture] = []
        for reply in replies:
            captures.append(self._capture(reply, captures))
        heard = {capture.node for capture in captures}
        for node in self._requests.keys() - heard:
            captures.append(Capture(self._users.get(node), node, "error", "no reply in time", None, None, 0, None))
        return sorted(captures, key=lambda one: (math.inf if one.user is None else one.user, one.node))

    def _capture(self, reply: Message, earlier: Sequence[Capture]) -> Capture:
        """`reply` as a capture, after the `earlier` ones of its round."""
        node = reply.metadata.src_node_id
        seconds = seconds_since(reply, self._requests.get(node))
        if reply.has_error():
            reason = last_line(reply.error.reason) or f"code {reply.error.code}"
            return Capture(self._users.get(node), node, "error", in_one_line(reason), None, None, 0, seconds)
        claimed = partition(reply)
        user = self._users.setdefault(node, len(self._users) if claimed is None else claimed)
        examples, counted = photos(reply, self._weight)
        try:
            if any(one.node == node for one in earlier):
                raise Refused("the node has already replied in this round")
            if any(one.user == user and one.status == "accepted" for one in earlier):
                raise Refused(f"user {user} has already replied in this round")
            if self._unread or node in self._unlike:
                raise Refused(self._unread or "the node was sent another model than the first one")
            content = read_weights(reply, self._parameters, self._model, self.local.learning_rate, self._record)
        except Refused as refused:
            reason = in_one_line(refused.reason)
            return Capture(user, node, "rejected", reason, examples, refused.norm, size_of(reply), seconds)
        return Capture(
            user=user,
            node=node,
            status="accepted",
            reason="",
            num_examples=examples,
            norm=content.norm,
            bytes=size_of(reply),
            seconds=seconds,
            update=content.weights,
            notes=tuple(dict.fromkeys((*self._notes, *counted, *content.notes))),
        )


def message_strategy(inner: object) -> Strategy:
    """`inner`, if it is a strategy that can be watched; else ConfigError."""
    if isinstance(inner, Strategy):
        return inner
    kind = f"{type(inner).__module__}.{type(inner).__qualname__}"
    if any(base.__module__.startswith("flwr.server.") for base in type(inner).__mro__):
        raise ConfigError(
            f"{kind} is of Flower's legacy API, whose replies are no messages; use its like of "
            "flwr.serverapp.strategy, in a ServerApp with @app.main()"
        )
    raise ConfigError(f"{kind} is no strategy; give one of flwr.serverapp.strategy, or of a class of its Strategy")


@contextmanager
def _harmless(what: str, but: type[Exception] | tuple[()] = ()) -> Iterator[None]:
    """Log what is raised within instead of raising it, `but` for some: the app must not end of its being watched."""
    try:
        yield
    except but:
        raise
    except Exception as error:  # a full disk, a reply that nobody has thought of
        logger.warning("fl-sim: %s could not be captured (%s: %s)", what, type(error).__name__, error)


def _weight(inner: Strategy) -> str:
    """The metric by which a strategy, or the one that it wraps, weighs replies."""
    innermost: Any = inner
    while not hasattr(innermost, "weighted_by_key") and isinstance(getattr(innermost, "strategy", None), Strategy):
        innermost = innermost.strategy
    return str(getattr(innermost, "weighted_by_key", EXAMPLES))


def _opened(watched: ExternalModel) -> tuple[ModelTensors, set[str]]:
    """The model's tensors, and the names of those that its factory makes the same each time."""
    made = []
    with torch.random.fork_rng(devices=[]):
        for seed in (0, 1):
            torch.manual_seed(seed)
            made.append(ModelTensors(watched.open()))
    first, second = (one.state for one in made)
    return made[0], {name for name in first if torch.equal(first[name], second[name])}
