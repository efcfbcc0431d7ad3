"""What an attacker that knows the defenses makes of that: which entries it compares, in which form, at which weight.

An update that went through `defenses` (attacker.observation.Observation.defenses) is matched by a dummy
gradient that went through the same, as far as that can be done and differentiated:

- entries that were set to zero (`prune`, `random_sparsify`, `dropout_update`, `representation_perturbation`) are left
  out of the comparison: the mask is read off the update;
- `prune` and `sign` treat an entry by its size, so what comes through is not only less, it points elsewhere: `bent`;
- `sign` is a smooth sign on the dummy, x / sqrt(x^2 + rms^2), the rms that of its layer (its straight-through form
  has the same derivative all over, so it says nothing of entries that are right already);
- `clip` with per_layer: each layer of the dummy gets the norm that the layer was seen with;
- added noise (`gaussian_noise`, `laplace_noise`, `local_dp`, `quantize`): a layer counts by the part of its energy that
  is signal, as in a Wiener filter; the noise level is that of the defense's table where the attacker knows it, else
  it is estimated from the update. What it does to the step of an attack is in attacker.noise.

A clipped norm needs nothing here: the cosine distance is blind to scale (label recovery is not: attacker.labels).
`local_steps` are steps like any other user's, which an attack with `unroll` simulates (`local_training`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from attacker.observation import LocalTraining
from fl_sim import gaussian_mechanism

MASKING = {"prune", "random_sparsify", "dropout_update", "representation_perturbation"}
SCALING = {"clip", "local_dp", "sign"}
NOISY = {"gaussian_noise", "laplace_noise", "local_dp"}
SIGNED = 0.75  # `bent` of an update of signs; it and the next are by rule of thumb (docs/frontier.md)
WHOLE = 0.1  # share of the entries from which on the largest ones point where all do
FEW = 256  # entries from which on a layer's spread says something of the noise in it
TINY = 1e-30  # added to squares: no division by zero

Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Adaptation:
    """How observed and dummy gradients are compared; the default is as they are."""

    noise: tuple[float, ...] = ()  # variance of the noise on the entries of each tensor; empty: none
    kept: Tensor | None = None  # (p,) bool, the entries that the defense let through
    transform: Transform | None = None  # what the dummy gradient (p,) goes through; differentiable
    bent: float = 0.0  # part in [0, 1] of an attack's step that is taken for the defense's doing, as noise would be


def adapt(gradient: Mapping[str, Tensor], defenses: Sequence[Mapping[str, Any]]) -> Adaptation:
    """How to match `gradient`, that came through `defenses`: tables of name and, where known, settings."""
    names = [str(table.get("name")) for table in defenses]
    tensors = [value.detach().reshape(-1) for value in gradient.values()]
    kept = torch.cat([tensor != 0 for tensor in tensors]) if MASKING & set(names) else None
    if kept is not None and (kept.all() or not kept.any()):
        kept = None  # noise after the mask hides it, and an update of zeros says nothing
    noise: tuple[float, ...] = ()
    if (NOISY | {"quantize"}) & set(names):
        noise = tuple(_noise(tensors, defenses))
    return Adaptation(noise, kept, _transform(tensors, defenses), _bent(names, kept))


def _bent(names: Sequence[str], kept: Tensor | None) -> float:
    """`Adaptation.bent` of an update that went through these defenses; `kept` are the entries that came through."""
    if "sign" in names:
        return SIGNED
    if "prune" in names and kept is not None:
        return 0.5 * max(0.0, 1 - float(kept.double().mean()) / WHOLE)
    return 0.0


def local_training(
    told: LocalTraining | None, defenses: Sequence[Mapping[str, Any]], learning_rate: float
) -> LocalTraining | None:
    """The users' local steps: those of a known `local_steps`, else what the attacker is `told` of everybody's."""
    for table in defenses:
        if table.get("name") == "local_steps" and "epochs" in table:
            return LocalTraining(int(table["epochs"]), int(table.get("batch_size", 0)), learning_rate)
    return told


def _noise(tensors: Sequence[Tensor], defenses: Sequence[Mapping[str, Any]]) -> list[float]:
    """The variance of the noise on the entries of each tensor (n,)."""
    added, clip_norm = 0.0, None
    for table in defenses:
        if table.get("name") == "clip":
            clip_norm = table.get("max_norm")
        if table.get("name") in NOISY:
            known = _known_variance(table, clip_norm)
            added += _estimated_variance(tensors, table["name"] == "laplace_noise") if known is None else known
    quantized = any(table.get("name") == "quantize" for table in defenses)
    return [added + (_step(tensor) ** 2 / 6 if quantized else 0.0) for tensor in tensors]


def _known_variance(table: Mapping[str, Any], clip_norm: float | None) -> float | None:
    """The variance that a noise's table states, behind a clip of `clip_norm`.

    None where it does not: only the mechanism is known, or the noise is relative to the update as it was without it.
    """
    if {"epsilon", "delta", "max_norm"} <= set(table):
        return gaussian_mechanism.std(table["epsilon"], table["delta"], 2 * table["max_norm"]) ** 2
    units = {"absolute": 1.0, "clip_norm": clip_norm}.get(table.get("relative", "absolute"))
    if units is None:
        return None
    if "std" in table:
        return (units * float(table["std"])) ** 2
    return 2 * (units * float(table["scale"])) ** 2 if "scale" in table else None


def _estimated_variance(tensors: Sequence[Tensor], laplace: bool) -> float:
    """The variance of normal or Laplace noise that is the same on all entries, from the tensor that varies least.

    By the median of absolute entries (Donoho & Johnstone 1994): a gradient has few large entries, noise has many.
    """
    large = [tensor for tensor in tensors if len(tensor) >= FEW] or list(tensors)
    median = min(float(tensor.abs().median()) for tensor in large)
    return 2 * (median / math.log(2)) ** 2 if laplace else (median / 0.6745) ** 2


def _step(tensor: Tensor) -> float:
    """The distance between neighbouring levels of a quantised tensor (n,); stochastic rounding errs by step^2 / 6."""
    levels = torch.unique(tensor.double())
    gaps = levels.diff()
    gaps = gaps[gaps > 1e-6 * levels.abs().max()]
    return float(gaps.min()) if len(gaps) else 0.0


def _transform(tensors: Sequence[Tensor], defenses: Sequence[Mapping[str, Any]]) -> Transform | None:
    """The defenses' non-linear steps on a dummy gradient (p,), layer by layer; None if there are none."""
    sizes = [len(tensor) for tensor in tensors]
    steps: list[Callable[[Sequence[Tensor]], list[Tensor]]] = []
    for table in defenses:
        if table.get("name") == "sign":
            steps.append(_soft_sign)
        elif table.get("name") == "clip" and table.get("per_layer"):
            steps.append(partial(_scaled, norms=[float(tensor.double().norm()) for tensor in tensors]))
    if not steps:
        return None

    def transform(dummy: Tensor) -> Tensor:
        parts: Sequence[Tensor] = dummy.split(sizes)  # type: ignore[no-untyped-call]
        for step in steps:
            parts = step(parts)
        return torch.cat(list(parts))

    return transform


def _soft_sign(parts: Sequence[Tensor]) -> list[Tensor]:
    return [part / (part.square() + part.detach().square().mean() + TINY).sqrt() for part in parts]


def _scaled(parts: Sequence[Tensor], norms: Sequence[float]) -> list[Tensor]:
    return [part * (norm / (part.square().sum() + TINY).sqrt()) for part, norm in zip(parts, norms, strict=True)]
