"""What a reply of somebody else's app holds, read as the audited model: all that Flower accepts, whatever it is called.

Arrays may have other names (`fl_sim.state_dicts`), half or double precision, lie in a record of any name among others,
and be a part of the model: the rest is what the user was sent, so its gradient is zero.
"""

from collections.abc import Mapping
from typing import TypeGuard

import torch
from flwr.app import ArrayRecord, Message

from attacker.capture.reply_checks import InvalidReply, ParsedReply
from fl_sim.federation.replies import MOST, tensors
from fl_sim.state_dicts import Fitted, Misfit, ModelTensors
from fl_sim.updates import NEAR, Update, cosine, in_short, norm, to_gradient

EXAMPLES = "num-examples"  # what Flower's strategies weigh replies by, unless they are told otherwise


def read_weights(reply: Message, sent: Update, model: ModelTensors, learning_rate: float, record: str) -> ParsedReply:
    """The weights that a user made of `sent` (parameters and buffers), which came in a record called `record`.

    Raises InvalidReply for a reply that cannot be attacked.
    """
    _, fitted = fit(dict(reply.content.array_records), model, record)
    got = {name: fitted.values[name] for name in model.parameters if name in fitted.values}
    if not got:
        raise InvalidReply("the arrays hold no parameter of the model")
    absent = [name for name in model.parameters if name not in got]
    if fitted.unknown and absent:
        raise InvalidReply(f"the model has no {in_short(fitted.unknown)}, and {in_short(absent)} is missing")
    for name, value in got.items():
        if not bool(torch.isfinite(value).all()):
            raise InvalidReply(f"{name!r} holds NaN or Inf")
    notes = list(fitted.notes)
    if fitted.unknown:
        notes.append(f"arrays that the model does not have were left out: {in_short(fitted.unknown)}")
    if absent:
        notes.append(f"{in_short(absent)} did not come back, taken as frozen: zero gradient")
    if cosine(sent, got) < NEAR:
        notes.append(
            "replies are far from the weights that were sent: are they gradients, or differences? Then this is no audit"
        )
    weights = {name: got.get(name, sent[name]) for name in model.parameters}
    size = norm(to_gradient(sent, weights, learning_rate))
    if size == 0:
        raise InvalidReply("the weights are those that were sent: nothing was trained", norm=0.0)
    return ParsedReply(weights, size, notes=tuple(notes))


def fit(records: Mapping[str, ArrayRecord], model: ModelTensors, preferred: str) -> tuple[str, Fitted]:
    """The record called `preferred`, or else that which holds most of the model's tensors: its name, and them.

    Raises InvalidReply where none can be read, or there is none.
    """
    if preferred in records:
        records = {preferred: records[preferred]}
    fits: dict[str, Fitted] = {}
    reasons = []
    for name, record in records.items():
        try:
            fits[name] = model.fit(tensors(record))
        except Misfit as error:
            reasons.append(f"of the array record {name!r}: {error}")
        except Exception as error:  # numpy and torch raise anything on bytes that are no array, MemoryError too
            reasons.append(f"the arrays of {name!r} cannot be decoded: {error}")
    if not fits:
        raise InvalidReply("; ".join(reasons) or "there is no array record")
    return max(fits.items(), key=lambda item: len(item[1].values))


def count_photos(reply: Message, weight: str) -> tuple[int | None, tuple[str, ...]]:
    """Of how many photos `reply` says that it is, None if it does not; and what had to be assumed.

    `weight` is the metric by which the app's strategy weighs replies. A number of photos is one, of any type, unless
    it has a fraction; or is 1 in the place of a weight, where it is likelier that all weigh the same.
    """
    for key in dict.fromkeys((EXAMPLES, weight)):
        value = _anywhere(reply, key)
        if _is_count(value) and (key == EXAMPLES or value > 1):
            return int(value), _doubts(key, value)
    return None, ("replies do not say of how many photos they are",)


def _doubts(key: str, value: float) -> tuple[str, ...]:
    if key != EXAMPLES:
        return (f"photos were counted by the metric {key!r}",)
    return () if value > 1 else ("the update is said to be of one photo; if that is a weight, give --num-examples",)


def _anywhere(message: Message, key: str) -> object:
    """The value of `key` in the first metric record of `message` that has it; None if none does."""
    records = message.content.metric_records.values() if message.has_content() else ()
    return next((record[key] for record in records if key in record), None)


def partition(reply: Message) -> int | None:
    """The user's number, as the reply tells it; None if it does not."""
    value = _anywhere(reply, "partition-id")
    return int(value) if _is_count(value) else 0 if value == 0 else None


def _is_count(value: object) -> TypeGuard[int | float]:
    """Whether it is a number above 0, of any type, without a fraction."""
    return isinstance(value, int | float) and 0 < value < MOST and value == int(value)
