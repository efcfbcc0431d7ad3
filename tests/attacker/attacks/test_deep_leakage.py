"""DLG and iDLG: one image comes back, its label exactly; victims do not feel each other."""

from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attacker.attack import Attacker
from attacker.attacks import dlg, idlg
from attacker.observation import Observation, Reconstruction
from clients.local_training import local_gradient
from clients.user import Faces
from fl_sim.models import build, normalise
from fl_sim.seeds import generator

SIZE, CLASSES = 8, 4


def victim(seed: int = 0, name: str = "lenet") -> Attacker:
    """The sigmoid LeNet with weights uniform in [-0.5, 0.5], as in the paper; other models as they are."""
    model, draw = build(name, CLASSES, SIZE, generator(0, "model")), generator(seed, "weights")
    if name == "lenet":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.rand(parameter.shape, generator=draw) - 0.5)
    return Attacker(model, SIZE, CLASSES, None, torch.device("cpu"))


def image(seed: int) -> Tensor:
    """A smooth image (1, 3, SIZE, SIZE) in [0, 1]."""
    coarse = torch.rand(1, 3, 4, 4, generator=generator(seed, "image"))
    return F.interpolate(coarse, (SIZE, SIZE), mode="bicubic").clamp(0, 1)


def observed(attacker: Attacker, photos: Tensor, labels: list[int]) -> Observation:
    gradient = local_gradient(attacker.model, Faces(photos, torch.tensor(labels), {}))
    return Observation(1, 0, dict(attacker.model.state_dict()), gradient, len(photos), None)


def run(
    module: ModuleType, attacker: Attacker, seen: list[Observation], seeds: list[int], **settings: Any
) -> list[Reconstruction]:
    generators = [generator(seed, "attack") for seed in seeds]
    found: list[Reconstruction] = module.attack(
        seen, attacker, module.Settings(**settings), generators, lambda done, total: None
    )
    return found


@pytest.mark.parametrize("module", [dlg, idlg])
def test_the_loss_falls_to_nothing_and_the_image_comes_back(module: ModuleType) -> None:
    attacker = victim()
    seen = observed(attacker, image(0), [2])
    short, long = (run(module, attacker, [seen], [0], steps=steps, layer_norm_power=0.0)[0] for steps in (1, 6))
    assert long.matching_loss < 1e-3 * short.matching_loss
    assert float((long.images - image(0)).square().mean()) < 1e-2
    assert float((short.images - image(0)).square().mean()) > 3e-2


@pytest.mark.parametrize("name", ["lenet", "mlp", "convnet"])
def test_the_label_of_one_image_is_exact(name: str) -> None:
    attacker = victim(name=name)
    for seed in range(30):
        photo, label = torch.rand(1, 3, SIZE, SIZE, generator=generator(seed)), seed % CLASSES
        gradient = observed(attacker, photo, [label]).gradient
        assert int(idlg.only_label(gradient, attacker.model, normalise(photo))) == label
        *_, bias = gradient
        if name == "lenet":  # features that are never below 0 tell it without a bias too
            del gradient[bias]
            assert int(idlg.only_label(gradient, attacker.model, normalise(photo))) == label


@pytest.mark.parametrize("module", [dlg, idlg])
def test_a_victim_is_attacked_as_if_alone_and_the_same_every_time(module: ModuleType) -> None:
    attacker = victim()
    seen = [observed(attacker, torch.cat([image(0), image(1), image(2)]), [1, 3, 3]), observed(attacker, image(3), [0])]
    together = run(module, attacker, seen, [0, 1], steps=1)
    for index, one in enumerate(seen):
        (alone,) = run(module, attacker, [one], [index], steps=1)
        assert torch.equal(alone.images, together[index].images)
        assert alone.images.shape == (one.num_examples, 3, SIZE, SIZE)
        assert 0 <= float(alone.images.min()) <= float(alone.images.max()) <= 1
        assert float(alone.weights.sum()) == pytest.approx(1)


@pytest.mark.parametrize("module", [dlg, idlg])
def test_large_batches_get_no_more_images_than_asked_for(module: ModuleType) -> None:
    attacker = victim()
    seen = observed(attacker, torch.cat([image(seed) for seed in range(5)]), [0, 1, 2, 3, 3])
    (result,) = run(module, attacker, [seen], [0], steps=1, max_images=2)
    assert len(result.images) == 2
    assert torch.isfinite(result.images).all()
