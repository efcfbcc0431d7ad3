"""A Flower strategy around another one that captures every reply before the other sees it.

What the malicious server (`plugin`) and the audit of somebody else's app (`audit_plugin`) have in common. Each of
them says which user a reply is of, and reads it by its own rules.
"""

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from attacker.capture.reply_checks import InvalidReply, ParsedReply
from attacker.capture.store import Capture, CaptureStore
from fl_sim.config_errors import in_one_line
from fl_sim.federation.replies import last_line, seconds_since, size_of

REASON = 300  # characters of it that the index keeps


class CapturingStrategy(Strategy):
    """`inner`, whose evaluation and summary stay its own, with a capture of every reply.

    Of several replies of a node or user in a round the first counts.
    """

    def __init__(self, inner: Strategy, store: CaptureStore) -> None:
        self.inner, self.store = inner, store
        self._users: dict[int, int] = {}  # node id -> user, as far as known
        self._requests: dict[int, float] = {}  # node id -> time at which this round's request was made

    @abstractmethod
    def _user_of(self, reply: Message) -> int | None:
        """Whose reply it is; None if that cannot be learnt."""

    @abstractmethod
    def _num_examples(self, reply: Message) -> int | None:
        """Of how many photos `reply` says that it is; None if it does not."""

    @abstractmethod
    def _parse(self, reply: Message, user: int) -> ParsedReply:
        """What `reply` holds that can be attacked. Raises InvalidReply if nothing."""

    def _captures(self, replies: Iterable[Message]) -> list[Capture]:
        """A capture of each of the round's `replies`, in their order."""
        captures: list[Capture] = []
        replied, accepted = set[int](), set[int | None]()  # nodes and users
        for reply in replies:
            capture = self._capture(reply, replied, accepted)
            captures.append(capture)
            replied |= self._nodes(capture)
            accepted |= {capture.user} if capture.status == "accepted" else set()
        return captures

    def _with_silent(self, captures: Sequence[Capture]) -> list[Capture]:
        """`captures` and one for each node that did not reply in time, by user."""
        replied = {node for capture in captures for node in self._nodes(capture)}
        silent = [
            Capture(self._users.get(node), node, "error", "no reply in time", None, None, 0, None)
            for node in self._requests.keys() - replied
        ]
        return sorted(
            [*captures, *silent],
            key=lambda capture: (math.inf if capture.user is None else capture.user, capture.node),
        )

    def _capture(self, reply: Message, replied: set[int], accepted: set[int | None]) -> Capture:
        """`reply` as a capture; the nodes `replied` in this round already, the users were `accepted` already."""
        node = reply.metadata.src_node_id
        seconds, size = seconds_since(reply, self._requests.get(node)), size_of(reply)
        if reply.has_error():
            reason = in_one_line(last_line(reply.error.reason) or f"code {reply.error.code}", REASON)
            return Capture(self._users.get(node), node, "error", reason, None, None, size, seconds)
        user, examples = self._user_of(reply), self._num_examples(reply)
        try:
            if node in replied:
                raise InvalidReply("the node has already replied in this round")
            if user is None:
                raise InvalidReply("the partition id of the node is not known")
            if user in accepted:
                raise InvalidReply(f"user {user} has already replied in this round")
            parsed = self._parse(reply, user)
        except InvalidReply as invalid:
            return Capture(
                user, node, "rejected", in_one_line(invalid.reason, REASON), examples, invalid.norm, size, seconds
            )
        return Capture(
            user=user,
            node=node,
            status="accepted",
            reason="",
            num_examples=examples,
            norm=parsed.norm,
            bytes=size,
            seconds=seconds,
            update=parsed.update,
            label_proportions=parsed.label_proportions,
            statistics=parsed.statistics,
            members=parsed.members,
            notes=parsed.notes,
        )

    def _nodes(self, capture: Capture) -> set[int]:
        """The nodes whose updates it holds: the sender, and those of an aggregate's members."""
        members = {node for node, user in self._users.items() if user in capture.members} if capture.members else set()
        return {capture.node} | members

    # What stays as `inner` does it

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return self.inner.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        return self.inner.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        self.inner.summary()
