"""Whether a reply is what an honest user would send: pure functions, from the bytes to an update that can be used."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from flwr.app import ArrayRecord, Message
from torch import Tensor

from fl_sim.federation.replies import MOST, is_distribution, metric, tensors
from fl_sim.updates import Update, norm, problem, to_gradient


@dataclass(frozen=True)
class ReplySchema:
    """What the replies of a whole run have in common."""

    parameter_names: Sequence[str]  # of the model, without buffers, in its order
    update: Literal["gradient", "weights"]
    learning_rate: float  # of the users' local steps; used where the replies are weights
    max_norm: float  # L2 norm of a gradient
    num_classes: int | None = None  # shares in the label proportions of a reply; None: any number
    statistics: Mapping[str, Tensor] = field(default_factory=dict)  # tensors like the batch-norm statistics beside it
    users: int | None = None  # partition ids lie below it; None: any may be
    aggregated: bool = False  # a reply is the mean of the updates of its `members`, the first of whom sends it


@dataclass(frozen=True)
class ParsedReply:
    """What a reply holds that can be attacked."""

    update: Update  # as received, gradient or weights, of all parameters of the model
    norm: float  # L2 norm of the gradient
    label_proportions: list[float] | None = None
    statistics: Update | None = None  # batch-norm means and variances of the user's photos
    members: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()  # what had to be assumed to read it


class InvalidReply(Exception):
    """Why a reply is not accepted, and the L2 norm of its gradient where that was learnt and is finite."""

    def __init__(self, reason: str, norm: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.norm = reason, norm if norm is not None and math.isfinite(norm) else None


def check_origin(reply: Message, user: int, server_round: int, asked: bool) -> None:
    """InvalidReply if what `reply` says of its origin cannot be; `asked`: whether its node was, in this round."""
    if not asked:
        raise InvalidReply("the node was not asked in this round")
    claimed, answered = metric(reply, "partition-id"), metric(reply, "server-round")
    if claimed != user:
        raise InvalidReply(f"the reply says that it is of user {claimed!r}, but its node is that of user {user}")
    if answered not in (None, server_round):  # a tuple: it may be a list
        raise InvalidReply(f"the reply is of round {answered!r}, expected {server_round}")


def claimed_examples(reply: Message) -> int | None:
    """Of how many photos `reply` says that it is; None for what is no such number."""
    examples = metric(reply, "num-examples")
    return examples if isinstance(examples, int) and 0 < examples < MOST else None


def read_update(reply: Message, schema: ReplySchema, sent: Update, record: str) -> ParsedReply:
    """What `reply` holds, where users were sent the model `sent` in an array record called `record`.

    Raises InvalidReply for what is not of the `schema`.
    """
    if claimed_examples(reply) is None:
        examples = metric(reply, "num-examples")
        raise InvalidReply(f"num-examples is {examples!r}, expected a whole number above 0 and below 2^31")
    proportions = metric(reply, "label-proportions")
    if proportions is not None and not is_distribution(proportions, schema.num_classes):
        raise InvalidReply("label-proportions are not a number from 0 to 1 for each class that sum to 1")
    received, statistics = _tensors(reply, schema, record)
    # A user who sends weights may send the buffers too; they carry no gradient.
    buffers = received.keys() - set(schema.parameter_names) if schema.update == "weights" else set()
    expected = {name: sent[name] for name in sent if name in {*schema.parameter_names, *buffers}}
    reason = problem(received, expected) or problem(statistics, schema.statistics)
    if any(name.endswith(".var") and bool((value < 0).any()) for name, value in statistics.items()):
        reason = "a batch-norm variance is below 0"
    if reason is not None:
        raise InvalidReply(reason)
    update = {name: received[name] for name in schema.parameter_names}
    gradient = update if schema.update == "gradient" else to_gradient(sent, update, schema.learning_rate)
    size = norm(gradient)
    if not size <= schema.max_norm:
        raise InvalidReply(f"norm {size:.3g} exceeds the limit {schema.max_norm:.3g}", size)
    members = _members(reply) if schema.aggregated else ()
    return ParsedReply(update, size, proportions, statistics or None, members)


def _tensors(reply: Message, schema: ReplySchema, record: str) -> tuple[Update, Update]:
    """The update and the batch-norm statistics, as they came."""
    records = dict(reply.content.array_records.items())
    beside = records.pop("statistics", ArrayRecord()) if schema.statistics else ArrayRecord()
    if len(records) != 1:
        raise InvalidReply(f"the reply holds {len(records)} array records, expected 1")
    if record not in records:
        raise InvalidReply(f"the array record is called {next(iter(records))!r}, expected {record!r}")
    try:
        return tensors(next(iter(records.values()))), tensors(beside)
    except Exception as error:  # numpy and torch raise anything on bytes that are no array, MemoryError too
        raise InvalidReply(f"the arrays cannot be decoded: {error}") from error


def _members(reply: Message) -> tuple[int, ...]:
    members = metric(reply, "members")
    return tuple(user for user in members if isinstance(user, int)) if isinstance(members, list) else ()
