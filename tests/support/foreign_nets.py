"""Models as somebody else's app has them: made without arguments."""

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


def no_logits() -> nn.Module:
    return nn.Conv2d(3, 3, 1)


def halved(outputs: Tensor, labels: Tensor) -> Tensor:
    """Half the cross-entropy."""
    return nn.functional.cross_entropy(outputs, labels) / 2
