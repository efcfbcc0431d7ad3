"""What users and attackers alike ask of any nn.Module: its mode, its gradient, its state, the layer of its logits."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

BatchNorm = Literal["eval", "train"]
OTHERWISE = (  # of whom `acts_otherwise`
    "acts otherwise in training mode by more than dropout and batch norm of torch.nn (F.dropout? a batch norm of its "
    "own? outputs beside the logits?)"
)


def set_mode(model: nn.Module, batch_norm: BatchNorm) -> nn.Module:
    """`model` in eval mode, but with `batch_norm = "train"` it normalises by the statistics of the batch at hand.

    Running statistics are neither read nor written then, so a gradient depends on the parameters and the batch alone.
    A layer that the model's own `train()` leaves in eval mode, as of a frozen backbone, stays there. Dropout is off.
    """
    model.train()
    trained = {layer for layer in norms(model) if layer.training and batch_norm == "train"}
    model.eval()
    for layer in norms(model):
        # With both flags torch neither reads nor writes the buffers, and they stay in the state dict.
        layer.training = layer in trained
        layer.track_running_stats = layer not in trained and layer.running_mean is not None
    return model


def norms(model: nn.Module) -> list[_NormBase]:
    """The layers that normalise otherwise in training mode: batch norm, and instance norm with running statistics."""
    layers = [layer for layer in model.modules() if isinstance(layer, _NormBase)]
    return [layer for layer in layers if isinstance(layer, _BatchNorm) or layer.running_mean is not None]


def has_running_statistics(model: nn.Module) -> bool:
    """Whether the two modes of `set_mode` differ for this model."""
    return any(layer.running_mean is not None for layer in norms(model))


def dropouts(model: nn.Module) -> list[str]:
    """Names of the layers that would drop something in training mode."""
    kinds = ("StochasticDepth", "DropPath")  # torchvision's and timm's
    found = []
    for name, layer in model.named_modules():
        dropping = isinstance(layer, nn.modules.dropout._DropoutNd) or type(layer).__name__ in kinds
        rate = getattr(layer, "p", getattr(layer, "drop_prob", 1.0)) if dropping else getattr(layer, "dropout", 0.0)
        if isinstance(rate, float) and rate > 0:
            found.append(name)
    return found


@torch.no_grad()
def acts_otherwise(model: nn.Module, images: Tensor) -> bool:
    """Whether training mode changes what `model` makes of images (n, 3, H, W) by more than `norms` and `dropouts` do.

    As of F.dropout, of a batch norm of somebody's own, or of outputs beside the logits.
    """
    known = set_mode(copy.deepcopy(free_of_graphs(model)), "train")
    theirs = copy.deepcopy(known).train()
    for name in dropouts(theirs):
        theirs.get_submodule(name).training = False
    try:
        with torch.random.fork_rng(devices=[]):
            expected, found = known(images), theirs(images)
    except Exception:  # of any kind, where the model is somebody else's: in training mode it asks for more
        return True
    return not (isinstance(found, Tensor) and found.shape == expected.shape and torch.allclose(found, expected, 1e-3))


def gradients(loss: Tensor, parameters: Sequence[Tensor], create_graph: bool = False) -> tuple[Tensor, ...]:
    """d loss / d parameter, one tensor each: zeros for the frozen ones and for those that the loss does not use."""
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    found = iter(
        torch.autograd.grad(loss, wanted, create_graph=create_graph, allow_unused=True, materialize_grads=True)
    )
    return tuple(next(found) if one.requires_grad else torch.zeros_like(one) for one in parameters)


def state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, detached; tied ones once, under the name of `named_parameters`."""
    firsts: dict[int, tuple[str, Tensor]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        firsts.setdefault(id(value), (name, value.detach()))
    return dict(firsts.values())


def load_state(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Take over `tensors`, of `state` or of a whole state dict; buffers that are not among them stay.

    Raises RuntimeError, as load_state_dict does, for other names and shapes.
    """
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    firsts: dict[int, str] = {}
    whole = dict(tensors)
    for name, value in model.state_dict(keep_vars=True).items():
        first = firsts.setdefault(id(value), name)
        if first in tensors:
            whole[name] = tensors[first]
        elif name not in parameters:
            whole.setdefault(name, value.detach())
    model.load_state_dict(whole)


def free_of_graphs(model: nn.Module) -> nn.Module:
    """`model`, fit to be copied: tensors that a hook computes before each pass (old weight norm) are detached."""
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                setattr(module, name, value.detach())
    return model


def as_logits(outputs: Any) -> Any:
    """One logit z an image, (n,) or (n, 1), as the two logits (n, 2) of 0 and z, whose cross-entropy is z's BCE.

    All else stays what it is.
    """
    if not isinstance(outputs, Tensor) or (outputs.ndim, *outputs.shape[1:]) not in {(1,), (2, 1)}:
        return outputs
    one = outputs.reshape(-1, 1)
    return torch.cat([torch.zeros_like(one), one], 1)


@torch.no_grad()
def logits_layer(model: nn.Module, images: Tensor) -> tuple[str, nn.Linear] | None:
    """The name and module of the linear layer whose outputs are the logits of images (n, 3, H, W); None without any.

    Found by what comes out, whatever the order of definition; a log-softmax behind it makes no difference.
    """
    seen: list[tuple[str, nn.Linear, Tensor]] = []

    def watch(name: str) -> Any:
        return lambda layer, _, output: seen.append((name, layer, output))

    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    handles = [layer.register_forward_hook(watch(name)) for name, layer in layers]
    try:
        logits = model(images)
    finally:
        for handle in handles:
            handle.remove()
    for name, layer, output in reversed(seen):
        made = as_logits(output)
        if made.shape == logits.shape and torch.allclose(made.log_softmax(1), logits.log_softmax(1), atol=1e-5):
            return name, layer
    return None
