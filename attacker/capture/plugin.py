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

from attacker.capture.audit_plugin import Watcher, message_strategy
from attacker.capture.reply_checks import Refused, Terms, check_origin, read_update
from attacker.capture.store import Capture, CaptureStore
from attacker.capture.wrapping import Wrapping
from attacker.external import external_model
from attacker.inversion.losses import Loss
from attacker.observation import LocalTraining
from fl_sim.config import ConfigError
from fl_sim.federation.replies import claimed_partition, in_one_line, last_line, seconds_since, size_of
from fl_sim.runs import RunFolder
from fl_sim.updates import Update

Rewrite = Callable[[int, Update], Update]
"""(round, the honest model) -> the model to send in its place, of the same names and shapes."""


class MaliciousServer(Wrapping):
    """`inner`, with every reply captured into `store`.

    A user is known by the partition id, which is asked for once per node by a QUERY message; a node that
    does not answer is believed in what its reply says. Of several replies of a node or user in a round the
    first counts. Rejected replies never reach `inner`; error replies do, as they would without the plugin.

    With `rewrite` all users get a model made for spying, and their updates say nothing about the honest one:
    they are captured and kept from `inner`, so the global model stays what it was, and is what users evaluate.

    Around the strategy of somebody else's app, where it only watches, it is another one: `around`.
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
        aggregated: bool = False,
        num_classes: int | None = None,
    ) -> None:
        self.inner = inner
        self.store = store
        self.terms = Terms(
            list(parameter_names),
            update,
            learning_rate,
            max_norm,
            dict(statistics or {}),
            aggregated,
            num_classes,
        )
        self.timeout = timeout  # seconds to wait for the answers to QUERY
        self.local = local  # what the attacker is told of several local steps
        self.rewrite = rewrite
        self.accepted = self.rejected = 0  # replies of the latest round; errors count as rejected
        self.refused: list[Capture] = []  # those that were rejected, and why
        self._partitions: dict[int, int] = {}  # node id -> partition id
        self._requests: dict[int, float] = {}  # node id -> time at which this round's request was made
        self._round = 0
        self._record = ""  # name of the array record that users are sent, and answer with
        self._arrays = ArrayRecord()
        self._parameters: Update = {}  # the global model
        self._sent: Update = {}  # what users got in this round: the global model, or its rewritten form

    @staticmethod
    def around(
        inner: Strategy,
        run: str | Path,
        model: Callable[[], nn.Module],
        *,
        image_size: int,
        learning_rate: float,
        local_epochs: int = 1,
        batch_size: int = 0,
        loss: Callable[[], Loss] | Loss | None = None,
        mean: external_model.Scale = (0.5, 0.5, 0.5),
        std: external_model.Scale = (0.5, 0.5, 0.5),
    ) -> Watcher:
        """`inner` of an app whose clients reply with the weights of `model()`; captures into the new folder `run`.

        For `fl-sim audit RUN`: the app's images are RGB of `image_size` pixels, scaled to (x - mean) / std; its users
        take SGD steps of `learning_rate` on `loss` (None: cross-entropy), `batch_size` images each (0: all), for
        `local_epochs`. Raises ConfigError, before anything starts, for what the audit could not use.
        """
        strategy = message_strategy(inner)
        _check_told(learning_rate, local_epochs, batch_size, mean, std)
        (name, folder), named_loss = external_model.name_of(model, "model"), None
        if loss is not None:
            named_loss = external_model.name_of(loss, "loss")[0]
        watched = external_model.ExternalModel(name, image_size, named_loss, mean, std, folder)
        watched.check()
        store = CaptureStore(RunFolder(Path(run)))
        watcher = Watcher(strategy, store, watched, LocalTraining(local_epochs, batch_size, learning_rate))
        if store.run.captures.exists():
            raise ConfigError(f"{run} holds an earlier capture; give a folder that does not exist yet, or remove it")
        external_model.save(store.run, watched)
        return watcher

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
            if capture.status != "rejected" and not kept_back:
                if self.terms.statistics and reply.has_content():  # `inner` gets what it would get without the plugin
                    reply.content.pop("statistics", None)
                passed.append(reply)
        for node in self._requests.keys() - nodes:
            captures.append(self._no_update(node, "error", "no reply in time"))
        captures.sort(key=lambda c: (math.inf if c.user is None else c.user, c.node))
        self.accepted = len(users)
        self.refused = [capture for capture in captures if capture.status != "accepted"]
        self.rejected = len(self.refused)

        arrays, metrics = self.inner.aggregate_train(server_round, passed)
        if self.rewrite is not None:
            arrays = self._arrays  # whatever `inner` makes of no replies, such as noise alone
        if arrays is not None:
            self._remember(arrays)
        self.store.save_round(
            server_round, captures, self.terms.update, self.terms.learning_rate, self._parameters, self.local
        )
        return arrays, metrics

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
        if node in nodes:
            return self._no_update(node, "rejected", "the node has already replied in this round", reply)
        if user is None:
            return self._no_update(node, "rejected", "the partition id of the node is not known", reply)
        if user in users:
            return self._no_update(node, "rejected", f"user {user} has already replied in this round", reply)
        try:
            check_origin(reply, user, self._round, asked=node in self._requests)
            content = read_update(reply, self.terms, self._sent, self._record)
        except Refused as refused:
            return self._no_update(node, "rejected", refused.reason, reply, refused.examples, refused.norm)
        return Capture(
            user=user,
            node=node,
            status="accepted",
            reason="",
            num_examples=content.examples,
            norm=content.norm,
            bytes=size_of(reply),
            seconds=self._seconds(reply),
            update=content.update,
            label_proportions=content.proportions,
            statistics=content.statistics or None,
            members=content.members,
        )

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


def _check_told(rate: float, epochs: int, batch: int, mean: external_model.Scale, std: external_model.Scale) -> None:
    """ConfigError for what no app's users do."""
    if not 0 < rate < math.inf:
        raise ConfigError(f"learning_rate {rate} given; give that of the users' optimiser, above 0")
    if epochs < 1 or batch < 0:
        raise ConfigError(
            f"local_epochs {epochs} and batch_size {batch} given; give 1 epoch or more, and 0 (all photos) or more"
        )
    if not len(mean) == len(std) == 3 or min(std) <= 0:
        raise ConfigError(
            f"mean {mean} and std {std} given; give three numbers each as the app's Normalize, std above 0"
        )
