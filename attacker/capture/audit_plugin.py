"""The audit of somebody else's Flower app: a strategy around the app's own that captures and changes nothing.

    from attacker.capture.audit_plugin import AuditedStrategy, ExternalModel, LocalTraining

    model, training = ExternalModel.of(Net, image_size=32), LocalTraining(epochs=2, batch_size=12, learning_rate=0.1)
    strategy = AuditedStrategy(FedAvg(), model, training, run="audit")  # for `fl-sim audit audit`

Every reply reaches the app's strategy as it came, nobody is asked anything, and nothing that goes wrong here reaches
the app: it is logged, and `fl-sim audit` tells what was not captured, and why.
"""

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from attacker.capture.capturing import CapturingStrategy
from attacker.capture.external_replies import EXAMPLES, count_photos, fit, partition, read_weights
from attacker.capture.reply_checks import InvalidReply, ParsedReply
from attacker.capture.store import Capture, CaptureStore
from attacker.external import external_model
from attacker.external.external_model import ExternalModel
from attacker.observation import LocalTraining
from fl_sim.config import ConfigError
from fl_sim.runs import RunFolder
from fl_sim.state_dicts import ModelTensors
from fl_sim.updates import Update, in_short

__all__ = ["AuditedStrategy", "ExternalModel", "LocalTraining"]  # what an app needs

logger = logging.getLogger("flwr")  # the app's own log, where somebody looks


class AuditedStrategy(CapturingStrategy):
    """`inner` of an app whose clients reply with the weights of `model`, captured into the new folder `run`.

    The users take SGD steps as `training` says. While `start` runs, this stands in the place of two methods of
    `inner`: Flower's loop and a loop of the app's own, in an overridden `start`, both come by. All else is `inner`'s.
    A user is known by the `partition-id` in the metrics of its first reply, else numbered as its node first replies.
    """

    def __init__(self, inner: Strategy, model: ExternalModel, training: LocalTraining, run: str | Path) -> None:
        """Raises ConfigError, before anything starts, for what the audit could not use."""
        _check_strategy(inner)
        model.check()
        super().__init__(inner, CaptureStore(RunFolder(Path(run))))
        if self.store.run.captures.exists():
            raise ConfigError(f"{run} holds an earlier capture; give a folder that does not exist yet, or remove it")
        self._external, self._training = model, training
        self._model, self._fixed = _opened(model)
        external_model.save(self.store.run, model)
        self._configure, self._aggregate = inner.configure_train, inner.aggregate_train
        self._weight = _weight(inner)
        self._parameters: Update = dict(self._model.state)  # the global model, as far as it was seen
        self._arrays = ArrayRecord()  # what it was read from
        self._record = ""  # name of the array record that users are sent
        self._sent_another: set[int] = set()  # nodes that were sent another model than the first one
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
        capturing = {"configure_train": self.configure_train, "aggregate_train": self.aggregate_train}
        before = {name: own[name] for name in capturing if name in own}
        own.update(capturing)
        try:
            return self.inner.start(*arguments, **named)
        finally:
            for name in capturing:
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
            captures = self._with_silent(self._captures(replies))  # before `inner` sees them, who may change them
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
                    server_round, captures, "weights", self._training.learning_rate, self._parameters, self._training
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
        except InvalidReply as invalid:
            self._unread = f"the model that was sent cannot be read: {invalid.reason}"
            if first:
                raise ConfigError(
                    f"{invalid.reason}: the server does not send model {self._external.model!r}; name the one it trains"
                ) from invalid
            return
        self._unread = ""
        sent = records[self._record]
        self._sent_another = {
            message.metadata.dst_node_id
            for message in messages
            if (got := message.content.array_records.get(self._record)) is not sent and got != sent
        }
        self.store.save_model(server_round, self._parameters)

    def _read(self, records: dict[str, ArrayRecord], preferred: str) -> tuple[str, tuple[str, ...]]:
        """Take the global model from the record that holds it: its name, and what had to be assumed."""
        record, fitted = fit(records, self._model, preferred)
        if records[record] is self._arrays:
            return record, self._notes
        absent = [name for name in self._model.parameters if name not in fitted.values]
        if absent and (fitted.unknown or len(absent) == len(self._model.parameters)):
            raise InvalidReply(f"the server sends no {in_short(absent)}")
        unsure = [name for name in absent if name not in self._fixed] if not self._arrays else []
        if unsure:
            raise InvalidReply(
                f"the server sends no {in_short(unsure)}, and the model's factory makes it anew each time; "
                "let the factory load what users start from"
            )
        notes = fitted.notes
        if absent:
            taken = "taken as it was last sent, or as the factory makes it"
            notes = (*notes, f"the server does not send {in_short(absent)}, {taken}")
        self._parameters = self._parameters | fitted.values
        self._arrays = records[record]
        return record, notes

    def _user_of(self, reply: Message) -> int:
        claimed = partition(reply)
        return self._users.setdefault(reply.metadata.src_node_id, len(self._users) if claimed is None else claimed)

    def _num_examples(self, reply: Message) -> int | None:
        return count_photos(reply, self._weight)[0]

    def _parse(self, reply: Message, user: int) -> ParsedReply:
        if self._unread or reply.metadata.src_node_id in self._sent_another:
            raise InvalidReply(self._unread or "the node was sent another model than the first one")
        rate = self._training.learning_rate
        parsed = read_weights(reply, self._parameters, self._model, rate, self._record)
        counting = count_photos(reply, self._weight)[1]
        return dataclasses.replace(parsed, notes=tuple(dict.fromkeys((*self._notes, *counting, *parsed.notes))))


def _check_strategy(inner: object) -> None:
    """ConfigError for what is no strategy that can be audited."""
    if isinstance(inner, Strategy):
        return
    kind = f"{type(inner).__module__}.{type(inner).__qualname__}"
    if any(base.__module__.startswith("flwr.server.") for base in type(inner).__mro__):
        raise ConfigError(
            f"{kind} is of Flower's legacy API, whose replies are no messages; use its like of "
            "flwr.serverapp.strategy, in a ServerApp with @app.main()"
        )
    raise ConfigError(f"{kind} is no strategy; give one of flwr.serverapp.strategy, or of a class of its Strategy")


@contextmanager
def _harmless(what: str, but: type[Exception] | tuple[()] = ()) -> Iterator[None]:
    """Log what is raised within instead of raising it, `but` for some: the app must not end of its being audited."""
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


def _opened(external: ExternalModel) -> tuple[ModelTensors, set[str]]:
    """The model's tensors, and the names of those that its factory makes the same each time."""
    made = []
    with torch.random.fork_rng(devices=[]):
        for seed in (0, 1):
            torch.manual_seed(seed)
            made.append(ModelTensors(external.open()))
    first, second = (tensors.state for tensors in made)
    return made[0], {name for name in first if torch.equal(first[name], second[name])}
