"""Gradient matching: zero at the truth, blind to what it should be blind to, the same for one victim or many."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attacker.gaussian_blur import gaussian_blur
from attacker.inversion.matching import (
    DISTANCES,
    ObservedGradient,
    Representatives,
    cosine,
    dummy_gradient,
    load_model,
    matching_loss_and_grad,
    mse,
    observed_gradient,
    unit,
)
from fl_sim.models import MODELS, build, normalise
from fl_sim.seeds import generator
from fl_sim.updates import Update, flatten

SIZE = 32


def faces(count: int, *names: str | int) -> torch.Tensor:
    """Images (count, 3, SIZE, SIZE) in [-1, 1]."""
    return normalise(torch.rand(count, 3, SIZE, SIZE, generator=generator(0, "faces", *names)))


def gradient(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Update:
    """Of the mean cross-entropy, computed the plain way."""
    values = torch.autograd.grad(F.cross_entropy(model(images), labels), list(model.parameters()))
    return {name: value for (name, _), value in zip(model.named_parameters(), values, strict=True)}


def victim(name: str, norm: str = "eval") -> nn.Module:
    model = build(name, 3, SIZE, generator(0, "model"), batch_norm=norm)  # type: ignore[arg-type]
    return load_model(model, model.state_dict())


CASES = [(name, "eval") for name in MODELS if name != "resnet18"] + [
    pytest.param("resnet18", norm, marks=pytest.mark.slow) for norm in ("eval", "train")
]


@pytest.mark.parametrize(("name", "norm"), CASES)
@pytest.mark.parametrize("distance", sorted(DISTANCES))
def test_matching_loss_at_the_private_photo_is_zero(name: str, norm: str, distance: str) -> None:
    model = victim(name, norm)
    photo, label = faces(1), torch.tensor([1])
    observed = [observed_gradient(gradient(model, photo, label), layer_norm_power=0.5)]
    reps = [Representatives(label, torch.ones(1))]
    truth, _ = matching_loss_and_grad(model, photo, reps, observed, DISTANCES[distance])
    other, _ = matching_loss_and_grad(model, faces(1, "other"), reps, observed, DISTANCES[distance])
    assert float(truth) == pytest.approx(0, abs=1e-5)
    assert float(other) > max(float(truth), 1e-4)


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_the_dummy_gradient_of_the_whole_batch_is_the_update(name: str, norm: str) -> None:
    model = victim(name, norm)
    photos, labels = faces(4), torch.tensor([0, 1, 2, 1])
    expected = flatten(gradient(model, photos, labels))
    dummy = dummy_gradient(model, photos, Representatives(labels, torch.full((4,), 0.25)))
    assert torch.allclose(dummy, expected, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_victims_together_match_as_each_alone(name: str, norm: str) -> None:
    model = victim(name, norm)
    representatives = [
        Representatives(torch.tensor([0, 1]), torch.tensor([0.7, 0.3])),
        Representatives(torch.tensor([2]), torch.ones(1)),
    ]
    images = faces(3)
    observed = [observed_gradient(gradient(model, faces(2, v), torch.tensor([0, 2])), 0.5) for v in range(2)]
    losses, grads = matching_loss_and_grad(model, images, representatives, observed, cosine)
    first, second = (
        matching_loss_and_grad(model, images[:2], representatives[:1], observed[:1], cosine),
        matching_loss_and_grad(model, images[2:], representatives[1:], observed[1:], cosine),
    )
    assert torch.equal(losses, torch.cat([first[0], second[0]]))
    assert torch.equal(grads, torch.cat([first[1], second[1]]))


def test_the_slope_is_the_derivative_of_the_loss() -> None:
    model = victim("mlp").double()
    reps = Representatives(torch.tensor([0, 1]), torch.tensor([0.6, 0.4], dtype=torch.float64))
    images = faces(2).double()
    vector = flatten(gradient(model, faces(2, "private").double(), torch.tensor([0, 1])))
    observed = [ObservedGradient(vector, torch.ones_like(vector))]
    _, grad = matching_loss_and_grad(model, images, [reps], observed, cosine)
    along = torch.randn(images.shape, generator=generator(0, "along"), dtype=torch.float64)
    ahead, behind = (
        matching_loss_and_grad(model, images + sign * 1e-4 * along, [reps], observed, cosine)[0] for sign in (1, -1)
    )
    assert float((ahead - behind) / 2e-4) == pytest.approx(float((grad * along).sum()), rel=1e-4)


def test_cosine_is_blind_to_scale_and_mse_is_not() -> None:
    a, b = torch.randn(2, 100, generator=generator(0, "vectors"))
    assert float(cosine(5 * a, b)) == pytest.approx(float(cosine(a, 0.1 * b)), abs=1e-6)
    assert float(mse(5 * a, b)) > float(mse(a, b))


def test_zero_and_tiny_gradients_stay_finite() -> None:
    model = victim("convnet")
    reps = Representatives(torch.tensor([0]), torch.ones(1))
    truth = gradient(model, faces(1), torch.tensor([0]))
    full = observed_gradient(truth)
    tiny = observed_gradient({name: value.double().mul(1e-25).float() for name, value in truth.items()})
    assert torch.allclose(tiny.vector, full.vector, atol=1e-4)
    zero = observed_gradient({name: value * 0 for name, value in truth.items()})
    assert not zero.vector.any()
    for distance in DISTANCES.values():
        for observed in (zero, tiny):
            loss, grad = matching_loss_and_grad(model, faces(1, "start"), [reps], [observed], distance)
            assert torch.isfinite(loss).all()
            assert torch.isfinite(unit(grad)).all()


def test_balanced_tensors_count_by_the_square_root_of_their_entries() -> None:
    model = victim("convnet")
    truth = gradient(model, faces(1), torch.tensor([0]))
    plain, even = observed_gradient(truth, 0), observed_gradient(truth, 1)
    assert torch.allclose(plain.vector, flatten(truth) / flatten(truth).norm(), atol=1e-6)
    entries = [value.numel() for value in truth.values()]
    shares = torch.stack([part.norm() for part in even.vector.split(entries)]).square()
    roots = torch.tensor(entries).sqrt()
    assert torch.allclose(shares, roots / roots.sum(), atol=1e-4)


def test_a_tensor_that_was_zeroed_is_not_raised_above_the_others() -> None:
    """Pruning may silence a whole bias; balanced by its size, it would be all that the distance sees."""
    model = victim("convnet")
    truth = gradient(model, faces(1), torch.tensor([0]))
    pruned = {name: value * (name != "0.bias") for name, value in truth.items()}
    scales = observed_gradient(pruned, layer_norm_power=1).scale.split([value.numel() for value in truth.values()])
    zeroed = dict(zip(truth, scales, strict=True)).pop("0.bias")
    assert all(float(zeroed.max()) <= float(scale.min()) for scale in scales)


def test_smoothing_keeps_the_mean_and_kills_a_checkerboard() -> None:
    flat = torch.full((1, 3, 16, 16), 0.4)
    assert torch.allclose(gaussian_blur(flat, 1.5), flat, atol=1e-6)
    board = (torch.arange(16)[:, None] + torch.arange(16)[None]).remainder(2).float().expand(1, 3, 16, 16)
    assert float(gaussian_blur(board, 1.5)[..., 5:-5, 5:-5].std()) < 0.01
    assert gaussian_blur(board, 0.0) is board


def test_unit_norm_survives_zero_and_tiny_images() -> None:
    images = torch.stack(
        [torch.zeros(3, 4, 4), torch.full((3, 4, 4), 1e-25), torch.rand(3, 4, 4, generator=generator(0, "x"))]
    )
    norms = unit(images).flatten(1).norm(dim=1)
    assert norms.tolist() == pytest.approx([0, 1, 1], abs=1e-5)


def test_the_model_attacked_is_the_one_that_was_sent() -> None:
    fresh, sent = build("convnet", 3, SIZE, generator(1, "model")), build("convnet", 3, SIZE, generator(2, "model"))
    loaded = load_model(fresh, sent.state_dict())
    assert all(torch.equal(value, sent.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert loaded is not fresh


@pytest.mark.parametrize("distance", sorted(DISTANCES))
@pytest.mark.parametrize("name", ["convnet", "lenet"])
def test_the_slope_is_the_derivative_of_the_distance(name: str, distance: str) -> None:
    """Taken here the plain way, with torch's own second derivatives and no closed form."""
    model, images, labels = victim(name), faces(9, "candidate"), torch.arange(9) % 3
    reps = Representatives(labels, torch.full((9,), 1 / 9))
    observed = observed_gradient(gradient(model, faces(9), labels), layer_norm_power=0.5)
    pixels = images.clone().requires_grad_(True)
    losses = F.cross_entropy(model(pixels), labels)
    plain = torch.cat([g.flatten() for g in torch.autograd.grad(losses, list(model.parameters()), create_graph=True)])
    loss = DISTANCES[distance](plain * observed.scale, observed.vector)
    (grad,) = torch.autograd.grad(loss, pixels)
    found_loss, found = matching_loss_and_grad(model, images, [reps], [observed], DISTANCES[distance])
    assert float(found_loss) == pytest.approx(float(loss.detach()), rel=1e-5, abs=1e-7)
    assert float((found - grad).norm() / grad.norm()) < 1e-4


def test_a_dummy_gradient_of_zero_has_a_finite_derivative() -> None:
    dummy = torch.zeros(5, requires_grad=True)
    cosine(dummy, torch.ones(5)).backward()
    assert dummy.grad is not None
    assert dummy.grad.isfinite().all()
