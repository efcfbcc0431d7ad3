"""Shuffling: users come to the server under a pseudonym that is drawn afresh every round.

A pseudonym is a number from 0 to users - 1 in the place of the partition id. Pseudonym 3 of round 1 and
pseudonym 3 of round 2 are different people, so updates cannot be linked over rounds by who sent them. What a
reply itself tells (how many photos, and the label proportions where they are known) goes through unchanged.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from flwr.app import Message
from flwr.serverapp import Grid

from fl_sim import seeds
from fl_sim.federation.grids import GridProxy


def users_by_pseudonym(seed: int, server_round: int, users: Sequence[int]) -> list[int]:
    """Who is behind the pseudonyms 0, 1, ... of a round: `users`, permuted. Nothing of the attacker may call it."""
    order = torch.randperm(len(users), generator=seeds.generator(seed, "shuffling", server_round))
    return [users[place] for place in order.tolist()]


class Shuffler(GridProxy):
    """The Grid of one round as the server sees it behind the shuffler."""

    def __init__(
        self, inner: Grid, nodes: Mapping[int, int], users: Sequence[int], seed: int, server_round: int
    ) -> None:
        """`users` take part in the round; `nodes`, by user, are those of them who can be reached."""
        super().__init__(inner)
        users = users_by_pseudonym(seed, server_round, users)
        # The addresses are the same in all rounds and say no more than the pseudonym.
        self._address = {nodes[user]: _address(number) for number, user in enumerate(users) if user in nodes}
        self._node = {address: node for node, address in self._address.items()}
        self._pseudonym = {_address(pseudonym): pseudonym for pseudonym in range(len(users))}

    def get_node_ids(self) -> Iterable[int]:
        return list(self._node)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Each message to the node behind its address, each reply back from that address."""
        forwarded = [
            Message(
                message.content,
                dst_node_id=self._node[message.metadata.dst_node_id],
                message_type=message.metadata.message_type,
            )
            for message in messages
        ]
        return [self._renamed(reply) for reply in self.inner.send_and_receive(forwarded, timeout=timeout)]

    def _renamed(self, reply: Message) -> Message:
        address = self._address[reply.metadata.src_node_id]
        reply.metadata.__dict__["_src_node_id"] = address  # Flower has no setter
        for metrics in reply.content.metric_records.values() if reply.has_content() else ():
            if "partition-id" in metrics:
                metrics["partition-id"] = self._pseudonym[address]
        return reply


def _address(pseudonym: int) -> int:
    return 2 * seeds.derive(0, "pseudonym", pseudonym) + 1  # 64 bits and no order in them, like Flower's node ids
