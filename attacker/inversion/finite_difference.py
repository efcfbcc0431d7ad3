"""The slope of a matching loss as a difference of two first derivatives, where double backward is not needed.

Matching asks for d/dx <grad_theta L(theta, x), v>, which is the derivative of grad_x L along v (Pearlmutter 1994):

    (grad_x L(theta + e v, x) - grad_x L(theta, x)) / e

The second term falls off the pass that yields grad_theta L. So of a convolution five passes are made where double
backward makes seven, and each on a plain graph. With |e v| = 1e-4 |theta|, truncation and float32 put it off by
0.0003 to 0.005 of its norm on smooth models and by up to 0.05 on ResNet-18 (tests/attacker/test_difference.py).

A kink breaks this: where e v flips a ReLU, grad_x L jumps. Double backward takes a ReLU's side, and the place of a
maximum, for constants; so the second pass repeats the choices of the first. Models with other kinks keep double
backward: `Agreed` sees to it.
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
AGREEMENT = 0.1  # part of its norm by which a slope may be off; flipped units put it off by 1 and more
TINY = 1e-30

Slope = Callable[[Tensor], tuple[Tensor, Tensor]]
Loss = Callable[..., Tensor]
"""Of images, and of images and parameters other than the model's: a scalar."""
Differentiate = Callable[[list[Tensor], Sequence[Tensor]], tuple[Tensor, Sequence[Tensor]]]
"""Of a gradient, one vector a parameter, and room for as much: its distance from what was observed, and the distance's
derivative in each vector."""
KINKED = re.compile(
    r"(abs|amax|amin|clamp|clip|hardshrink|hardsigmoid|hardswish|hardtanh|leaky_relu|max|maximum|median|min|minimum|"
    r"prelu|relu6|rrelu|selu|softshrink|sort|threshold|topk|where|.*max_pool.*)_?"
)
"""Names of torch functions whose choices are not repeated."""
RELU = {F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}
MAX_POOL = {F.max_pool2d, torch.max_pool2d}


class Kinked(Exception):
    """A model's slope must not be taken by differences."""


class Agreed:
    """`quick`, if it gives what `exact` gives for the first images; else `exact`. Both: images to losses and slopes."""

    def __init__(self, exact: Slope, quick: Slope) -> None:
        self._exact, self._quick = exact, quick
        self._chosen: Slope | None = None

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self._chosen is not None:
            return self._chosen(x)
        losses, slopes = self._exact(x)
        try:
            agree = bool((self._quick(x)[1] - slopes).norm() <= AGREEMENT * slopes.norm())  # not, if there is a NaN
        except Kinked:
            agree = False
        self._chosen = self._quick if agree else self._exact
        return losses, slopes


class Difference:
    """The model whose slopes are taken so, and room for the parameters beside its own. It must not change meanwhile."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = dict(model.named_parameters())
        self._reach = STEP * float(get_total_norm(self._parameters.values()))
        self._room = [torch.empty_like(parameter.detach()).flatten() for parameter in self._parameters.values()]

    def slope(self, loss: Loss, x: Tensor, differentiate: Differentiate) -> tuple[Tensor, Tensor]:
        """The distance of the gradient of `loss` from what was observed, and its slope in the images x (n, 3, H, W).

        Raises Kinked.
        """
        choices: list[Tensor] = []
        with Choose(choices):
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
        with Repeat(choices):
            value = loss(x, moved)
        (there,) = torch.autograd.grad(value, x, allow_unused=True, materialize_grads=True)
        return distance, (there - here) / e


class Choose(TorchFunctionMode):
    """Within it, the choices that ReLUs and max-pools make are noted: outputs, or the places of the maxima.

    Raises Kinked for a function that makes choices of another kind.
    """

    def __init__(self, choices: list[Tensor]) -> None:
        self._choices = choices

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in RELU:
            output = torch.relu(args[0])
            self._choices.append(output.detach())
            return output
        if func in MAX_POOL:
            output, places = F.max_pool2d(*args, **{**(kwargs or {}), "return_indices": True})
            self._choices.append(places)
            return output
        name = getattr(func, "__name__", "")
        if KINKED.fullmatch(name):
            raise Kinked(name)
        return func(*args, **kwargs or {})


class Repeat(TorchFunctionMode):
    """Within it, ReLUs and max-pools make the noted choices again, in their order."""

    def __init__(self, choices: list[Tensor]) -> None:
        self._choices = iter(choices)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in RELU:  # passes a value where the noted output is above 0, and its slope likewise
            return torch.ops.aten.threshold_backward(args[0], next(self._choices), 0)
        if func in MAX_POOL:
            places = next(self._choices)
            return args[0].flatten(-2).gather(-1, places.flatten(-2)).view_as(places)
        return func(*args, **kwargs or {})
