"""The malicious server: a Flower strategy around any other, which keeps every reply it sees.

It is the outermost layer, so it sees each reply as it came over the wire, before the inner strategy does.
Training goes on as without it, except that replies which no honest user sends are kept out. An actively
malicious one may also rewrite the model that it sends; see `rewrite`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from attacker.capture.capturing import CapturingStrategy
from attacker.capture.reply_checks import (
    InvalidReply,
    ParsedReply,
    ReplySchema,
    check_origin,
    claimed_examples,
    read_update,
)
from attacker.capture.store import Capture, CaptureStore
from attacker.observation import LocalTraining
from fl_sim.federation.replies import claimed_partition
from fl_sim.updates import Update

Rewrite = Callable[[int, Update], Update]
"""(round, the honest model) -> the model to send in its place, of the same names and shapes."""


class MaliciousServer(CapturingStrategy):
    """`inner`, with every reply captured into `store`.

    A user is known by the partition id, which is asked for once per node by a QUERY message; a node that
    does not answer is believed in what its reply says. Replies that are not of the `schema` never reach `inner`; error
    replies do, as they would without the plugin.

    With `rewrite` all users get a model made for spying, and their updates say nothing about the honest one:
    they are captured and kept from `inner`, so the global model stays what it was, and is what users evaluate.
    """

    def __init__(
        self,
        inner: Strategy,
        store: CaptureStore,
        schema: ReplySchema,
        timeout: float,
        local: LocalTraining | None = None,
        rewrite: Rewrite | None = None,
    ) -> None:
        super().__init__(inner, store)
        self.schema = schema
        self.timeout = timeout  # seconds to wait for the answers to QUERY
        self.local = local  # what the attacker is told of several local steps
        self.rewrite = rewrite
        self.accepted = self.rejected = 0  # replies of the latest round; errors count as rejected
        self.refused: list[Capture] = []  # those that were rejected, and why
        self._round = 0
        self._record = ""  # name of the array record that users are sent, and answer with
        self._arrays = ArrayRecord()
        self._parameters: Update = {}  # the global model
        self._sent: Update = {}  # what users got in this round: the global model, or its rewritten form

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
        self._ask_partitions(grid, [node for node in self._requests if node not in self._users])
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        captures = self._captures(replies)
        passed = [reply for reply, capture in zip(replies, captures, strict=True) if self._passes(reply, capture)]
        captures = self._with_silent(captures)
        self.refused = [capture for capture in captures if capture.status != "accepted"]
        self.rejected = len(self.refused)
        self.accepted = len(captures) - self.rejected

        arrays, metrics = self.inner.aggregate_train(server_round, passed)
        if self.rewrite is not None:
            arrays = self._arrays  # whatever `inner` makes of no replies, such as noise alone
        if arrays is not None:
            self._remember(arrays)
        schema = self.schema
        self.store.save_round(server_round, captures, schema.update, schema.learning_rate, self._parameters, self.local)
        return arrays, metrics

    def _passes(self, reply: Message, capture: Capture) -> bool:
        """Whether `inner` gets to see the reply, which is then what it would be without the plugin."""
        if capture.status == "rejected" or (self.rewrite is not None and reply.has_content()):
            return False
        if self.schema.statistics and reply.has_content():
            reply.content.pop("statistics", None)
        return True

    def _remember(self, arrays: ArrayRecord) -> None:
        self._arrays, self._parameters = arrays, dict(arrays.to_torch_state_dict())

    def _ask_partitions(self, grid: Grid, nodes: Sequence[int]) -> None:
        questions = [Message(RecordDict(), dst_node_id=node, message_type=MessageType.QUERY) for node in nodes]
        for answer in grid.send_and_receive(questions, timeout=self.timeout) if questions else []:
            user = claimed_partition(answer)
            if user is not None:
                self._users[answer.metadata.src_node_id] = user

    def _user_of(self, reply: Message) -> int | None:
        return self._users.get(reply.metadata.src_node_id, claimed_partition(reply))

    def _num_examples(self, reply: Message) -> int | None:
        return claimed_examples(reply)

    def _parse(self, reply: Message, user: int) -> ParsedReply:
        users = self.schema.users
        if users is not None and user >= users:
            raise InvalidReply(f"the node says that it is user {user}, but there are only {users} users, from 0")
        check_origin(reply, user, self._round, asked=reply.metadata.src_node_id in self._requests)
        return read_update(reply, self.schema, self._sent, self._record)
