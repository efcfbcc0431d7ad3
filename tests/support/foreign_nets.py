"""Models as somebody else's app has them: made without arguments."""

from collections.abc import Callable

import torch
from tiny_faces import normed_net, tiny_net
from torch import Tensor, nn


class Net(nn.Module):
    """Untrained, for 32 px and two classes; the same weights every time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 16, 5, 2, 2), nn.Conv2d(16, 32, 5, 2, 2)
        self.head = nn.Linear(32 * 8 * 8, 2)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        features = nn.functional.gelu(self.conv2(nn.functional.gelu(self.conv1(x))))
        logits: Tensor = self.head(features.flatten(1))
        return logits


def tiny() -> nn.Module:
    return tiny_net(2, 32)


def normed() -> nn.Module:
    return normed_net(2, 32)


class Tied(nn.Module):
    """Two layers that share one weight, the second defined first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.second = nn.Linear(3 * 32 * 32, 8), nn.Linear(8, 8)
        self.first, self.head = nn.Linear(8, 8), nn.Linear(8, 2)
        self.first.weight = self.second.weight

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.second(self.first(self.stem(x.flatten(1))).tanh()).tanh())
        return logits


class Attended(nn.Module):
    """With a table of indices among its buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.bias, self.head = nn.Parameter(torch.rand(3)), nn.Linear(3 * 32 * 32, 2)
        self.register_buffer("index", torch.arange(3 * 32 * 32).fmod(3))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.flatten(1) + self.bias[self.index])
        return logits


def seeded(factory: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return factory()


def tied() -> nn.Module:
    return seeded(Tied)


def attended() -> nn.Module:
    return seeded(Attended)


def no_logits() -> nn.Module:
    return nn.Conv2d(3, 3, 1)


def halved(outputs: Tensor, labels: Tensor) -> Tensor:
    """Half the cross-entropy."""
    return nn.functional.cross_entropy(outputs, labels) / 2
