import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacker.inversion.second_order import cheap_second_order
from fl_sim.models import build
from fl_sim.seeds import generator


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(0, "second order"), dtype=torch.float64)


def layers(norm: bool) -> nn.Sequential:
    """Strides, groups, dilation, with and without bias; in double precision."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        middle: list[nn.Module] = [nn.BatchNorm2d(4), nn.Tanh()] if norm else [nn.Tanh()]
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2, padding=1),
            *middle,
            nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2, bias=False),
            nn.Tanh(),
            nn.Conv2d(4, 2, 2),
            nn.Flatten(),
            nn.Linear(2 * 3 * 3, 2),
        )
        if norm:
            model[1].running_mean.normal_()
            model[1].running_var.uniform_(0.5, 2)
            nn.init.normal_(model[1].weight)
    return model.double().eval()


def grads(model: nn.Module, images: Tensor, cheap: bool) -> Tensor:
    """d/dx || dL/dtheta ||^2."""
    pixels = images.clone().requires_grad_(True)
    labels = torch.arange(len(images)) % 2

    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(F.cross_entropy(model(pixels), labels), list(model.parameters()), create_graph=True)

    if cheap:
        with cheap_second_order():
            found = gradients()
    else:
        found = gradients()
    return torch.autograd.grad(torch.stack([value.square().sum() for value in found]).sum(), pixels)[0]


@pytest.mark.parametrize("norm", [False, True])
def test_second_derivatives_are_those_of_torch(norm: bool) -> None:
    model, images = layers(norm), draw(3, 3, 8, 8)
    torch.testing.assert_close(grads(model, images, True), grads(model, images, False))


@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_second_derivatives_of_resnet_are_those_of_torch(batch_norm: str) -> None:
    model = build("resnet18", 2, 8, generator(0, "model"), batch_norm).double()  # type: ignore[arg-type]
    images = draw(3, 3, 8, 8)
    torch.testing.assert_close(grads(model, images, True), grads(model, images, False))


def test_gradients_through_a_simulated_step_are_those_of_torch() -> None:
    """A second local step's parameters depend on the images, so they are no constants there."""
    model, images = layers(norm=True), draw(3, 3, 8, 8)
    labels = torch.tensor([0, 1, 0])

    def simulated(cheap: bool) -> Tensor:
        pixels = images.clone().requires_grad_(True)
        values = {name: value.detach().requires_grad_(True) for name, value in model.named_parameters()}
        with cheap_second_order() if cheap else torch.enable_grad():
            for _ in range(2):
                loss = F.cross_entropy(torch.func.functional_call(copy.deepcopy(model), values, (pixels,)), labels)
                found = torch.autograd.grad(loss, list(values.values()), create_graph=True)
                values = {name: v - 0.5 * g for (name, v), g in zip(values.items(), found, strict=True)}
        return torch.autograd.grad(torch.stack([v.square().sum() for v in values.values()]).sum(), pixels)[0]

    torch.testing.assert_close(simulated(True), simulated(False))


class Attention(nn.Module):
    """A token for each quarter of the image, one attention layer; then a hardsigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(192, 2, batch_first=True), nn.Linear(192, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).reshape(len(x), -1, 192)
        seen = self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1)
        logits: Tensor = self.head(F.hardsigmoid(seen))
        return logits


def test_attention_and_hardsigmoid_have_a_second_derivative() -> None:
    """Torch has none for its fused attention and for hardsigmoid; the values are those of the difference."""
    model, draw = Attention().double(), torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 16, 16, generator=draw, dtype=torch.float64).requires_grad_()
    parameters, labels = list(model.parameters()), torch.tensor([0, 1])
    along = [torch.randn(value.shape, generator=draw, dtype=torch.float64) for value in parameters]

    def product(images: Tensor, create_graph: bool) -> Tensor:
        with cheap_second_order():
            loss = F.cross_entropy(model(images), labels)
            found = torch.autograd.grad(loss, parameters, create_graph=create_graph)
        return torch.stack([(g * v).sum() for g, v in zip(found, along, strict=True)]).sum()

    grad = torch.autograd.grad(product(x, True), x)[0]
    step = 1e-5 * torch.randn(x.shape, generator=draw, dtype=torch.float64)
    difference = product((x + step).detach(), False) - product((x - step).detach(), False)
    assert float((grad * step).sum() * 2) == pytest.approx(float(difference), rel=1e-4)
