"""Label recovery: exact where all photos share a label, close on untrained models, bounded on trained ones."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacker.inversion.labels import recover_proportions
from fl_sim.models import build, normalise
from fl_sim.modules import as_logits, gradients
from fl_sim.seeds import generator
from fl_sim.updates import Update

SIZE, PHOTOS = 32, 30


def person(*names: str | int, count: int = PHOTOS) -> Tensor:
    """Photos (count, 3, SIZE, SIZE) in [-1, 1] that differ less among each other than from other people's."""
    source = generator(0, "person", *names)
    face = F.interpolate(torch.randn(1, 3, 6, 6, generator=source), (SIZE, SIZE), mode="bicubic")
    nuisance = F.interpolate(torch.randn(count, 3, 6, 6, generator=source), (SIZE, SIZE), mode="bicubic")
    return normalise((0.5 + 0.2 * face + 0.1 * nuisance).clamp(0, 1))


def probes() -> Tensor:
    return F.interpolate(torch.randn(32, 3, 8, 8, generator=generator(0, "probes")), (SIZE, SIZE), mode="bicubic")


def gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Update:
    values = gradients(F.cross_entropy(model(images), labels), list(model.parameters()))
    return {name: value for (name, _), value in zip(model.named_parameters(), values, strict=True)}


def labels_of(shares: list[float]) -> Tensor:
    counts = torch.tensor([round(share * PHOTOS) for share in shares])
    return torch.arange(len(shares)).repeat_interleave(counts)


def recovered(name: str, shares: list[float], person_name: int) -> Tensor:
    model = build(name, len(shares), SIZE, generator(0, "model", name, len(shares)))
    update = gradient(model, person(person_name), labels_of(shares))
    return recover_proportions(update, model, probes(), PHOTOS)


@pytest.mark.parametrize("name", ["convnet", "mlp"])
@pytest.mark.parametrize("classes", [2, 10])
def test_one_label_is_recovered_exactly(name: str, classes: int) -> None:
    for label in (0, classes - 1):
        shares = [float(index == label) for index in range(classes)]
        assert recovered(name, shares, label).tolist() == shares


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.7, 0.3], [0.1, 0.9]])
@pytest.mark.parametrize("name", ["convnet", "mlp", "lenet"])
def test_untrained_models_give_the_proportions_within_a_twentieth(name: str, shares: list[float]) -> None:
    for user in range(4):
        assert recovered(name, shares, user).tolist() == pytest.approx(shares, abs=0.05)


def test_many_classes_are_told_apart() -> None:
    shares = [0.4, 0.0, 0.3, 0.2, 0.0, 0.1, 0.0, 0.0, 0.0, 0.0]
    assert recovered("convnet", shares, 0).tolist() == pytest.approx(shares, abs=0.05)


@pytest.mark.parametrize("size", [0.5, 0.01])
@pytest.mark.parametrize("shares", [[0.0, 1.0] + 8 * [0.0], [0.4, 0.0, 0.3, 0.3] + 6 * [0.0]])
def test_who_knows_of_a_clip_finds_the_scale_by_the_absent_classes(shares: list[float], size: float) -> None:
    model = build("convnet", 10, SIZE, generator(0, "model"))
    update = gradient(model, person("clipped"), labels_of(shares))
    clipped = {name: size * value for name, value in update.items()}
    found = recover_proportions(clipped, model, probes(), PHOTOS, scaled=True)
    assert found.tolist() == pytest.approx(recover_proportions(update, model, probes(), PHOTOS).tolist(), abs=0.05)
    assert recover_proportions(clipped, model, probes(), PHOTOS).max() < max(shares) - 0.1


def test_signs_and_the_largest_entries_still_show_the_only_label() -> None:
    model = build("mlp", 16, SIZE, generator(0, "model"))
    update = gradient(model, person("one label"), torch.full((PHOTOS,), 3))
    signs = {name: value.sign() * value.abs().mean() for name, value in update.items()}
    largest = {name: torch.where(value.abs() == value.abs().max(), value, 0.0) for name, value in update.items()}
    for defended, known in ((signs, {"scaled": True}), (largest, {"masked": True})):
        assert recover_proportions(defended, model, probes(), PHOTOS, **known)[3] == 1


def test_where_a_mask_hides_the_bias_the_weights_tell_the_label() -> None:
    model = build("mlp", 16, SIZE, generator(0, "model"))
    update = gradient(model, person("one label"), torch.full((PHOTOS,), 3))
    weight, bias = list(update)[-2:]
    kept = (torch.rand(update[weight].shape, generator=generator(0, "kept")) < 0.2) * 5.0
    hidden = {**update, weight: update[weight] * kept, bias: torch.where(torch.arange(16) == 5, update[bias], 0.0)}
    assert recover_proportions(hidden, model, probes(), PHOTOS, masked=True)[3] > 0.7
    assert recover_proportions(hidden, model, probes(), PHOTOS)[3] < 0.7


def test_shares_are_whole_photos_that_sum_to_one() -> None:
    shares = recovered("convnet", [0.5, 0.3, 0.2], 1)
    assert float(shares.sum()) == pytest.approx(1)
    assert torch.allclose(shares * PHOTOS, (shares * PHOTOS).round(), atol=1e-4)


