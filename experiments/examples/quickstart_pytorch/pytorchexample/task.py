"""The model, its data, and how a client trains and tests it."""

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from clients.datasets import open_dataset
from clients.user import FaceDataset
from fl_sim.config import Dataset

PHOTOS = 24  # of each client
Batches = DataLoader[tuple[Tensor, ...]]


class Net(nn.Module):
    """A small CNN for 32 px images that tells smiling faces from others."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(16, 32, 5, stride=2, padding=2)
        self.fc1 = nn.Linear(32 * 8 * 8, 120)
        self.fc2 = nn.Linear(120, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.conv1(x))
        x = F.gelu(self.conv2(x))
        x = F.gelu(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc2(x)
        return logits


@cache
def people(count: int) -> FaceDataset:
    return open_dataset(Dataset(users=count, photos=PHOTOS, image_size=32), seed=0)


def load_data(partition: int, partitions: int, batch_size: int) -> tuple[Batches, Batches]:
    """The training and the test photos of one client: one person's, scaled to [-1, 1]."""
    user = people(partitions).user(partition)
    train, test = (TensorDataset((faces.photos - 0.5) / 0.5, faces.labels) for faces in (user.private, user.held_out))
    return DataLoader(train, batch_size=batch_size, shuffle=True), DataLoader(test, batch_size=batch_size)


def train(net: nn.Module, batches: Batches, epochs: int, lr: float) -> float:
    """Local SGD; the mean loss over all steps."""
    optimiser = torch.optim.SGD(net.parameters(), lr=lr)
    net.train()
    losses = []
    for _ in range(epochs):
        for images, labels in batches:
            optimiser.zero_grad()
            loss = F.cross_entropy(net(images), labels)
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


@torch.no_grad()
def test(net: nn.Module, batches: Batches) -> tuple[float, float]:
    """Mean loss and accuracy."""
    net.eval()
    loss = correct = examples = 0.0
    for images, labels in batches:
        logits = net(images)
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        correct += (logits.argmax(1) == labels).sum().item()
        examples += len(labels)
    return loss / examples, correct / examples
