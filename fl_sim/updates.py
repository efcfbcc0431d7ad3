"""Arithmetic on updates: named tensors as they travel between user and server.

An update is `dict[str, Tensor]`, one entry per model parameter, in the model's own order. It is a
gradient g of the mean loss, or the weights w - lr * g after one step; `to_gradient` undoes the latter.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Update = dict[str, Tensor]
NEAR = 0.5  # cosine of the weights sent and an update, below which this is hardly weights, and above hardly a gradient


def flatten(update: Mapping[str, Tensor]) -> Tensor:
    """One vector (p,) of all entries, in the order of the mapping."""
    return torch.cat([value.reshape(-1) for value in update.values()])


def unflatten(vector: Tensor, like: Mapping[str, Tensor]) -> Update:
    """The inverse of `flatten`: split (p,) into the names and shapes of `like`."""
    sizes = [value.numel() for value in like.values()]
    if vector.numel() != sum(sizes):
        raise ValueError(f"a vector of {vector.numel()} entries does not fill {sum(sizes)} parameters")
    parts = torch.split(vector, sizes)
    return {name: part.view_as(value) for (name, value), part in zip(like.items(), parts, strict=True)}


def norm(update: Mapping[str, Tensor]) -> float:
    """L2 norm of the whole update, computed in double precision so that it cannot overflow; whole numbers count too."""
    floats = (value if value.is_floating_point() else value.double() for value in update.values())
    return math.hypot(*(float(torch.linalg.vector_norm(value, dtype=torch.float64)) for value in floats))


def cosine(sent: Mapping[str, Tensor], update: Mapping[str, Tensor]) -> float:
    """Of the entries of `update` and those of the same names in `sent`, in [-1, 1]; NaN where all of one are zero."""
    product = sum(float((sent[name].double() * value).sum()) for name, value in update.items())
    size = norm({name: sent[name] for name in update}) * norm(update)
    return product / size if size > 0 else math.nan


def apply_gradient(parameters: Mapping[str, Tensor], gradient: Mapping[str, Tensor], lr: float) -> Update:
    """w - lr * g, for every name in `gradient`."""
    return {name: parameters[name] - lr * grad for name, grad in gradient.items()}


def to_gradient(parameters: Mapping[str, Tensor], weights: Mapping[str, Tensor], lr: float) -> Update:
    """g = (w - w') / lr: the gradient that one local step of rate `lr` must have used."""
    if lr <= 0:
        raise ValueError(f"learning rate {lr} given; a gradient can be read off weights only for a rate above 0")
    return {name: (parameters[name] - value) / lr for name, value in weights.items()}


def problem(update: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    """Why `update` cannot be a reply to a model with parameters `expected`, or None if it can.

    `expected` holds tensors of the right names, shapes and dtypes.
    """
    missing, extra = expected.keys() - update.keys(), update.keys() - expected.keys()
    if missing:
        return f"missing key {in_short(sorted(missing))}"
    if extra:
        return f"unexpected key {in_short(sorted(extra))}"
    for name, value in expected.items():
        got = update[name]
        if got.shape != value.shape:
            return f"{name!r} has shape {tuple(got.shape)}, expected {tuple(value.shape)}"
        if got.dtype != value.dtype:
            return f"{name!r} has dtype {got.dtype}, expected {value.dtype}"
    if not math.isfinite(norm(update)):  # one pass tells whether all is well; only if not, look where
        name = next(name for name, value in update.items() if not bool(torch.isfinite(value).all()))
        return f"{name!r} holds NaN or Inf"
    return None


def in_short(names: Sequence[str]) -> str:
    """The first of `names`, and how many more there are."""
    return f"{names[0]!r}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
