"""Gradient matching: the gradient that candidate images would have caused, and its distance to the observed one.

The dummy gradient of a victim is that of the weighted mean loss over its representatives,
`sum_k w_k dL(f(x_k), y_k) / dtheta`: one vector (p,) in the order of `model.named_parameters()`.

Several victims of a round share the model. Their images go through this file as one tensor, yet the model runs victim
by victim, because the loop serves any module and batching gains nothing over it: on one CPU thread eight victims by
torch.func.vmap take 1.1 times the loop's time, by unfold + bmm 2.1 times (convnet, 64 px, two images a victim). What
eight victims together save, 0.79 of the whole attack's time, they save in the prior's passes.
A model that normalises with batch statistics sees a victim's representatives as the batch, each counted once: the best
guess at the user's own statistics.
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from attacker.inversion.defense_aware import Adaptation, Transform
from attacker.inversion.finite_difference import FiniteDifference
from attacker.inversion.local_simulation import LocalSteps, pseudo_gradient
from attacker.inversion.losses import image_losses
from attacker.inversion.second_order import cheap_second_order
from fl_sim.modules import free_of_graphs, gradients, load_state

Distance = Callable[[Tensor, Tensor], Tensor]
MANY = 8  # images a victim from which convolutions are faster with channels last (30: 1.1 times; 1: 0.7 to 0.9 times)
FEW = 1 << 12  # pixels of a victim's images up to which oneDNN's convolutions are slower than torch's own
SHORT = 1 << 17  # entries that float32 sums up to its own precision
SMALLEST = torch.finfo(torch.float32).tiny
TINY = 1e-30  # added to norms of float32 vectors: smaller than any that matters, larger than zero


@dataclass(frozen=True)
class Representatives:
    """The representatives of one victim: what stays fixed while their pixels are optimised."""

    labels: Tensor  # (k,) int64, or (k, classes) probabilities
    weights: Tensor  # (k,) the share of the user's photos behind each, heaviest first, sums to 1
    local: LocalSteps | None = None  # several local steps to simulate; None: one gradient


def cosine(dummy: Tensor, observed: Tensor) -> Tensor:
    """1 - cos(dummy, observed) over the last dimension (p,): in [0, 2], 0 at a match; blind to scale (Geiping 2020).

    Computed as half the squared distance of the normalised vectors: on untrained models the loss falls below
    1e-3, where 1 - cos in float32 over millions of entries is mostly rounding.
    """
    return 0.5 * (_normalised(dummy) - _normalised(observed)).square().sum(-1)


def _normalised(vector: Tensor) -> Tensor:
    # Not .norm(): over millions of float32 entries it is off by 1e-3, a plain sum is not.
    # Clamped, since the root has no derivative at 0: a dummy gradient may be zero.
    return vector / (vector.square().sum(-1, keepdim=True).clamp_min(SMALLEST).sqrt() + TINY)


def mse(dummy: Tensor, observed: Tensor) -> Tensor:
    """|| dummy - observed ||^2 over the last dimension (p,): 0 or more, 0 is a match (Zhu et al. 2019)."""
    return (dummy - observed).square().sum(-1)


UNDEFENDED = Adaptation()
DISTANCES: dict[str, Distance] = {"cosine": cosine, "mse": mse}


def load_model(model: nn.Module, parameters: Mapping[str, Tensor]) -> nn.Module:
    """A copy of `model` with the parameters and buffers that the server sent, in the mode that the model is in."""
    loaded = copy.deepcopy(free_of_graphs(model))
    load_state(loaded, parameters)
    return loaded


@dataclass(frozen=True)
class ObservedGradient:
    """An observed gradient, scaled layer by layer; dummy gradients are scaled the same before they are compared."""

    vector: Tensor  # (p,) of norm 1, or zero
    scale: Tensor  # (p,) what the gradient was multiplied with
    weights: tuple[float, ...] | None = None  # `scale` of each tensor, if the same all over it and `vector` is not zero
    transform: Transform | None = None  # what dummy gradients go through before they are scaled: known defenses
    scaled: bool = False  # as in attacker.inversion.defense_aware.Adaptation
    noise: Tensor | None = None  # (p,) deviations of the noise that the vector is known to hold
    bias_share: float = 0.0  # as in attacker.inversion.defense_aware.Adaptation


def observed_gradient(
    gradient: Mapping[str, Tensor], layer_norm_power: float = 0.0, adaptation: Adaptation = UNDEFENDED
) -> ObservedGradient:
    """The observed gradient with its parameter tensors weighted by `layer_norm_power`, in all of norm 1.

    0 compares gradients as they are, where the biases and the last layer drown the rest. At 1 the square of a tensor's
    norm goes with the square root of its entries: halfway between tensors that count the same, where a bias of 32
    entries outvotes the kernel beside it, and entries that do; a power in between. An `adaptation` to known defenses
    weights tensors by their signal, leaves out entries that were zeroed and transforms dummies. Tensors that are zero
    throughout are left out too: the user has frozen them, and the attacker's model may not know. Computed in double
    precision: the square of a tiny gradient underflows in float32.
    """
    parts = [value.double().reshape(-1) for value in gradient.values()]
    norms = torch.stack([part.norm() for part in parts])  # (tensors,)
    total = norms.norm()
    lengths = [len(part) for part in parts]
    # What a defense left out is not there to be compared, and a tensor weighs by what is.
    through = lengths if adaptation.kept is None else [int(kept.sum()) for kept in adaptation.kept.split(lengths)]  # type: ignore[no-untyped-call]
    entries = torch.tensor(through, dtype=norms.dtype, device=norms.device).clamp_min(1)
    variances = norms.new_tensor(adaptation.noise) if adaptation.noise else torch.zeros_like(norms)
    signal = (norms.square() - entries * variances).clamp_min(0)
    # Where noise is the larger error, the plain distance is the likelihood: balance only what stands out of it.
    sizes = (signal * (entries.sum() / entries).sqrt() + entries.sum() * variances).sqrt()
    sizes = torch.where(norms > 0, sizes, sizes.max())  # what a defense zeroed says least: not to be raised
    weights = (sizes / total.clamp_min(TINY)).clamp_min(1e-6) ** -layer_norm_power
    weights = weights * (norms > 0)
    scale = torch.cat([weight.expand(len(part)) for weight, part in zip(weights, parts, strict=True)])
    if adaptation.kept is not None:
        scale = scale * adaptation.kept
    if total == 0:
        return ObservedGradient(torch.cat(parts).float(), torch.ones_like(scale).float())
    vector = torch.cat(parts) / total * scale
    # No update of a real user is that faint; without the floor the dummy's squares would overflow float32.
    factor = 1 / vector.norm() / total.clamp_min(1e-15)
    plain = adaptation.kept is None and adaptation.transform is None
    same = tuple((weights * factor).tolist()) if plain else None
    noise = None
    if adaptation.noise:
        deviations = variances.sqrt().repeat_interleave(torch.tensor(lengths, device=norms.device))
        noise = (scale * factor * deviations).float()
    return ObservedGradient(
        (vector / vector.norm()).float(), (scale * factor).float(), same,
        adaptation.transform, adaptation.scaled, noise, adaptation.bias_share,
    )  # fmt: skip


def compare(dummy: Tensor, observed: ObservedGradient, distance: Distance) -> Tensor:
    """The distance of a dummy gradient (p,) from what was observed, through the defenses that are known."""
    seen = dummy if observed.transform is None else observed.transform(dummy)
    return (cosine if observed.scaled else distance)(seen * observed.scale, observed.vector)


def dummy_gradient(model: nn.Module, images: Tensor, reps: Representatives) -> Tensor:
    """The gradient (p,) of the weighted mean loss of images (k, 3, H, W) in [-1, 1]; differentiable in the images."""
    return torch.cat([gradient.reshape(-1) for gradient in _gradients(model, images, reps)])


def _gradients(model: nn.Module, images: Tensor, reps: Representatives) -> tuple[Tensor, ...]:
    """The same, one tensor a parameter."""
    with cheap_second_order():
        if reps.local is not None:
            return pseudo_gradient(model, images, reps.labels, reps.weights, reps.local)
        return gradients(_loss(model, reps, images), list(model.parameters()), create_graph=True)


def _loss(
    model: nn.Module, reps: Representatives, images: Tensor, parameters: dict[str, Tensor] | None = None
) -> Tensor:
    """The weighted mean loss of images (k, 3, H, W), at other `parameters` than the model's own if they are given."""
    outputs = model(images) if parameters is None else torch.func.functional_call(model, parameters, (images,))
    return (image_losses(model, outputs, reps.labels) * reps.weights).sum()


