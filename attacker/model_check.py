"""Whether a model can be trained by users and attacked: its gradient and one matching step, on noise, before the run.

Both need more than a forward pass: logits of the right number, a gradient that is finite and the same twice, and its
derivative in the images, which some layers do not have.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from attacker.losses import image_losses
from attacker.matching import Group, cosine, match, target
from attacker.second_order import cheap_second_order
from fl_sim.config import ConfigError, short
from fl_sim.modules import gradients
from fl_sim.seeds import generator

PHOTOS = 2
NO_DERIVATIVE = "derivative for"  # torch's error: derivative for aten::... is not implemented


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
    group = Group(labels, torch.full((PHOTOS,), 1 / PHOTOS))
    try:
        _, slope = match(model, others, [group], [target(gradient)], cosine)
    except Exception as error:  # of any kind, where the model is somebody else's
        if NO_DERIVATIVE not in str(error):
            raise ConfigError(f"model {name!r} cannot be attacked: {short(error)}; take another model") from error
        raise ConfigError(
            f"model {name!r} cannot be attacked by matching gradients: {_culprit(model, images)} has no second "
            f"derivative ({short(error).split(' is not')[0]}); put a layer that has one in its place"
        ) from error
    if not bool(torch.isfinite(slope).all()):
        raise ConfigError(f"model {name!r} has a second derivative of NaN or Inf on noise; mend or replace that layer")


def _tried(name: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # of any kind, where the model is somebody else's
        raise ConfigError(
            f"model {name!r} fails on {PHOTOS} images of noise: {short(error)}; mend the model"
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
        inputs = [one.detach().requires_grad_() for one in seen.get(name, ()) if isinstance(one, Tensor)]
        try:
            with cheap_second_order():
                first = torch.autograd.grad(layer(*inputs).square().sum(), inputs, create_graph=True, allow_unused=True)
            total = torch.stack([one.square().sum() for one in first if one is not None]).sum()
            torch.autograd.grad(total, inputs, allow_unused=True)
        except Exception as error:
            if NO_DERIVATIVE in str(error):
                return f"layer {name!r} ({type(layer).__name__})" if name else f"the forward of {type(layer).__name__}"
    return "one of its layers"
