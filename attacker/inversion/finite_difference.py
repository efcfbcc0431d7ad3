"""The gradient of a matching loss as a difference of two first derivatives, where double backward is not needed.

Matching asks for d/dx <grad_theta L(theta, x), v>, which is the derivative of grad_x L along v (Pearlmutter 1994):

    (grad_x L(theta + e v, x) - grad_x L(theta, x)) / e

The second term falls off the pass that yields grad_theta L. So of a convolution five passes are made where double
backward makes seven, and each on a plain graph. With |e v| = 1e-4 |theta|, truncation and float32 put it off by
0.0003 to 0.005 of its norm on smooth models and by up to 0.05 on ResNet-18
(tests/attacker/inversion/test_finite_difference.py).

A kink breaks this: where e v flips a ReLU, grad_x L jumps. Double backward takes a ReLU's side, and the place of a
maximum, for constants; so the second pass replays the activations of the first. Models with other kinks keep double
backward: `CheckedFallback` sees to it.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.overrides import TorchFunctionMode

from fl_sim.modules import gradients

STEP = 1e-4  # |e v| as a part of |theta|: ten times more truncates too much, ten times less drowns in rounding
AGREEMENT = 0.1  # part of its norm by which a gradient may be off; flipped units put it off by 1 and more
TINY = 1e-30

LossAndGrad = Callable[[Tensor], tuple[Tensor, Tensor]]
Loss = Callable[..., Tensor]
"""Of images, and of images and parameters other than the model's: a scalar."""
Differentiate = Callable[[list[Tensor], Sequence[Tensor]], tuple[Tensor, Sequence[Tensor]]]
"""Of a gradient, one vector a parameter, and room for as much: its distance from what was observed, and the distance's
derivative in each vector."""
NOT_SMOOTH = re.compile(
    r"(abs|amax|amin|clamp|clip|hardshrink|hardsigmoid|hardswish|hardtanh|leaky_relu|max|maximum|median|min|minimum|"
    r"prelu|relu6|rrelu|selu|softshrink|sort|threshold|topk|where|.*max_pool.*)_?"
)
"""Names of torch functions with kinks that are not replayed."""
RELU = {F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}
MAX_POOL = {F.max_pool2d, torch.max_pool2d}


class NotSmooth(Exception):
    """A model's gradient must not be taken by differences."""


class CheckedFallback:
    """`quick`, if it gives what `exact` gives for the first images; else `exact`. Both: images to losses and grads."""

    def __init__(self, exact: LossAndGrad, quick: LossAndGrad) -> None:
        self._exact, self._quick = exact, quick
        self._chosen: LossAndGrad | None = None

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self._chosen is not None:
            return self._chosen(x)
        losses, grads = self._exact(x)
        try:
            agree = bool((self._quick(x)[1] - grads).norm() <= AGREEMENT * grads.norm())  # not, if there is a NaN
        except NotSmooth:
            agree = False
        self._chosen = self._quick if agree else self._exact
        return losses, grads


class FiniteDifference:
    """A model that is differentiated so, and room for the parameters beside its own. It must not change meanwhile."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = dict(model.named_parameters())
        self._reach = STEP * float(get_total_norm(self._parameters.values()))
        self._room = [torch.empty_like(parameter.detach()).flatten() for parameter in self._parameters.values()]

    def grad(self, loss: Loss, x: Tensor, differentiate: Differentiate) -> tuple[Tensor, Tensor]:
        """The distance of the gradient of `loss` from what was observed, and its gradient in the images x (n, 3, H, W).

        Raises NotSmooth.
        """
        activations: list[Tensor] = []
        with RecordActivations(activations):
            value = loss(x)
        wanted = [x, *self._parameters.values()]
        here, *first = gradients(value, wanted)
        distance, along = differentiate([gradient.reshape(-1) for gradient in first], self._room)
        e = self._reach / (float(get_total_norm(along)) + TINY)
        parts = zip(self._parameters.items(), along, self._room, strict=True)
        moved = {
            name: torch.add(parameter.detach().reshape(-1), v, alpha=e, out=place).view_as(parameter)
            for (name, parameter), v, place in parts
        }
        with ReplayActivations(activations):
            value = loss(x, moved)
        (there,) = torch.autograd.grad(value, x, allow_unused=True, materialize_grads=True)
        return distance, (there - here) / e


class RecordActivations(TorchFunctionMode):
    """Within it, what ReLUs and max-pools let through is recorded: outputs, or the places of the maxima.

    Raises NotSmooth for a function that has kinks of another kind.
    """

    def __init__(self, activations: list[Tensor]) -> None:
        self._activations = activations

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in RELU:
            output = torch.relu(args[0])
            self._activations.append(output.detach())
            return output
        if func in MAX_POOL:
            output, places = F.max_pool2d(*args, **{**(kwargs or {}), "return_indices": True})
            self._activations.append(places)
            return output
        name = getattr(func, "__name__", "")
        if NOT_SMOOTH.fullmatch(name):
            raise NotSmooth(name)
        return func(*args, **kwargs or {})


class ReplayActivations(TorchFunctionMode):
    """Within it, ReLUs and max-pools let through what was recorded, in their order."""

    def __init__(self, activations: list[Tensor]) -> None:
        self._activations = iter(activations)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in RELU:  # passes a value where the recorded output is above 0, and its gradient likewise
            return torch.ops.aten.threshold_backward(args[0], next(self._activations), 0)
        if func in MAX_POOL:
            places = next(self._activations)
            return args[0].flatten(-2).gather(-1, places.flatten(-2)).view_as(places)
        return func(*args, **kwargs or {})