def matching_loss_and_grad(
    model: nn.Module,
    images: Tensor,
    representatives: Sequence[Representatives],
    observed_gradients: Sequence[ObservedGradient],
    distance: Distance,
    finite_difference: FiniteDifference | None = None,
) -> tuple[Tensor, Tensor]:
    """Matching losses (victims,) and their gradients in the images (n, 3, H, W).

    `images` holds the representatives of all victims, one victim after the other. With a
    `finite_difference` of the model the second derivative is one, else double backward.
    """
    # The closed form saves memory traffic, but asks for values on the way, which stops a GPU.
    closed = distance is cosine and not images.is_cuda
    differentiate = _cosine_directions if closed else partial(_directions, distance=distance)
    losses, grads = [], []
    for part, reps, observed in zip(split(images, representatives), representatives, observed_gradients, strict=True):
        few = part[:, 0].numel() <= FEW
        layout = torch.channels_last if few or len(part) >= MANY else torch.contiguous_format
        pixels = part.detach().contiguous(memory_format=layout).requires_grad_(True)
        toward = partial(differentiate, observed=observed)
        with without_onednn() if few else nullcontext():
            if finite_difference is not None and reps.local is None:
                loss, grad = finite_difference.grad(partial(_loss, model, reps), pixels, toward)
            else:
                loss, grad = _double_backward(_gradients(model, pixels, reps), pixels, toward)
        losses.append(loss)
        grads.append(grad)
    return torch.stack(losses), torch.cat(grads)


