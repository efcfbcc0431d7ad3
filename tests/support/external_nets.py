"""Models as somebody else's app has them: made without arguments."""

from collections.abc import Callable
from typing import Any

import torch
from tiny_faces import normed_net, tiny_net
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


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


def normed_features() -> nn.Module:
    """Batch norm of features (n, c), one value a channel and image."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))


class Rounded(Net):
    """Sees whole numbers alone."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x * 8).round() / 8)


class FunctionalDropout(Net):
    """Dropout that no module tells of."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x), 0.5, self.training)


def functional_dropout() -> nn.Module:
    return FunctionalDropout()


def without_file() -> nn.Module:
    raise FileNotFoundError("no weights")


def asserting() -> nn.Module:
    """Refuses images of another size than its own, as torchvision's transformers do."""
    network = Net()
    network.register_forward_pre_hook(_assert_size)
    return network


def _assert_size(network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    assert inputs[0].shape[-1] == 224, "wrong size"


def halved(outputs: Tensor, labels: Tensor) -> Tensor:
    """Half the cross-entropy."""
    return nn.functional.cross_entropy(outputs, labels) / 2


def batch_normed() -> nn.Module:
    """Batch norm and dropout, as most apps have them; the same weights every time."""
    network = nn.Sequential(
        *(nn.Conv2d(3, 16, 5, 2, 2), nn.BatchNorm2d(16), nn.GELU()),
        *(nn.Conv2d(16, 32, 5, 2, 2), nn.BatchNorm2d(32), nn.GELU()),
        *(nn.Dropout(0.1), nn.Flatten(), nn.Linear(32 * 8 * 8, 2)),
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = parameter.data.new_ones(parameter.shape) if parameter.ndim == 1 else parameter.data
        if parameter.ndim > 1:
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    return network


def one_logit() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 5, 2, 2), nn.GELU(), nn.Flatten(), nn.Linear(16 * 16 * 16, 1))


def one_probability() -> nn.Module:
    return nn.Sequential(one_logit(), nn.Sigmoid())


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.net(x), self.net(x)


class Once(torch.autograd.Function):
    """The square, with a derivative as fused kernels have it: it cannot be differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * slope


class Fused(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        squared: Tensor = Once.apply(x)
        return squared


def fused() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 16), nn.Sequential(Fused()), nn.Linear(16, 2))


class Random(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(nn.functional.dropout(x, 0.5))
        return logits


def all_frozen() -> nn.Module:
    return Net().requires_grad_(False)


def detached() -> nn.Module:
    network = Net()
    network.register_forward_hook(lambda *given: given[-1] * 0)
    return network
