"""What is asked of any module: its mode, its gradient, its state, the layer of its logits."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny_faces import normed_net, tiny_net
from torch import Tensor, nn

from fl_sim.modules import (
    acts_otherwise,
    as_logits,
    dropouts,
    free_of_graphs,
    gradients,
    has_running_statistics,
    load_state,
    logits_layer,
    set_mode,
    state,
)

SIZE = 32


def images(count: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def gradient(model: nn.Module, x: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(F.cross_entropy(model(x), torch.arange(len(x)) % 2), list(model.parameters())))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(3 * SIZE**2, 4), nn.Linear(3 * SIZE**2, 4), nn.Linear(4, 2)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.one(x.flatten(1)) * self.two(x.flatten(1)))
        return logits


def test_in_training_mode_the_gradient_is_torchs_and_the_running_statistics_stay() -> None:
    """The gradient that a user's own loop gets from model.train()."""
    model = normed_net(2, SIZE)
    theirs = copy.deepcopy(model).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ours = gradient(set_mode(model, "train"), images())
    assert all(torch.equal(a, b) for a, b in zip(ours, gradient(theirs, images()), strict=True))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not all(torch.equal(before[name], value) for name, value in theirs.state_dict().items())


def test_the_mode_survives_copies_and_can_be_changed_back() -> None:
    model, x = normed_net(2, SIZE), images()
    fixed = set_mode(model, "eval")(x)
    batch = set_mode(model, "train")(x)
    assert not torch.allclose(fixed, batch)
    assert torch.equal(copy.deepcopy(model)(x), batch)
    assert torch.equal(set_mode(model, "eval")(x), fixed)


class Frozen(nn.Sequential):
    """Its first part stays in eval mode, as fine-tuning has it."""

    def train(self, mode: bool = True) -> "Frozen":
        super().train(mode)
        self[0].eval()
        return self


def test_what_a_model_keeps_in_eval_mode_stays_in_it() -> None:
    model = Frozen(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    theirs = copy.deepcopy(model).train()
    assert torch.equal(set_mode(model, "train")(images() + 1), theirs(images() + 1))
    assert torch.equal(set_mode(model, "eval")(images()), copy.deepcopy(model).eval()(images()))


class Own(nn.Module):
    """Centres by the batch in training mode, and drops, as no layer of torch.nn tells."""

    def __init__(self, centred: bool, rate: float) -> None:
        super().__init__()
        self.centred, self.rate, self.net = centred, rate, normed_net(2, SIZE)

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(0) if self.centred and self.training else x
        return F.dropout(self.net(x), self.rate, self.training)


def test_what_else_differs_in_training_mode_is_noticed() -> None:
    for model in (Own(True, 0.0), Own(False, 0.5)):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        assert acts_otherwise(set_mode(model, "eval"), images())
        assert not model.training
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    for known in (Own(False, 0.0), tiny_net(2, SIZE), nn.Sequential(nn.Dropout(0.5), normed_net(2, SIZE))):
        assert not acts_otherwise(set_mode(known, "eval"), images())


def test_whether_the_modes_differ() -> None:
    assert has_running_statistics(normed_net(2, SIZE))
    assert not has_running_statistics(tiny_net(2, SIZE))
    assert not has_running_statistics(nn.BatchNorm2d(3, track_running_stats=False))


def test_dropout_is_found_by_name_and_off_in_either_mode() -> None:
    model = nn.Sequential(nn.Dropout(0.0), nn.Dropout2d(0.5), nn.MultiheadAttention(4, 1, dropout=0.1))
    assert dropouts(model) == ["1", "2"]
    for mode in ("eval", "train"):
        assert not any(layer.training for layer in set_mode(model, mode).modules())  # type: ignore[arg-type]


def test_frozen_and_unused_parameters_have_a_gradient_of_zeros() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    unused, frozen = nn.Parameter(torch.ones(2)), model[0].weight
    frozen.requires_grad_(False)
    found = gradients(model(torch.ones(1, 3)).sum(), [*model.parameters(), unused])
    assert [bool(value.any()) for value in found] == [False, True, True, True, False]
    assert [value.shape for value in found] == [value.shape for value in [*model.parameters(), unused]]


def test_tied_tensors_are_in_the_state_once_and_loaded_everywhere() -> None:
    model, other = Tied(), Tied()
    assert list(state(model)) == [name for name, _ in model.named_parameters()]
    load_state(other, state(model))
    assert other.two.weight is other.one.weight
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in other.state_dict().items())
    load_state(other, {**other.state_dict(), "one.weight": torch.zeros(4, 3 * SIZE**2)})  # the name of `state` counts
    assert not other.two.weight.any()


def test_missing_buffers_stay_and_missing_parameters_are_an_error() -> None:
    model, other = normed_net(2, SIZE), normed_net(2, SIZE)
    parameters = dict(model.named_parameters())
    load_state(other, parameters)
    assert torch.equal(other.state_dict()["3.running_mean"], torch.ones(4))
    del parameters["0.weight"]
    with pytest.raises(RuntimeError, match=r"0\.weight"):
        load_state(other, parameters)


@pytest.mark.filterwarnings("ignore")
def test_old_weight_norm_can_be_copied() -> None:
    model = nn.utils.weight_norm(nn.Linear(3, 2))
    x = torch.ones(1, 3)
    assert torch.equal(copy.deepcopy(free_of_graphs(model))(x), model(x))


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_the_cross_entropy_of_one_logit_is_its_binary_cross_entropy(shape: tuple[int, ...]) -> None:
    logit, labels = torch.randn(shape), torch.tensor([0, 1, 1, 0, 1])
    expected = F.binary_cross_entropy_with_logits(logit.flatten(), labels.float())
    assert torch.allclose(F.cross_entropy(as_logits(logit), labels), expected)
    assert as_logits(torch.ones(5, 3)).shape == (5, 3)


class HeadFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.other, self.body = nn.Linear(4, 2), nn.Linear(4, 2), nn.Linear(3 * SIZE**2, 4)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x.flatten(1))
        return self.head(features).log_softmax(1) + 0 * self.other(features)


def test_the_layer_of_the_logits_is_found_by_what_comes_out() -> None:
    found = logits_layer(HeadFirst(), images())
    assert found is not None
    assert found[0] == "head"
    assert logits_layer(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 2), nn.ReLU()), images()) is None
