"""Whether a reply is what an honest user would send: pure functions, from the bytes to an update that can be used."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from flwr.app import ArrayRecord, Message
from torch import Tensor

from fl_sim.federation.replies import MOST, is_distribution, metric, tensors
from fl_sim.updates import Update, norm, problem, to_gradient


@dataclass(frozen=True)
class Terms:
    """What the replies of a whole run have in common."""

    parameter_names: Sequence[str]  # of the model, without buffers, in its order
    update: Literal["gradient", "weights"]
    learning_rate: float  # of the users' local steps; used where the replies are weights
    max_norm: float  # L2 norm of a gradient
    statistics: Mapping[str, Tensor]  # tensors like the batch-norm statistics beside the replies, if any
    aggregated: bool  # a reply is the mean of the updates of its `members`, the first of whom sends it
    num_classes: int | None  # shares in the label proportions of a reply; None: any number


@dataclass(frozen=True)
class Content:
    """What an accepted reply holds."""

    examples: int  # as reported
    proportions: list[float] | None
    update: Update  # as received, gradient or weights
    norm: float  # L2 norm of the gradient
    statistics: Update
    members: tuple[int, ...]


class Refused(Exception):
    """Why a reply is not accepted, and what was learnt of it before."""

    def __init__(self, reason: str, examples: int | None = None, norm: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.examples, self.norm = reason, examples, norm


def check_origin(reply: Message, user: int, server_round: int, asked: bool) -> None:
    """Refused if `reply` says of where it is from what cannot be; `asked`: whether its node was, in this round."""
    if not asked:
        raise Refused("the node was not asked in this round")
    claimed, answered = metric(reply, "partition-id"), metric(reply, "server-round")
    if claimed != user:
        raise Refused(f"the reply says that it is of user {claimed!r}, but its node is that of user {user}")
    if answered not in (None, server_round):  # a tuple: it may be a list
        raise Refused(f"the reply is of round {answered!r}, expected {server_round}")


def read_update(reply: Message, terms: Terms, sent: Update, record: str) -> Content:
    """What `reply` holds, where users were sent the model `sent` in an array record called `record`; else Refused."""
    examples = metric(reply, "num-examples")
    if not isinstance(examples, int) or not 0 < examples < MOST:
        raise Refused(f"num-examples is {examples!r}, expected a whole number above 0 and below 2^31")
    proportions = metric(reply, "label-proportions")
    if proportions is not None and not is_distribution(proportions, terms.num_classes):
        raise Refused("label-proportions are not a number from 0 to 1 for each class that sum to 1")
    received, statistics = _tensors(reply, terms, record)
    # A user who sends weights may send the buffers too; they carry no gradient.
    buffers = received.keys() - set(terms.parameter_names) if terms.update == "weights" else set()
    expected = {name: sent[name] for name in sent if name in {*terms.parameter_names, *buffers}}
    reason = problem(received, expected, math.inf) or problem(statistics, terms.statistics, math.inf)
    if any(name.endswith(".var") and bool((value < 0).any()) for name, value in statistics.items()):
        reason = "a batch-norm variance is below 0"
    if reason is not None:
        raise Refused(reason, examples)
    update = {name: received[name] for name in terms.parameter_names}
    gradient = update if terms.update == "gradient" else to_gradient(sent, update, terms.learning_rate)
    size = norm(gradient)
    if not size <= terms.max_norm:
        raise Refused(f"norm {size:.3g} exceeds the limit {terms.max_norm:.3g}", examples, size)
    return Content(examples, proportions, update, size, statistics, _members(reply) if terms.aggregated else ())


def _tensors(reply: Message, terms: Terms, record: str) -> tuple[Update, Update]:
    """The update and the batch-norm statistics, as they came."""
    records = dict(reply.content.array_records.items())
    beside = records.pop("statistics", ArrayRecord()) if terms.statistics else ArrayRecord()
    if len(records) != 1:
        raise Refused(f"the reply holds {len(records)} array records, expected 1")
    if record not in records:
        raise Refused(f"the array record is called {next(iter(records))!r}, expected {record!r}")
    try:
        return tensors(next(iter(records.values()))), tensors(beside)
    except Exception as error:  # numpy and torch raise anything on bytes that are no array, MemoryError too
        raise Refused(f"the arrays cannot be decoded: {error}") from error


def _members(reply: Message) -> tuple[int, ...]:
    members = metric(reply, "members")
    return tuple(user for user in members if isinstance(user, int)) if isinstance(members, list) else ()
