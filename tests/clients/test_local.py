import pytest
import torch
from tiny_faces import open_tiny, tiny_config
from torch.nn import functional

from clients.local_training import evaluate, local_gradient
from clients.user import Faces
from fl_sim import models, seeds
from fl_sim.models import normalise


@pytest.fixture(params=["convnet", "mlp"])
def model(request):
    return models.build(request.param, 2, 32, seeds.generator(0, "model"))


@pytest.fixture
def faces():
    config = tiny_config(dataset={"photos": 5})
    return open_tiny(config.dataset, config.seed).user(2).private


def test_the_gradient_has_the_names_of_the_parameters_in_their_order(model, faces):
    assert list(local_gradient(model, faces)) == [name for name, _ in model.named_parameters()]


def test_the_gradient_of_the_mean_loss_is_the_mean_of_the_photos_gradients(model, faces):
    whole = local_gradient(model, faces)
    each = [
        local_gradient(model, Faces(faces.photos[i : i + 1], faces.labels[i : i + 1], {}))
        for i in range(len(faces.photos))
    ]
    for name, value in whole.items():
        torch.testing.assert_close(value, torch.stack([one[name] for one in each]).mean(0), rtol=1e-4, atol=1e-6)


def test_the_gradient_is_the_slope_of_the_loss(model, faces):
    model, photos = model.double(), normalise(faces.photos.double())
    gradient = local_gradient(model, Faces(faces.photos.double(), faces.labels, {}))
    name, parameter = list(model.named_parameters())[-1]
    with torch.no_grad():
        losses = []
        for sign in (1, -1):
            parameter[0] += sign * 1e-5
            losses.append(float(functional.cross_entropy(model(photos), faces.labels)))
            parameter[0] -= sign * 1e-5
    assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(float(gradient[name][0]), rel=1e-5)


def test_the_gradient_is_the_same_bits_every_time_and_leaves_the_model_alone(model, faces):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = local_gradient(model, faces), local_gradient(model, faces)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(value.requires_grad for value in first.values())


def test_no_photos(model):
    nobody = Faces(torch.zeros(0, 3, 32, 32), torch.zeros(0, dtype=torch.int64), {})
    with pytest.raises(ValueError, match="without photos has no gradient"):
        local_gradient(model, nobody)
    assert evaluate(model, nobody).examples == 0


def test_evaluation_agrees_with_a_loop_over_photos(model, faces):
    result = evaluate(model, faces)
    correct, losses = 0, []
    for photo, label in zip(faces.photos, faces.labels, strict=True):
        probabilities = model(photo[None] * 2 - 1)[0].detach().softmax(0)
        correct += int(probabilities.argmax() == label)
        losses.append(-float(probabilities[label].log()))
    assert (result.correct, result.examples) == (correct, len(faces.photos))
    assert result.loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)
