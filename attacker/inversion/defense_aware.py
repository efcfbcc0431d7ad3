"""What an attacker that knows the defenses makes of that: which entries it compares, in which form, at which weight.

An update that went through `defenses` (attacker.observation.Observation.defenses) is matched by a dummy
gradient that went through the same, as far as that can be done and differentiated. It goes by their traits alone
(fl_sim.traits), so by what their authors declare:

- `zeroes`: entries that were set to zero are left out of the comparison; the mask is read off the update;
- `zeroes = "smallest"` and `signs` treat an entry by its size, so what comes through is not only less, it points
  elsewhere, is biased: `bias_share`;
- `signs` is a smooth sign on the dummy, x / sqrt(x^2 + rms^2), the rms that of its layer (its straight-through form
  has the same derivative all over, so it says nothing of entries that are right already);
- `per_layer`: each layer of the dummy gets the norm that the layer was seen with;
- `noise`, and rounding to `levels`: a layer counts by the part of its energy that is signal, as in a Wiener filter; the
  noise level is the declared one where the attacker knows it, else it is estimated from the update. What it does to the
  step of an attack is in attacker.inversion.noise.

Of an update whose norm is not the gradient's (`scales`) directions are compared, whatever the attack's distance
(matching.compare); label recovery reads the factor off it (labels). Local steps (`epochs`) are steps
like any other user's, which an attack with `simulated_steps` simulates (`local_training`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from attacker.observation import LocalTraining
from fl_sim.traits import Traits

SIGNED = 0.75  # `bias_share` of an update of signs; it and the next are by rule of thumb (docs/frontier.md)
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
    scaled: bool = False  # whether the gradient's length is not the user's, so that directions alone can be compared
    bias_share: float = 0.0  # part in [0, 1] of an attack's step that counts as the defense's doing, as noise would


def adapt(gradient: Mapping[str, Tensor], defenses: Sequence[Traits], users: int = 1) -> Adaptation:
    """How to match `gradient`, the mean of so many `users`' updates, that came through `defenses` as far as known."""
    tensors = [value.detach().reshape(-1) for value in gradient.values()]
    masked = any(defense.zeroes != "none" for defense in defenses)
    kept = torch.cat([tensor != 0 for tensor in tensors]) if masked else None
    if kept is not None and (kept.all() or not kept.any()):
        kept = None  # noise after the mask hides it, and an update of zeros says nothing
    noise: tuple[float, ...] = ()
    if any(defense.noise != "none" or defense.levels for defense in defenses):
        noise = tuple(_noise(tensors, defenses, users))
    scaled = any(defense.scales for defense in defenses)
    return Adaptation(noise, kept, _transform(tensors, defenses), scaled, _bias_share(defenses, kept))


def _bias_share(defenses: Sequence[Traits], kept: Tensor | None) -> float:
    """`Adaptation.bias_share` of an update that came through these defenses; `kept` (p,) are the entries that did."""
    if any(defense.signs for defense in defenses):
        return SIGNED
    if kept is not None and any(defense.zeroes == "smallest" for defense in defenses):
        return 0.5 * max(0.0, 1 - float(kept.double().mean()) / WHOLE)
    return 0.0


def local_training(
    granted: LocalTraining | None, defenses: Sequence[Traits], learning_rate: float
) -> LocalTraining | None:
    """The users' local steps: those of a known defense that sets them, else what the threat model `granted` of all."""
    for defense in defenses:
        if defense.epochs:
            return LocalTraining(defense.epochs, defense.batch_size, learning_rate)
    return granted


def _noise(tensors: Sequence[Tensor], defenses: Sequence[Traits], users: int) -> list[float]:
    """The variance of the noise on the entries of each tensor (n,), in the mean of so many `users`' updates."""
    added = 0.0
    for defense in defenses:
        if defense.noise != "none":
            known = defense.noise_variance
            added += _estimated_variance(tensors, defense.noise == "laplace") if known is None else known / users
    quantized = any(defense.levels for defense in defenses)
    return [added + (_step(tensor) ** 2 / 6 if quantized else 0.0) for tensor in tensors]


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


def _transform(tensors: Sequence[Tensor], defenses: Sequence[Traits]) -> Transform | None:
    """The defenses' non-linear steps on a dummy gradient (p,), layer by layer; None if there are none."""
    sizes = [len(tensor) for tensor in tensors]
    steps: list[Callable[[Sequence[Tensor]], list[Tensor]]] = []
    for defense in defenses:
        if defense.signs:
            steps.append(_soft_sign)
        elif defense.per_layer:
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
