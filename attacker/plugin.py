"""The malicious server: a Flower strategy around any other, which keeps every reply it sees.

It is the outermost layer, so it sees each reply as it came over the wire, before the inner strategy does.
Training goes on as without it, except that replies which no honest user sends are kept out. An actively
malicious one may also rewrite the model that it sends; see `rewrite`.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor, nn

from attacker import foreign
from attacker.losses import Loss
from attacker.observation import LocalTraining
from attacker.replies import (
    MOST,
    claimed_partition,
    in_one_line,
    is_distribution,
    last_line,
    metric,
    seconds_since,
    size_of,
)
from attacker.store import Capture, CaptureStore
from fl_sim.config import ConfigError
from fl_sim.runs import RunFolder
from fl_sim.updates import Update, norm, problem, to_gradient

Rewrite = Callable[[int, Update], Update]
"""(round, the honest model) -> the model to send in its place, of the same names and shapes."""


class MaliciousServer(Strategy):
    """`inner`, with every reply captured into `store`.

    A user is known by the partition id, which is asked for once per node by a QUERY message; a node that
    does not answer is believed in what its reply says. Of several replies of a node or user in a round the
    first counts. Rejected replies never reach `inner`; error replies do, as they would without the plugin.

    With `rewrite` all users get a model made for spying, and their updates say nothing about the honest one:
    they are captured and kept from `inner`, so the global model stays what it was, and is what users evaluate.

    `around` puts it around the strategy of somebody else's app, where it only watches: every reply reaches `inner`,
    and nobody is asked anything. A user is then known by the `partition-id` in its replies' metrics, else numbered.
    """

    def __init__(
        self,
        inner: Strategy,
        store: CaptureStore,
        parameter_names: Sequence[str],
        update: Literal["gradient", "weights"],
        learning_rate: float,
        max_norm: float,
        timeout: float,
        local: LocalTraining | None = None,
        statistics: Mapping[str, Tensor] | None = None,
        rewrite: Rewrite | None = None,
        only_watch: bool = False,
        aggregated: bool = False,
        num_classes: int | None = None,
    ) -> None:
        self.inner = inner
        self.store = store
        self.parameter_names = list(parameter_names)  # of the model, without buffers, in its order
        self.update: Literal["gradient", "weights"] = update
        self.learning_rate = learning_rate  # of the users' local steps; used where the replies are weights
        self.max_norm = max_norm  # L2 norm of a gradient
        self.timeout = timeout  # seconds to wait for the answers to QUERY
        self.local = local  # what the attacker is told of several local steps
        self.statistics = dict(statistics or {})  # tensors like the batch-norm statistics beside the replies, if any
        self.rewrite = rewrite
        self.only_watch = only_watch
        self.aggregated = aggregated  # a reply is the mean of the updates of its `members`, the first of whom sends it
        self.num_classes = num_classes  # shares in the label proportions of a reply; None: any number
        self.accepted = self.rejected = 0  # replies of the latest round; errors count as rejected
        self.refused: list[Capture] = []  # those that were rejected, and why
        self._partitions: dict[int, int] = {}  # node id -> partition id
        self._requests: dict[int, float] = {}  # node id -> time at which this round's request was made
        self._round = 0
        self._record = ""  # name of the array record that users are sent, and answer with
        self._arrays = ArrayRecord()
        self._parameters: Update = {}  # the global model
        self._sent: Update = {}  # what users got in this round: the global model, or its rewritten form

    @classmethod
    def around(
        cls,
        inner: Strategy,
        run: str | Path,
        model: Callable[[], nn.Module],
        *,
        image_size: int,
        learning_rate: float,
        local_epochs: int = 1,
        batch_size: int = 0,
        loss: Callable[[], Loss] | Loss | None = None,
        mean: foreign.Scale = (0.5, 0.5, 0.5),
        std: foreign.Scale = (0.5, 0.5, 0.5),
    ) -> "MaliciousServer":
        """`inner` of an app whose clients reply with the weights of `model()`; captures into the new folder `run`.

        For `fl-sim audit RUN`: the app's images are RGB of `image_size` pixels, scaled to (x - mean) / std; its users
        take SGD steps of `learning_rate` on `loss` (None: cross-entropy), `batch_size` images each (0: all), for
        `local_epochs`. Raises ConfigError, before anything starts, for what the audit could not use.
        """
        (name, folder), named_loss = foreign.name_of(model, "model"), None
        if loss is not None:
            named_loss = foreign.name_of(loss, "loss")[0]
        watched = foreign.ForeignModel(name, image_size, named_loss, mean, std, folder)
        parameters = [name for name, _ in watched.open().named_parameters()]
        store = CaptureStore(RunFolder(Path(run)))
        if store.run.captures.exists():
            raise ConfigError(f"{run} holds an earlier capture; give a folder that does not exist yet, or remove it")
        if learning_rate <= 0:
            raise ConfigError(f"learning_rate {learning_rate} given; give that of the users' optimiser, above 0")
        foreign.save(store.run, watched)
        local = LocalTraining(local_epochs, batch_size, learning_rate)
        return cls(inner, store, parameters, "weights", learning_rate, math.inf, 0, local, only_watch=True)

    def start(self, *arguments: Any, **named: Any) -> Result:
        """Flower's loop; returns when all captures are on disk."""
        try:
            return super().start(*arguments, **named)
        finally:
            self.store.wait()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        messages = list(self.inner.configure_train(server_round, arrays, config, grid))
        if arrays is not self._arrays or not self._parameters:  # else saved at the end of the round before
            self._remember(arrays)
            absent = [name for name in self.parameter_names if name not in self._parameters]
            if absent:
                raise ConfigError(
                    f"the server sends no {absent[0]!r}, which the audited model has; name the model that it trains"
                )
            self.store.save_model(server_round, self._parameters)
        self._sent = self._parameters
        if self.rewrite is not None:
            self._sent = self.rewrite(server_round, self._parameters)
            self.store.save_rewritten(server_round, self._sent)
            for message in messages:
                for key in message.content.array_records:
                    message.content[key] = ArrayRecord(self._sent)
        self._round = server_round
        self._record = next((key for message in messages for key in message.content.array_records), "")
        self._requests = {message.metadata.dst_node_id: message.metadata.created_at for message in messages}
        if not self.only_watch:
            self._ask_partitions(grid, [node for node in self._requests if node not in self._partitions])
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        passed: list[Message] = []
        captures: list[Capture] = []
        nodes: set[int] = set()
        users: set[int] = set()
        for reply in replies:
            capture = self._capture(reply, nodes, users)
            captures.append(capture)
            nodes |= {capture.node, *(node for node, user in self._partitions.items() if user in capture.members)}
            if capture.status == "accepted" and capture.user is not None:
                users.add(capture.user)
            kept_back = self.rewrite is not None and reply.has_content()
            if (self.only_watch or capture.status != "rejected") and not kept_back:
                if self.statistics and reply.has_content():  # `inner` gets what it would get without the plugin
                    reply.content.pop("statistics", None)
                passed.append(reply)
        for node in self._requests.keys() - nodes:
            captures.append(self._no_update(node, "error", "no reply in time"))
        captures.sort(key=lambda c: (math.inf if c.user is None else c.user, c.node))
        self.accepted = len(users)
        self.refused = [capture for capture in captures if capture.status != "accepted"]
        self.rejected = len(self.refused)

        arrays, metrics = self.inner.aggregate_train(server_round, passed)
        if self.rewrite is not None and arrays is None:
            arrays = self._arrays  # `inner` had nothing to average
        if arrays is not None:
            self._remember(arrays)
        self.store.save_round(server_round, captures, self.update, self.learning_rate, self._parameters, self.local)
        return arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return self.inner.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        return self.inner.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        self.inner.summary()

    def _remember(self, arrays: ArrayRecord) -> None:
        self._arrays, self._parameters = arrays, dict(arrays.to_torch_state_dict())

    def _ask_partitions(self, grid: Grid, nodes: Sequence[int]) -> None:
        questions = [Message(RecordDict(), dst_node_id=node, message_type=MessageType.QUERY) for node in nodes]
        for answer in grid.send_and_receive(questions, timeout=self.timeout) if questions else []:
            user = claimed_partition(answer)
            if user is not None:
                self._partitions[answer.metadata.src_node_id] = user

    def _capture(self, reply: Message, nodes: set[int], users: set[int]) -> Capture:
        """`reply` as a capture; `nodes` replied already in this round, `users` were accepted already."""
        node = reply.metadata.src_node_id
        if reply.has_error():
            return self._no_update(node, "error", last_line(reply.error.reason) or f"code {reply.error.code}", reply)
        user = self._partitions.get(node, claimed_partition(reply))
        if self.only_watch:
            user = self._partitions.setdefault(node, len(self._partitions) if user is None else user)
        if node in nodes:
            return self._no_update(node, "rejected", "the node has already replied in this round", reply)
        if user is None:
            return self._no_update(node, "rejected", "the partition id of the node is not known", reply)
        if user in users:
            return self._no_update(node, "rejected", f"user {user} has already replied in this round", reply)
        reason = None if self.only_watch else self._lie(reply, node, user)
        if reason is not None:
            return self._no_update(node, "rejected", reason, reply)

        examples = metric(reply, "num-examples")
        if not isinstance(examples, int) or not 0 < examples < MOST:
            reason = f"num-examples is {examples!r}, expected a whole number above 0 and below 2^31"
            return self._no_update(node, "rejected", reason, reply)
        proportions = metric(reply, "label-proportions")
        if proportions is not None and not is_distribution(proportions, self.num_classes):
            reason = "label-proportions are not a number from 0 to 1 for each class that sum to 1"
            return self._no_update(node, "rejected", reason, reply)
        return self._check(reply, node, user, examples, proportions)

    def _lie(self, reply: Message, node: int, user: int) -> str | None:
        """What `reply` says of where it is from that cannot be; None if all of it can."""
        if node not in self._requests:
            return "the node was not asked in this round"
        claimed, answered = metric(reply, "partition-id"), metric(reply, "server-round")
        if claimed != user:
            return f"the reply says that it is of user {claimed!r}, but its node is that of user {user}"
        if answered not in (None, self._round):  # a tuple: it may be a list
            return f"the reply is of round {answered!r}, expected {self._round}"
        return None

    def _check(self, reply: Message, node: int, user: int, examples: int, proportions: list[float] | None) -> Capture:
        records = dict(reply.content.array_records.items())
        beside = records.pop("statistics", ArrayRecord()) if self.statistics else ArrayRecord()
        if len(records) != 1:
            return self._no_update(node, "rejected", f"the reply holds {len(records)} array records, expected 1", reply)
        if not self.only_watch and self._record not in records:
            called = f"the array record is called {next(iter(records))!r}, expected {self._record!r}"
            return self._no_update(node, "rejected", called, reply)
        try:
            received: Update = dict(next(iter(records.values())).to_torch_state_dict())
            statistics: Update = dict(beside.to_torch_state_dict())
        except Exception as error:  # numpy and torch raise anything on bytes that are no array, MemoryError too
            return self._no_update(node, "rejected", f"the arrays cannot be decoded: {error}", reply)
        # A user who sends weights may send the buffers too; they carry no gradient.
        buffers = received.keys() - set(self.parameter_names) if self.update == "weights" else set()
        if self.only_watch:  # whose dtype an average changes, and which the attack does not need
            received, buffers = {name: received[name] for name in received if name not in buffers}, set()
        expected = {name: self._sent[name] for name in self._sent if name in {*self.parameter_names, *buffers}}
        reason = problem(received, expected, math.inf) or problem(statistics, self.statistics, math.inf)
        if any(name.endswith(".var") and bool((value < 0).any()) for name, value in statistics.items()):
            reason = "a batch-norm variance is below 0"
        if reason is not None:
            return self._no_update(node, "rejected", reason, reply, examples)
        update = {name: received[name] for name in self.parameter_names}
        gradient = update if self.update == "gradient" else to_gradient(self._sent, update, self.learning_rate)
        size = norm(gradient)
        if not size <= self.max_norm:
            reason = f"norm {size:.3g} exceeds the limit {self.max_norm:.3g}"
            return self._no_update(node, "rejected", reason, reply, examples, size)
        return Capture(
            user=user,
            node=node,
            status="accepted",
            reason="",
            num_examples=examples,
            norm=size,
            bytes=size_of(reply),
            seconds=self._seconds(reply),
            update=update,
            label_proportions=proportions,
            statistics=statistics or None,
            members=self._members(reply),
        )

    def _members(self, reply: Message) -> tuple[int, ...]:
        members = metric(reply, "members") if self.aggregated else None
        return tuple(user for user in members if isinstance(user, int)) if isinstance(members, list) else ()

    def _no_update(
        self,
        node: int,
        status: Literal["rejected", "error"],
        reason: str,
        reply: Message | None = None,
        examples: int | None = None,
        size: float | None = None,
    ) -> Capture:
        user = self._partitions.get(node)
        if user is None and reply is not None:
            user = claimed_partition(reply)
        return Capture(
            user=user,
            node=node,
            status=status,
            reason=in_one_line(reason),
            num_examples=examples,
            norm=size if size is not None and math.isfinite(size) else None,
            bytes=0 if reply is None else size_of(reply),
            seconds=None if reply is None else self._seconds(reply),
        )

    def _seconds(self, reply: Message) -> float | None:
        return seconds_since(reply, self._requests.get(reply.metadata.src_node_id))
