"""The models under attack: one registry, any image size, any number of classes.

`build("convnet", num_classes=2, image_size=64, generator=g)`; a user's own model is named as
`package.module:factory`, a callable `(num_classes, image_size) -> nn.Module` that returns logits; one logit stands for
two classes, as `fl_sim.modules.as_logits` has it.
"""

import importlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fl_sim.config import short
from fl_sim.config_errors import unknown
from fl_sim.modules import BatchNorm, as_logits, set_mode


def convnet(num_classes: int, image_size: int) -> nn.Module:
    """Four 5x5 convolutions (strides 2, 2, 2, 1), GELU, no normalisation; the default victim.

    A smooth activation gives the attacker (and second-order autograd) a useful curvature; without
    normalisation the gradient of a batch is the mean of the gradients of its images.
    """
    width, layers, channels = 32, [], 3
    for index, stride in enumerate((2, 2, 2, 1)):
        out = width * min(index + 1, 2)
        layers += [nn.Conv2d(channels, out, 5, stride=stride, padding=2), nn.GELU()]
        channels = out
    side = -(-image_size // 8)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * side * side, num_classes))


def lenet(num_classes: int, image_size: int) -> nn.Module:
    """The sigmoid LeNet of Deep Leakage from Gradients (Zhu et al. 2019), for any image size."""
    layers: list[nn.Module] = []
    channels = 3
    for stride in (2, 2, 1, 1):
        layers += [nn.Conv2d(channels, 12, 5, stride=stride, padding=2), nn.Sigmoid()]
        channels = 12
    side = -(-image_size // 4)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * side * side, num_classes))


def mlp(num_classes: int, image_size: int) -> nn.Module:
    """Two hidden layers of 256 GELU units on raw pixels."""
    pixels = 3 * image_size * image_size
    return nn.Sequential(
        nn.Flatten(), nn.Linear(pixels, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, num_classes)
    )


class BrightnessBlock(nn.Module):
    """x plus one number, which a layer of ReLU units that see all pixels makes of it: the form of the imprint block.

    An architecture that a malicious server may well propose (Fowl et al. 2022); harmless until it sets the weights.
    """

    def __init__(self, image_size: int, units: int = 256) -> None:
        super().__init__()
        self.measure, self.correct = nn.Linear(3 * image_size * image_size, units), nn.Linear(units, 1)

    def forward(self, x: Tensor) -> Tensor:
        correction: Tensor = self.correct(self.measure(x.flatten(1)).relu())  # (n, 1)
        return x + correction[:, :, None, None]


def imprint_convnet(num_classes: int, image_size: int) -> nn.Module:
    """The convnet behind a block that the attack `imprint` can turn into its own."""
    return nn.Sequential(BrightnessBlock(image_size), convnet(num_classes, image_size))


def resnet18_small(
    num_classes: int, image_size: int, batch_norm: BatchNorm = "eval", small_stem: bool = True
) -> nn.Module:
    """torchvision's ResNet-18; with `small_stem` a 3x3 stride-1 stem and no max-pool (images below 128 px).

    `batch_norm="train"` normalises with the statistics of the batch at hand and keeps no running ones,
    so nothing but gradients leaves the user. `"eval"` normalises with fixed statistics (0 and 1, or
    those of a weights file), which makes the batch gradient the mean of the images' gradients.
    """

    # Here, not above: it takes seconds to import, in every client and attack worker of a run.
    from torchvision.models import resnet18

    def norm(features: int) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(features, track_running_stats=batch_norm == "eval")

    network: nn.Module = resnet18(num_classes=num_classes, norm_layer=norm)
    if small_stem:
        network.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
        network.maxpool = nn.Identity()
    return network


Factory = Callable[..., nn.Module]
MODELS: dict[str, Factory] = {
    "convnet": convnet,
    "lenet": lenet,
    "mlp": mlp,
    "resnet18": resnet18_small,
    "imprint_convnet": imprint_convnet,
}


def build(
    name: str,
    num_classes: int,
    image_size: int,
    generator: torch.Generator,
    batch_norm: BatchNorm = "eval",
    small_stem: bool = True,
) -> nn.Module:
    """The model `name` on the CPU, in the mode that users train it in, initialised from `generator` alone.

    That is eval mode, with `batch_norm` as `fl_sim.modules.set_mode` has it.

    Raises ValueError for a name that is neither in the registry nor an importable `package.module:factory`, and for a
    factory that makes no model.
    """
    # PyTorch's initialisers draw from the global generator; fork it so that ours decides and nobody notices.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        if name == "resnet18":
            model = resnet18_small(num_classes, image_size, batch_norm, small_stem)
        elif name in MODELS:
            model = MODELS[name](num_classes, image_size)
        else:
            model = _made(name, num_classes, image_size)
            model.register_forward_hook(_logits)
    return set_mode(model, batch_norm)


def _logits(model: nn.Module, inputs: object, outputs: object) -> object:
    return as_logits(outputs)


def _made(name: str, num_classes: int, image_size: int) -> nn.Module:
    """What somebody else's factory makes."""
    factory = _third_party(name)
    try:
        model = factory(num_classes, image_size)
    except Exception as error:  # of any kind: it is somebody else's
        raise ValueError(
            f"model {name!r} cannot be made by factory({num_classes}, {image_size}), of classes and pixels "
            f"({short(error)}); mend the factory"
        ) from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"model {name!r} made a {type(model).__name__}; name what returns a torch.nn.Module")
    return model


def _third_party(name: str) -> Factory:
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ValueError(unknown("model", name, MODELS, "package.module:factory"))
    try:
        factory: Factory = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # of any kind: a script runs as it is imported
        raise ValueError(
            f"model {name!r} cannot be imported ({short(error)}); install it, or put its folder into PYTHONPATH"
        ) from error
    return factory


def normalise(photos: Tensor) -> Tensor:
    """Photos (n, 3, H, W) in [0, 1] to the range [-1, 1] that every model here (and every prior) takes."""
    return photos * 2 - 1


def batch_statistics(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Mean and variance (c,) of what enters each BatchNorm2d layer when `model` sees images (n, 3, H, W) in [-1, 1].

    By name, f"{layer}.mean" and f"{layer}.var", the variance over n * H * W without Bessel's correction, as the
    layer computes it. Differentiable in the images. Empty for a model without batch norm.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
            found[f"{name}.mean"], found[f"{name}.var"] = mean, variance

        return hook

    hooks = [layer.register_forward_pre_hook(keep(name)) for name, layer in _batch_norms(model)]
    try:
        model(images)
    finally:
        for handle in hooks:
            handle.remove()
    return found


def statistics_like(model: nn.Module) -> dict[str, Tensor]:
    """Zeros of the names and shapes of `batch_statistics`."""
    layers = [(name, layer.num_features) for name, layer in _batch_norms(model)]
    return {f"{name}.{kind}": torch.zeros(size) for name, size in layers for kind in ("mean", "var")}


def _batch_norms(model: nn.Module) -> list[tuple[str, nn.BatchNorm2d]]:
    return [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.BatchNorm2d)]


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that a gradient is taken of, by name, detached; buffers are not among them."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}
