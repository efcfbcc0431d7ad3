"""Proxies: Grids that stand between the server and its users, and decide what the server gets to see.

A strategy talks to a proxy as it would to Flower's Grid, so the malicious server, the outermost strategy,
captures exactly what a protocol lets through.
"""

from collections.abc import Iterable
from typing import Any

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fl_sim.federation.replies import claimed_partition


class GridProxy(Grid):
    """A Grid that hands on to `inner` what it does not change."""

    def __init__(self, inner: Grid) -> None:
        self.inner = inner

    def get_node_ids(self) -> Iterable[int]:
        return self.inner.get_node_ids()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return self.inner.send_and_receive(messages, timeout=timeout)

    def set_run(self, run: Any) -> None:
        self.inner.set_run(run)

    @property
    def run(self) -> Any:
        return self.inner.run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        return self.inner.create_message(*args, **kwargs)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError("use send_and_receive")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError("use send_and_receive")


class SubsetGrid(GridProxy):
    """The Grid of a round in which some nodes alone take part."""

    def __init__(self, inner: Grid, nodes: Iterable[int]) -> None:
        super().__init__(inner)
        self._nodes = list(nodes)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._nodes)


def nodes_by_partition(grid: Grid, timeout: float) -> dict[int, int]:
    """The node id of each partition, ascending by partition; a node that does not answer is left out."""
    questions = [
        Message(RecordDict(), dst_node_id=node, message_type=MessageType.QUERY) for node in grid.get_node_ids()
    ]
    nodes: dict[int, int] = {}
    for answer in grid.send_and_receive(questions, timeout=timeout):
        partition = claimed_partition(answer)
        if partition is not None:
            nodes.setdefault(partition, answer.metadata.src_node_id)
    return dict(sorted(nodes.items()))