def test_without_a_bias_the_weights_tell() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 64), nn.Sigmoid(), nn.Linear(64, 2, bias=False))
    update = gradient(model, person("nobias"), labels_of([0.8, 0.2]))
    assert recover_proportions(update, model, probes(), PHOTOS).tolist() == pytest.approx([0.8, 0.2], abs=0.1)


def test_a_trained_model_still_shows_a_user_s_only_label() -> None:
    """Classes told apart by brightness, learnt to over 90 %: the gradient is small but keeps its sign."""
    model = build("mlp", 2, SIZE, generator(0, "trained"))
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    draw = generator(0, "training")
    for _ in range(60):
        labels = torch.randint(2, (64,), generator=draw)
        images = torch.randn(64, 3, SIZE, SIZE, generator=draw) * 0.5 + (labels * 0.08 - 0.04)[:, None, None, None]
        optimiser.zero_grad()
        F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    labels = torch.randint(2, (200,), generator=draw)
    images = torch.randn(200, 3, SIZE, SIZE, generator=draw) * 0.5 + (labels * 0.08 - 0.04)[:, None, None, None]
    accuracy = float((model(images).argmax(1) == labels).float().mean())
    assert accuracy > 0.8
    for label in (0, 1):
        mine = images[labels == label][:PHOTOS]
        update = gradient(model, mine, torch.full((len(mine),), label))
        assert int(recover_proportions(update, model, images[:64], len(mine)).argmax()) == label


def test_a_zero_update_says_nothing_and_is_no_error() -> None:
    model = build("convnet", 2, SIZE, generator(0, "model"))
    zero = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    shares = recover_proportions(zero, model, probes(), PHOTOS)
    assert torch.isfinite(shares).all()
    assert float(shares.sum()) == pytest.approx(1)


class BackboneLast(nn.Module):
    """Defined in another order than called: the head first, one for another task last."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.task, self.backbone = nn.Linear(32, classes), nn.Linear(3 * SIZE**2, 32)
        self.other = nn.Linear(32, 7)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.task(self.backbone(images.flatten(1)).tanh())
        return logits


class Cosines(nn.Module):
    """Logits are cosines to learnt directions: no linear layer, no bias."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.directions, self.backbone = nn.Parameter(torch.randn(classes, 32)), nn.Linear(3 * SIZE**2, 32)

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(images.flatten(1)).sigmoid()
        return F.normalize(features, dim=1) @ F.normalize(self.directions, dim=1).T * 4


def convolutional(classes: int) -> nn.Module:
    head = nn.Conv2d(8, classes, 1)
    return nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.GELU(), head, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def weight_normed(classes: int) -> nn.Module:
    head = nn.utils.parametrizations.weight_norm(nn.Linear(32, classes, bias=False))
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 32), nn.Sigmoid(), head)


def log_softmax(classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, classes), nn.LogSoftmax(1))


@pytest.mark.parametrize("make", [BackboneLast, Cosines, convolutional, weight_normed, log_softmax])
@pytest.mark.parametrize("shares", [[1.0, 0.0, 0.0], [0.5, 0.2, 0.3]])
def test_labels_are_read_off_models_of_any_form(make: Callable[[int], nn.Module], shares: list[float]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make(3)
    others = torch.cat([person("public", index, count=2) for index in range(32)])
    errors = []
    for user in range(6):
        update = gradient(model, person(user), labels_of(shares))
        errors.append((recover_proportions(update, model, others, PHOTOS) - torch.tensor(shares)).abs().mean())
    assert float(torch.stack(errors).mean()) < 0.1  # always saying a third each is 0.44 and 0.11 off


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("ones", [0, 12, 30])
def test_one_logit_tells_the_share_of_two_classes(bias: bool, ones: int) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 32), nn.Sigmoid(), nn.Linear(32, 1, bias=bias))
    model.register_forward_hook(lambda *given: as_logits(given[-1]))
    labels = (torch.arange(PHOTOS) < ones).long()
    update = gradient(model, person(0), labels)
    shares = recover_proportions(update, model, probes(), PHOTOS).tolist()
    assert shares == pytest.approx([1 - ones / PHOTOS, ones / PHOTOS], abs=0.1)


def test_a_frozen_bias_says_nothing_and_the_weights_are_asked() -> None:
    """Its gradient of zeros is not that of a model whose answers are right already."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.GELU(), nn.Flatten(), nn.Linear(256, 2)).eval()
    model[3].bias.requires_grad_(False)
    photos, probes = (torch.rand(10, 3, 32, 32, generator=generator(0, name)) * 2 - 1 for name in ("photos", "probes"))
    loss = F.cross_entropy(model(photos), torch.tensor([1] * 9 + [0]))
    trained = [name for name, one in model.named_parameters() if one.requires_grad]
    grads = torch.autograd.grad(loss, [model.get_parameter(name) for name in trained])
    gradient = {**dict(zip(trained, grads, strict=True)), "3.bias": torch.zeros(2)}
    assert recover_proportions(gradient, model, probes, 10)[1] > 0.55  # the model's own answer is one half
    silent = {name: torch.zeros_like(value) for name, value in gradient.items()}
    assert recover_proportions(silent, model, probes, 10).tolist() == [0.5, 0.5]
