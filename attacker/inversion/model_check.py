"""Whether a model can be trained by users and attacked: its gradient and one matching step, on noise, before the run.

Both need more than a forward pass: logits of the right number, a gradient that is finite and the same twice, and its
derivative in the images, which some layers do not have.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from attacker.inversion.losses import image_losses
from attacker.inversion.matching import Representatives, dummy_gradient
from attacker.inversion.second_order import cheap_second_order
from fl_sim.config import ConfigError, short
from fl_sim.modules import free_of_graphs, gradients
from fl_sim.seeds import generator

PHOTOS = 4
NO_DERIVATIVE = "derivative for"  # torch's error: derivative for aten::... is not implemented
STEP, AGREEMENT = 1e-7, 0.02  # of the difference, in the image range [-1, 1]; part by which it may be off


def check_model(model: nn.Module, name: str, image_size: int, num_classes: int, matched: bool = True) -> None:
    """Call `model`, in the mode that users train it in, as a user and (`matched`) as an attack on gradients would.

    Raises ConfigError, one sentence that says what of the model `name` does not work and what to do.
    """
    draw = generator(0, "model check")
    images, others = (torch.rand(PHOTOS, 3, image_size, image_size, generator=draw) * 2 - 1 for _ in range(2))
    labels = torch.arange(PHOTOS) % num_classes
    _check_logits(_tried(name, lambda: model(images)), name, num_classes)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            f"model {name!r} has no parameter that is trained; leave at least one that requires a gradient"
        )
    gradient = _tried(name, lambda: _gradient(model, images, labels))
    _check_gradient(gradient, _gradient(model, images, labels), name)
    if not matched:
        return
    reps = Representatives(labels, torch.full((PHOTOS,), 1 / PHOTOS))
    problem = _tried(name, lambda: _problem(lambda x: dummy_gradient(model, x, reps), others))
    if problem is None:
        problem = _in_double(model, lambda exact: _problem(lambda x: dummy_gradient(exact, x, reps), others.double()))
    if problem is not None:
        raise ConfigError(
            f"model {name!r} cannot be attacked by matching gradients: {_culprit(model, images)} has no second "
            f"derivative ({problem}); put a layer that has one in its place"
        )


def _problem(gradient: Callable[[Tensor], Tensor], x: Tensor) -> str | None:
    """Why the derivative of `gradient` (p,) in x is none, in words; None where it is right.

    In double precision it is held against a difference, for what autograd does not follow it leaves out silently. The
    step is small enough for few units of a ReLU to flip on the way, which autograd does not see either.
    """
    seen, draw = x.detach().requires_grad_(), generator(0, "direction")
    try:
        here = gradient(seen)
        along = here.detach() / here.detach().norm().clamp_min(1e-30)
        grad: Tensor = torch.autograd.grad(here @ along, seen, allow_unused=True, materialize_grads=True)[0]
    except RuntimeError as error:
        if NO_DERIVATIVE in str(error):
            return short(error)
        raise
    if not bool(torch.isfinite(grad).all()):
        return "it is NaN or Inf on noise"
    if not bool(grad.any()):  # rounding, casts to whole numbers, detached tensors
        return "it is zero all over"
    if x.dtype != torch.float64:
        return None
    direction = torch.randn(x.shape, generator=draw, dtype=x.dtype)
    direction = STEP * (direction / direction.norm() + grad / grad.norm().clamp_min(1e-30))
    difference = float((gradient(seen + direction) - gradient(seen - direction)).detach() @ along) / 2
    expected = float((grad * direction).sum())
    if abs(difference - expected) <= AGREEMENT * max(abs(difference), abs(expected)):
        return None
    return f"autograd says {expected / STEP:.3g}, a difference {difference / STEP:.3g}"


def _in_double(model: nn.Module, call: Callable[[nn.Module], str | None]) -> str | None:
    """`call` of a copy in double precision; None for a model that has none, as it makes tensors of its own dtype."""
    try:
        return call(copy.deepcopy(free_of_graphs(model)).double())
    except Exception:  # of any kind, where the model is somebody else's
        return None


def _tried(name: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # of any kind, where the model is somebody else's
        raise ConfigError(
            f"model {name!r} fails on {PHOTOS} images of noise: {short(error)}; mend it, or the image size"
        ) from error


def _check_logits(outputs: object, name: str, num_classes: int) -> None:
    if isinstance(outputs, tuple | list | dict):
        kind, count = type(outputs).__name__, len(outputs)
        raise ConfigError(
            f"model {name!r} returns a {kind} of {count}, not logits; wrap it so that it returns those of one head"
        )
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] != num_classes:
        what = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ConfigError(
            f"model {name!r} returns {what} for {PHOTOS} images, expected logits ({PHOTOS}, {num_classes}); "
            "name a model for that many classes"
        )


def _check_gradient(gradient: dict[str, Tensor], again: dict[str, Tensor], name: str) -> None:
    for key, value in gradient.items():
        if not bool(torch.isfinite(value).all()):
            raise ConfigError(
                f"model {name!r} has a gradient of NaN or Inf in {key!r} on noise; mend its initialisation"
            )
        if not torch.allclose(value, again[key], rtol=1e-3, atol=1e-6):
            raise ConfigError(
                f"model {name!r} has another gradient in {key!r} each time it sees the same images; make what is "
                "random in it follow its mode (F.dropout(..., training=self.training))"
            )
    if not any(bool(value.any()) for value in gradient.values()):
        raise ConfigError(f"model {name!r} has a gradient of zeros on noise, so users send nothing; mend it")


def _gradient(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    loss = image_losses(model, model(images), labels).mean()
    return dict(zip(names, gradients(loss, parameters), strict=True))


def _culprit(model: nn.Module, images: Tensor) -> str:
    """The innermost layer whose output cannot be differentiated twice, in words."""
    seen: dict[str, tuple[Any, ...]] = {}
    handles = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: inputs}))
        for name, layer in model.named_modules()
    ]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    for name, layer in reversed(list(model.named_modules())):  # children come after their parents
        given = seen.get(name, ())
        if given and isinstance(given[0], Tensor) and given[0].is_floating_point():
            problem = _in_double(layer, partial(_problem_of, given))
            if problem is not None:
                return f"layer {name!r} ({type(layer).__name__})" if name else f"the forward of {type(layer).__name__}"
    return "one of its layers"


def _problem_of(inputs: tuple[Any, ...], layer: nn.Module) -> str | None:
    """`_problem` of one layer in double precision, at the inputs that it had."""
    return _problem(partial(_grad, layer, inputs[1:]), inputs[0].double())


def _grad(layer: nn.Module, others: tuple[Any, ...], x: Tensor) -> Tensor:
    """The derivative (entries of x,) of the squares of a layer's outputs."""
    rest = [x.detach().double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in others]
    with cheap_second_order():
        outputs = layer(x, *rest)
        total = (outputs if isinstance(outputs, Tensor) else outputs[0]).square().sum()
        return torch.autograd.grad(total, x, create_graph=True)[0].flatten()
