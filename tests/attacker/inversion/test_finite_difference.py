"""The gradient of the matching loss as a difference is that of double backward, or is not taken."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from attacker.inversion.defense_aware import Adaptation
from attacker.inversion.finite_difference import CheckedFallback, FiniteDifference
from attacker.inversion.matching import (
    DISTANCES,
    ObservedGradient,
    Representatives,
    load_model,
    matching_loss_and_grad,
    observed_gradient,
)
from fl_sim.models import MODELS, build
from fl_sim.seeds import generator

SIZE = 16
GROUP = Representatives(torch.tensor([0, 1, 1]), torch.tensor([0.5, 0.25, 0.25]))


def faces(name: str) -> Tensor:
    return torch.rand(3, 3, SIZE, SIZE, generator=generator(0, name)) * 2 - 1


def observed(model: nn.Module, adaptation: Adaptation | None = None) -> ObservedGradient:
    loss = nn.functional.cross_entropy(model(faces("photos")), GROUP.labels)
    names = [name for name, _ in model.named_parameters()]
    gradient = dict(zip(names, torch.autograd.grad(loss, list(model.parameters())), strict=True))
    return observed_gradient(gradient, 1.0, adaptation or Adaptation())


def own(*layers: nn.Module) -> nn.Module:
    """A convolution, the layers, and a linear layer, drawn from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *layers, nn.Flatten(), nn.LazyLinear(2)).eval()
        network(faces("photos"))
    return network


def error(model: nn.Module, seen: ObservedGradient, distance: str) -> float:
    """By how much of its norm the gradient by difference is off."""
    exact_loss, exact = matching_loss_and_grad(model, faces("start"), [GROUP], [seen], DISTANCES[distance])
    loss, grad = matching_loss_and_grad(
        model, faces("start"), [GROUP], [seen], DISTANCES[distance], FiniteDifference(model)
    )
    assert torch.allclose(loss, exact_loss, rtol=1e-4)
    return float((grad - exact).norm() / exact.norm())


CASES = [(name, "eval") for name in MODELS] + [("resnet18", "train")]


@pytest.mark.parametrize("distance", sorted(DISTANCES))
@pytest.mark.parametrize(("name", "norm"), CASES)
def test_it_is_that_of_double_backward(name: str, norm: str, distance: str) -> None:
    model = build(name, 2, SIZE, generator(0, "model"), batch_norm=norm)  # type: ignore[arg-type]
    model = load_model(model, model.state_dict())
    assert error(model, observed(model), distance) < (0.05 if name == "resnet18" else 0.005)


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.MaxPool2d(3, 1, padding=1)])
def test_kinks_of_relu_and_max_pool_do_not_disturb_it(layer: nn.Module) -> None:
    model = own(nn.Conv2d(8, 128, 3), layer, nn.Conv2d(128, 8, 3), layer, nn.GELU())
    assert error(model, observed(model), "cosine") < 0.02


def test_it_serves_what_an_adaptive_attacker_compares() -> None:
    model = own(nn.GELU())
    kept = torch.rand(sum(p.numel() for p in model.parameters()), generator=generator(0, "kept")) < 0.5
    transform: Callable[[Tensor], Tensor] = torch.tanh
    assert error(model, observed(model, Adaptation(kept=kept, transform=transform)), "cosine") < 0.005


class Folded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


class Peaks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.max(x, 0.5 * x)


@pytest.mark.parametrize(
    "layer",
    [
        nn.LeakyReLU(),
        nn.Hardtanh(),
        nn.ReLU6(),
        nn.PReLU(),
        nn.Hardswish(),
        nn.AdaptiveMaxPool2d(14),
        Folded(),
        Peaks(),
        nn.GELU(),
    ],
)
def test_a_model_with_other_kinks_keeps_double_backward(layer: nn.Module) -> None:
    model = own(layer, nn.Conv2d(8, 8, 3), layer)
    seen = [observed(model)]
    exact = partial(
        matching_loss_and_grad, model, representatives=[GROUP], observed_gradients=seen, distance=DISTANCES["cosine"]
    )
    checked = CheckedFallback(exact, partial(exact, finite_difference=FiniteDifference(model)))
    for name in ("start", "later"):
        grad, truth = checked(faces(name))[1], exact(faces(name))[1]
        differs = isinstance(layer, nn.GELU) and name == "later"
        assert torch.equal(grad, truth) != differs
        assert torch.allclose(grad, truth, atol=0.01 * float(truth.abs().max()))


def test_no_slope_is_made_of_a_gradient_that_already_fits() -> None:
    model = own(nn.GELU())
    silent = ObservedGradient(*(torch.zeros(sum(p.numel() for p in model.parameters())) for _ in range(2)))
    assert not matching_loss_and_grad(
        model, faces("start"), [GROUP], [silent], DISTANCES["mse"], FiniteDifference(model)
    )[1].any()
