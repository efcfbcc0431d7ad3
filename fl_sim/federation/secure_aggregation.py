"""Secure aggregation: of a group of users the server learns the mean of their updates, and no single one.

It is Flower's SecAgg+ (Bell et al. 2020) with all its messages: keys, shares, masked vectors, unmasking. Flower
offers it for its legacy API alone (`SecAggPlusWorkflow` and `secaggplus_mod`); both halves of the adapter to the
message API are here. `SecureAggregation` runs one session a group and round on the server's side, `masked` is
the user's side. A user who drops out takes its group's round along: no sum of fewer users is ever unmasked, nor
of fewer than asked for.

Entries are quantised to 2^22 steps between -8 and 8, Flower's defaults: an error of about 4e-6 an entry.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.clientapp.typing import ClientAppCallable
from flwr.common import FitIns, FitRes, Parameters, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.constant import ErrorCode
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS
from flwr.common.typing import Code, Status
from flwr.compat.common import recorddict_compat as compat
from flwr.server import LegacyContext
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.serverapp import Grid
from torch import Tensor

from fl_sim.federation.grids import GridProxy
from fl_sim.updates import Update


def groups(users: Sequence[int], size: int) -> list[list[int]]:
    """`users` in groups of `size`, in the order given; those left over join the last group."""
    count = max(len(users) // size, 1)
    return [list(users[at * size : (at + 1) * size if at + 1 < count else None]) for at in range(count)]


class SecureAggregation(GridProxy):
    """The Grid as the server sees it through SecAgg+: one reply to TRAIN for each group.

    The reply comes from the group's first user and holds the mean of the members' updates, weighted by their photos;
    its metrics hold the number of photos of all, and the partition ids of the `members`. A group without a mean is
    an error of each of its members.
    """

    def __init__(
        self, inner: Grid, nodes: Mapping[int, int], size: int, like: Mapping[str, Tensor], max_photos: int
    ) -> None:
        super().__init__(inner)
        self._partition = {node: user for user, node in nodes.items()}
        self._groups, self._size = groups(list(nodes.values()), size), size
        self._like = dict(like)  # tensors of the update's names, shapes and dtypes, in the order of the model
        self._max_photos = max_photos  # that a user may have

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        messages = list(messages)
        if any(message.metadata.message_type != MessageType.TRAIN for message in messages):
            return super().send_and_receive(messages, timeout=timeout)
        asked = {message.metadata.dst_node_id: message for message in messages}
        replies: list[Message] = []
        for nodes in self._groups:
            members = {node: asked[node] for node in nodes if node in asked}
            if len(members) < max(self._size, len(nodes)):  # as when users did not say at the start who they are
                replies += _failed(members, f"{len(members)} users, and {max(self._size, len(nodes))} are needed")
            else:
                replies += self._session(members, timeout)
        return replies

    def _session(self, members: dict[int, Message], timeout: float | None) -> list[Message]:
        session = _Session(members, float(self._max_photos), timeout)
        result, problem = session.run(self.inner)
        if result is None:
            return _failed(members, problem)
        values, metrics = result
        mean: Update = {
            name: torch.from_numpy(value).to(like.dtype).reshape(like.shape)
            for (name, like), value in zip(self._like.items(), values, strict=True)
        }
        users = [self._partition[node] for node in members]
        record = MetricRecord({"partition-id": users[0], "members": users, **_together(metrics)})
        content = RecordDict({"arrays": ArrayRecord(mean), "metrics": record})
        return [Message(content, reply_to=next(iter(members.values())))]


class _Session(SecAggPlusWorkflow):
    """One run of Flower's workflow among the receivers of `messages`."""

    def __init__(self, messages: dict[int, Message], max_weight: float, timeout: float | None) -> None:
        super().__init__(1.0, 1.0, max_weight=max_weight, timeout=timeout)  # every member's share is needed
        self._messages = messages
        self._result: tuple[list[Any], list[dict[str, Any]]] | None = None
        self._state: Any = None

    def run(self, grid: Grid) -> tuple[tuple[list[Any], list[dict[str, Any]]] | None, str]:
        """(the mean's arrays, the members' metrics) or None, and then why."""
        server_round = next(iter(self._messages.values())).content.config_records["config"]["server-round"]
        state = RecordDict({
            MAIN_CONFIGS_RECORD: ConfigRecord({WorkflowKey.CURRENT_ROUND: server_round}),
            MAIN_PARAMS_RECORD: ArrayRecord(),
        })  # fmt: skip
        context = Context(run_id=0, node_id=0, node_config={}, state=state, run_config={})
        manager = SimpleNamespace(num_available=lambda: len(self._messages))
        legacy: Any = LegacyContext(context, strategy=self, client_manager=manager)  # type: ignore[arg-type]
        self(grid, legacy)
        reasons = [str(failure) for failure in self._state.failures] or ["a member did not reply in time"]
        return self._result, reasons[0]

    def setup_stage(self, grid: Grid, context: Any, state: Any) -> bool:
        self._state = state
        done = super().setup_stage(grid, context, state)
        # What the legacy API would send to a user is replaced by what our strategy sends.
        state.nid_to_fitins = {
            node: RecordDict(dict(message.content.items())) for node, message in self._messages.items()
        }
        return done

    # What the workflow asks of a legacy strategy

    def configure_fit(self, server_round: int, parameters: Parameters, manager: Any) -> list[tuple[Any, FitIns]]:
        nothing = FitIns(Parameters([], ""), {})
        return [(SimpleNamespace(node_id=node), nothing) for node in self._messages]

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> tuple[None, dict[str, Any]]:
        metrics = [json.loads(fitres.metrics["metrics"]) for _, fitres in results]
        self._result = parameters_to_ndarrays(results[0][1].parameters), metrics
        return None, {}


def masked(call: ClientAppCallable) -> ClientAppCallable:
    """The user's side around `call`, which answers TRAIN as if there were no secure aggregation."""

    def vector(message: Message, context: Context) -> Message:
        message.content.config_records.pop(RECORD_KEY_CONFIGS)  # nothing of the protocol is for `call`
        reply = call(message, context)
        if reply.has_error():
            raise RuntimeError(reply.error.reason)
        metrics: dict[str, Any] = dict(reply.content.metric_records["metrics"])
        result = FitRes(
            Status(Code.OK, ""),
            ndarrays_to_parameters(reply.content.array_records["arrays"].to_numpy_ndarrays()),
            metrics["num-examples"],
            {"metrics": json.dumps(metrics)},
        )
        return Message(compat.fitres_to_recorddict(result, keep_input=True), reply_to=message)

    return lambda message, context: secaggplus_mod(message, context, vector)


def _failed(members: Mapping[int, Message], problem: str) -> list[Message]:
    """An error of each member of a group."""
    error = Error(code=ErrorCode.MOD_FAILED_PRECONDITION, reason=f"no secure aggregation: {problem}")
    return [Message(error, reply_to=message) for message in members.values()]


def _together(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """What the members' metrics say of the group: how many photos, and the proportions of all their labels."""
    photos = [int(member["num-examples"]) for member in metrics]
    group: dict[str, Any] = {"num-examples": sum(photos)}
    if all("label-proportions" in member for member in metrics):
        shares = [member["label-proportions"] for member in metrics]
        each = torch.tensor(shares, dtype=torch.float64)  # (members, classes)
        group["label-proportions"] = (torch.tensor(photos, dtype=torch.float64) @ each / sum(photos)).tolist()
    return group
