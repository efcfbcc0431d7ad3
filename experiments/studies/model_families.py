"""Twelve families of models as a user would bring them, each trained by users and attacked, or refused in a sentence.

    python -m experiments.studies.model_families [--family NAME ...] [--runs runs] [--out docs/results]

Every family is a factory `(num_classes, image_size) -> nn.Module` of this file, named in the config as anybody's own
would be: `model.name = "experiments.studies.model_families:own_cnn"`. The table says what came of each: what leaks, or
the sentence before training.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

Factory = Callable[[int, int], nn.Module]


def own_cnn(num_classes: int, image_size: int) -> nn.Module:
    """Convolution, batch norm, ReLU: what most tutorials build; its users train it in training mode."""
    return nn.Sequential(
        *_block(3, 32, nn.BatchNorm2d), *_block(32, 64, nn.BatchNorm2d), *_head(64, num_classes, image_size)
    )


def dropout(num_classes: int, image_size: int) -> nn.Module:
    """The same without normalisation, with dropout of channels and features."""
    layers = [*_block(3, 32, nn.Identity), nn.Dropout2d(0.25), *_block(32, 64, nn.Identity)]
    return nn.Sequential(*layers, nn.Dropout(0.5), *_head(64, num_classes, image_size))


def vit(num_classes: int, image_size: int) -> nn.Module:
    """torchvision's vision transformer, two layers of four heads on patches of 8 pixels."""
    from torchvision.models import VisionTransformer

    network: nn.Module = VisionTransformer(image_size, 8, 2, 4, 64, 128, num_classes=num_classes)
    nn.init.trunc_normal_(network.get_parameter("heads.head.weight"), std=0.02)  # torchvision starts it at zero
    return network


def mobilenet_v3(num_classes: int, image_size: int) -> nn.Module:
    """torchvision's MobileNetV3-Small: batch norm, hardswish, squeeze and excitation with hardsigmoid, dropout."""
    from torchvision.models import mobilenet_v3_small

    network: nn.Module = mobilenet_v3_small(num_classes=num_classes)
    return network


def frozen_backbone(num_classes: int, image_size: int) -> nn.Module:
    """Transfer learning: the first block is fixed, the second and the head are trained."""
    network = nn.Sequential(
        nn.Sequential(*_block(3, 32, nn.Identity)), *_block(32, 64, nn.Identity), *_head(64, num_classes, image_size)
    )
    network[0].requires_grad_(False)
    return network


class TwoHeads(nn.Module):
    """A head for the task at hand, defined first, and one that another task would use."""

    def __init__(self, num_classes: int, image_size: int) -> None:
        super().__init__()
        self.task = nn.Sequential(*_head(64, num_classes, image_size))
        self.other = nn.Sequential(*_head(64, 10, image_size))
        self.backbone = nn.Sequential(*_block(3, 32, nn.Identity), *_block(32, 64, nn.Identity))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.task(self.backbone(images))
        return logits


class TiedWeights(nn.Module):
    """One convolution used twice, under two names."""

    def __init__(self, num_classes: int, image_size: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.second.weight = self.first.weight
        self.stem, self.head = (
            nn.Sequential(*_block(3, 32, nn.Identity)),
            nn.Sequential(*_head(32, num_classes, image_size * 2)),
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        logits: Tensor = self.head(self.second(self.first(x).relu()).relu())
        return logits


def weight_norm(num_classes: int, image_size: int) -> nn.Module:
    """Weight norm on every layer, the last one too."""
    network = nn.Sequential(
        *_block(3, 32, nn.Identity), *_block(32, 64, nn.Identity), *_head(64, num_classes, image_size)
    )
    for layer in network:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.utils.parametrizations.weight_norm(layer)
    return network


def group_norm(num_classes: int, image_size: int) -> nn.Module:
    """Group norm in the place of batch norm, as federated learning often has it."""

    def norm(channels: int) -> nn.Module:
        return nn.GroupNorm(8, channels)

    return nn.Sequential(*_block(3, 32, norm), *_block(32, 64, norm), *_head(64, num_classes, image_size))


def plain_mlp(num_classes: int, image_size: int) -> nn.Module:
    """Pixels, 128 ReLU units, logits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, 128), nn.ReLU(), nn.Linear(128, num_classes))


def resnet18(num_classes: int, image_size: int) -> nn.Module:
    """torchvision's ResNet-18 as it comes, in training mode."""
    from torchvision.models import resnet18 as build

    network: nn.Module = build(num_classes=num_classes)
    return network


def one_logit(num_classes: int, image_size: int) -> nn.Module:
    """A binary classifier with one output, for BCEWithLogitsLoss."""
    return nn.Sequential(*_block(3, 32, nn.Identity), *_block(32, 64, nn.Identity), *_head(64, 1, image_size))


def _block(channels: int, out: int, norm: Callable[[int], nn.Module]) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, 3, stride=2, padding=1), norm(out), nn.ReLU()]


def _head(channels: int, num_classes: int, image_size: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(channels * (image_size // 4) ** 2, num_classes)]


FAMILIES: dict[str, tuple[Any, str]] = {
    "own CNN, batch norm in training mode": (own_cnn, "train"),
    "dropout": (dropout, "eval"),
    "vision transformer": (vit, "eval"),
    "MobileNetV3": (mobilenet_v3, "eval"),
    "frozen backbone": (frozen_backbone, "eval"),
    "two heads": (TwoHeads, "eval"),
    "tied weights": (TiedWeights, "eval"),
    "weight norm": (weight_norm, "eval"),
    "group norm": (group_norm, "eval"),
    "plain MLP": (plain_mlp, "eval"),
    "torchvision ResNet-18": (resnet18, "train"),
    "one logit": (one_logit, "eval"),
}
"""What the table calls it, the factory, and how its users train batch norm."""