@contextmanager
def without_onednn() -> Iterator[None]:
    """Within it, convolutions on a CPU are torch's own, which do not reorder their weights in each pass."""
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


def _double_backward(
    gradients: Sequence[Tensor], x: Tensor, differentiate: Callable[..., Any]
) -> tuple[Tensor, Tensor]:
    """The distance of `gradients`, which have a graph, from what was observed, and its gradient in the images x.

    The distance is differentiated on its own: the loss depends on the images through the gradient alone.
    """
    loss, directions = differentiate([gradient.detach().reshape(-1) for gradient in gradients])
    pairs = [(g, v.view_as(g)) for g, v in zip(gradients, directions, strict=True) if g.requires_grad]
    outputs, along = zip(*pairs, strict=True)
    return loss, torch.autograd.grad(_Along.apply(along, *outputs), x)[0]


class _Along(torch.autograd.Function):
    """A number whose derivatives in `outputs` are `along`: what `grad_outputs` says, for which torch imports sympy."""

    @staticmethod
    def forward(context: Any, along: Sequence[Tensor], *outputs: Tensor) -> Tensor:
        context.along = along
        return outputs[0].new_zeros(())

    @staticmethod
    def backward(context: Any, grad: Tensor) -> Any:
        return None, *context.along


def _directions(
    dummy: list[Tensor], room: Sequence[Tensor] | None = None, *, observed: ObservedGradient, distance: Distance
) -> tuple[Tensor, Sequence[Tensor]]:
    """Any distance of the dummy gradient (one vector a parameter) and its derivative in each of them.

    Takes `room` as `_cosine_directions` does, and has no use for it.
    """
    vector = torch.cat(dummy).requires_grad_(True)
    loss = compare(vector, observed, distance)
    grad: Tensor = torch.autograd.grad(loss, vector)[0]
    return loss.detach(), grad.split([len(part) for part in dummy])  # type: ignore[no-untyped-call]


def _cosine_directions(
    dummy: list[Tensor], room: Sequence[Tensor] | None = None, *, observed: ObservedGradient
) -> tuple[Tensor, Sequence[Tensor]]:
    """The same for `cosine`, in closed form: with n = |s g| and c the cosine, s (c s g / n - o) / n of each tensor.

    Reads each entry twice and makes no long vector: over the 11 million of ResNet-18, autograd on one took 0.4 s more.
    Derivatives are written to `room`, where there is any: memory that is new costs as much as the arithmetic.
    """
    if observed.weights is None:
        return _directions(dummy, observed=observed, distance=cosine)
    parts = list(zip(dummy, observed.vector.split([len(part) for part in dummy]), observed.weights, strict=True))  # type: ignore[no-untyped-call]
    dots = [_dots(part, seen) for part, seen, _ in parts]
    square = sum(weight * weight * own for (own, _), weight in zip(dots, observed.weights, strict=True))
    norm = math.sqrt(square) + TINY
    cos = sum(weight * other for (_, other), weight in zip(dots, observed.weights, strict=True)) / norm
    places = itertools.repeat(None) if room is None else room
    directions = [
        torch.mul(part, cos * (weight / norm) ** 2, out=place).sub_(seen, alpha=weight / norm)
        for (part, seen, weight), place in zip(parts, places, strict=False)
    ]
    loss = max(0.5 * (square / norm**2 + 1) - cos, 0.0)
    return torch.tensor(loss, device=observed.vector.device), directions


def _dots(a: Tensor, b: Tensor) -> tuple[float, float]:
    """The inner products of a (p,) with itself and with b (p,), from sums that are short enough for float32."""
    if len(a) <= SHORT:
        return float(torch.dot(a, a)), float(torch.dot(a, b))
    pairs = list(zip(a.split(SHORT), b.split(SHORT), strict=True))  # type: ignore[no-untyped-call]
    each = [(float(torch.dot(left, left)), float(torch.dot(left, right))) for left, right in pairs]
    return sum(own for own, _ in each), sum(other for _, other in each)


def split(images: Tensor, representatives: Sequence[Representatives]) -> tuple[Tensor, ...]:
    """The images (n, ...) of each victim, in order."""
    return torch.split(images, [len(reps.labels) for reps in representatives])


def unit(images: Tensor) -> Tensor:
    """Each of (n, 3, H, W) divided by its own L2 norm; zero stays zero, tiny does not underflow."""
    scaled = images / images.abs().amax((1, 2, 3), keepdim=True).clamp_min(TINY)
    norms: Tensor = scaled.flatten(1).norm(dim=1)
    return scaled / norms[:, None, None, None].clamp_min(TINY)
