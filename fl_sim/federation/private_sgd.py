"""FedSGD under central differential privacy: DP-FedAvg (McMahan et al. 2018), its bound fixed or adaptive.

    w <- w + (1/n) (sum_k clip(d_k, C) + N(0, (z_w C)^2))      d_k = w_k - w, or -lr g_k: what user k wants changed

n users are asked, and n divides whatever number of them reply: who is missing, errs or sends what cannot be used
counts as no change. So one user's reply, replaced by any other or by none, moves the sum by at most 2 C, and each round
is a Gaussian mechanism of multiplier noise_multiplier / 2.

Adaptive (Andrew et al. 2021, algorithm 1): the bound follows the median of the norms,

    C <- C exp(-RATE (share - 1/2))      share = (1/n) (sum_k b_k + N(0, s^2)), b_k = 1 if |d_k| <= C, else 0

where who is missing counts as 1/2. The counts take their part of the privacy: z_w^-2 = noise_multiplier^-2 - (2 s)^-2.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from fl_sim import seeds
from fl_sim.federation.replies import claimed_partition, metric, tensors
from fl_sim.federation.strategy import FedSGD
from fl_sim.updates import Update, norm, problem

RATE = 0.2  # of the bound, as the paper recommends

BOUND = "clipping-norm"  # in the config that users are sent: the L2 norm to which they clip w' - w
WITHIN = "within-bound"  # in the metrics of users who clip: 1 if the change was not longer than that, else 0


class PrivateSGD(FedSGD):
    """FedSGD whose models are differentially private; the replies, which the server sees, are not.

    `names` are the parameters: all of them get noise in every round, also where nobody replies. The server clips
    each change to `bound` whatever users say they did; adaptive, it counts how many were within it, or, with
    `counted_by = "clients"`, believes those who clip themselves. The noise of a round follows from (seed, round).
    """

    def __init__(
        self,
        learning_rate: float,
        update: Literal["gradient", "weights"],
        names: Sequence[str],
        *,
        users: int,
        noise_multiplier: float,
        clipping_norm: float,
        seed: int,
        adaptive: bool = False,
        counted_by: Literal["server", "clients"] = "server",
    ) -> None:
        super().__init__(learning_rate, update)
        self.names, self.users, self.seed = list(names), users, seed
        self.bound = clipping_norm  # of the coming round
        self.adaptive, self.counted_by = adaptive, counted_by
        self.multiplier, self.count_noise = shares(noise_multiplier, users) if adaptive else (noise_multiplier, 0.0)
        self._asked: set[int] = set()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        config[BOUND] = self.bound
        messages = list(super().configure_train(server_round, arrays, config, grid))
        self._asked = {message.metadata.dst_node_id for message in messages}
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The next model. No metrics: how many photos users have is theirs."""
        parameters: Update = dict(self._sent.to_torch_state_dict())
        sent = {name: parameters[name] for name in self.names}
        total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in sent.items()}
        within = self.users / 2  # each user of unknown norm counts as one half
        for reply in self._first_of_each(replies):
            change = self._change(reply, sent)
            if change is None:
                continue
            size = norm(change)
            within += self._within(reply, size) - 0.5
            for name, value in change.items():
                total[name].add_(value, alpha=min(1.0, self.bound / size) if size > 0 else 1.0)
        draw = seeds.generator(self.seed, "private sgd", server_round)
        deviation = self.multiplier * self.bound
        for name, value in total.items():
            noise = torch.randn(value.shape, generator=draw, dtype=torch.float64)
            parameters[name] = (sent[name] + (value + deviation * noise) / self.users).to(sent[name].dtype)
        if self.adaptive:
            count = within + self.count_noise * float(torch.randn((), generator=draw, dtype=torch.float64))
            share = min(max(count / self.users, 0.0), 1.0)
            self.bound *= math.exp(-RATE * (share - 0.5))
        return ArrayRecord(parameters), None

    def _first_of_each(self, replies: Iterable[Message]) -> list[Message]:
        """One reply of each node that was asked, in an order that does not depend on who was faster."""
        first: dict[int, Message] = {}
        for reply in replies:
            if reply.metadata.src_node_id in self._asked:
                first.setdefault(reply.metadata.src_node_id, reply)

        def place(node: int) -> tuple[int, int]:
            partition = claimed_partition(first[node])
            return -1 if partition is None else partition, node

        return [first[node] for node in sorted(first, key=place)]

    def _change(self, reply: Message, sent: Mapping[str, torch.Tensor]) -> Update | None:
        """What a user wants added to the parameters `sent`, by name; None if the reply is of no use."""
        if not reply.has_content():
            return None
        try:
            received = tensors(reply.content.array_records["arrays"])
        except Exception:  # whatever bytes that are no array make numpy raise
            return None
        received = {name: received[name] for name in sent if name in received}  # weights may come with buffers
        if problem(received, sent) is not None:
            return None
        if self.update == "weights":
            return {name: received[name].double() - value.double() for name, value in sent.items()}
        return {name: -self.learning_rate * received[name].double() for name in sent}

    def _within(self, reply: Message, size: float) -> float:
        """1 if a user's change of norm `size` was within the bound, 0 if not, 1/2 if nobody knows."""
        if self.counted_by == "server":
            return float(size <= self.bound)
        said = metric(reply, WITHIN)
        return float(said) if said in (0, 1) else 0.5


def shares(noise_multiplier: float, users: int) -> tuple[float, float]:
    """(multiplier of the noise on the changes, deviation of that on the count), together as good as `noise_multiplier`.

    The deviation is users / 20, as Andrew et al. recommend; or, among few users, as much as leaves the changes with
    1.16 times `noise_multiplier` at most.
    """
    if noise_multiplier == 0:
        return 0.0, 0.0
    count_noise = max(users / 20, noise_multiplier)
    return (noise_multiplier**-2 - (2 * count_noise) ** -2) ** -0.5, count_noise
