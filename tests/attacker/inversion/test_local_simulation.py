"""Laws of simulated local steps: what a user's own training gives, differentiated rightly."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from attacker.inversion.local_simulation import LocalSteps, plan, pseudo_gradient
from attacker.inversion.matching import DISTANCES, Representatives, matching_loss_and_grad, observed_gradient
from attacker.observation import LocalTraining
from fl_sim import models, seeds

LABELS, WEIGHTS = torch.tensor([1, 0]), torch.tensor([0.7, 0.3])


@pytest.fixture(scope="module")
def model():
    return models.build("lenet", 2, 32, seeds.generator(0, "model")).eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 32, 32, generator=seeds.generator(0, "images")) * 2 - 1


def trained(model, images, steps, rate):
    """(w - w_S) / rate of plain gradient descent, by torch's own optimiser."""
    copy = models.build("lenet", 2, 32, seeds.generator(0, "model")).eval()
    optimiser = torch.optim.SGD(copy.parameters(), lr=rate)
    for _ in range(steps):
        optimiser.zero_grad()
        (F.cross_entropy(copy(images), LABELS, reduction="none") * WEIGHTS).sum().backward()
        optimiser.step()
    pairs = zip(model.named_parameters(), copy.parameters(), strict=True)
    return {name: (before - after).detach() / rate for (name, before), after in pairs}


def test_simulated_steps_are_those_of_gradient_descent(model, images):
    for steps in (2, 4):
        wanted = trained(model, images, steps, 0.1)
        found = pseudo_gradient(model, images, LABELS, WEIGHTS, LocalSteps(steps, 0.1, 1.0))
        for one, other in zip(found, wanted.values(), strict=True):
            assert torch.allclose(one, other, atol=1e-5)


def test_fewer_longer_steps_come_near_many_short_ones(model, images):
    wanted = torch.cat([value.reshape(-1) for value in trained(model, images, 16, 0.002).values()])
    local = plan(LocalTraining(16, 0, 0.002), 30, 4)
    assert local == LocalSteps(4, pytest.approx(0.008), 0.25)
    found = torch.cat([value.reshape(-1) for value in pseudo_gradient(model, images, LABELS, WEIGHTS, local)])
    single = 16 * torch.cat(
        [v.reshape(-1) for v in pseudo_gradient(model, images, LABELS, WEIGHTS, LocalSteps(1, 0.002, 1.0))]
    )
    assert (found - wanted).norm() < 0.5 * (single - wanted).norm()


def test_the_matching_slope_is_the_finite_difference(model, images):
    reps = Representatives(LABELS, WEIGHTS, LocalSteps(3, 0.3, 1.0))
    observed = observed_gradient(trained(model, images.flip(3), 3, 0.3))
    observed = replace(observed, vector=observed.vector.double(), scale=observed.scale.double(), weights=None)
    double = model.double()
    try:
        loss, grad = matching_loss_and_grad(double, images.double(), [reps], [observed], DISTANCES["cosine"])
        direction = torch.randn(images.shape, generator=seeds.generator(1, "direction"), dtype=torch.float64)
        ahead, behind = (
            float(
                matching_loss_and_grad(
                    double, images.double() + sign * 1e-3 * direction, [reps], [observed], DISTANCES["cosine"]
                )[0]
            )
            for sign in (1, -1)
        )
    finally:
        model.float()
    assert float(loss) > 0
    assert (ahead - behind) / 2e-3 == pytest.approx(float((grad * direction).sum()), rel=0.02)


def test_one_gradient_is_not_simulated():
    assert plan(None, 30, 8) is None
    assert plan(LocalTraining(1, 0, 0.1), 30, 8) is None
    assert plan(LocalTraining(4, 10, 0.1), 30, 1) is None
    assert plan(LocalTraining(2, 10, 0.25), 30, 8) == LocalSteps(6, 0.25, 1.0)
