from pathlib import Path

import pytest
import torch
from torch import nn

from fl_sim import models


def fresh(name, seed=0, size=32, classes=2, **more):
    return models.build(name, classes, size, torch.Generator().manual_seed(seed), **more)


@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("classes", [2, 7])
def test_every_model_takes_any_size_and_number_of_classes(name, size, classes):
    logits = fresh(name, size=size, classes=classes)(torch.zeros(3, 3, size, size))
    assert logits.shape == (3, classes)


@pytest.mark.parametrize("name", models.MODELS)
def test_the_generator_alone_decides_the_weights(name):
    before = torch.get_rng_state()
    a, b, other = (nn.utils.parameters_to_vector(fresh(name, seed).parameters()) for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, other)
    assert torch.equal(before, torch.get_rng_state())


def test_batch_norm_in_eval_mode_treats_images_apart_and_in_train_mode_together():
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    apart, together = fresh("resnet18", batch_norm="eval"), fresh("resnet18", batch_norm="train")
    assert torch.allclose(apart(images)[:1], apart(images[:1]), rtol=1e-3)
    assert not torch.allclose(together(images)[:1], together(images[:1]), rtol=1e-3)
    assert not dict(together.named_buffers())


def own_model(num_classes: int, image_size: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, num_classes))


def test_a_model_of_ones_own_is_named_by_its_factory(monkeypatch):
    import sys
    import types

    package = types.ModuleType("somebodys")
    package.own_model = own_model
    package.no_arguments, package.nothing = torch.nn.Identity().forward, lambda classes, size: None
    package.no_file = lambda classes, size: Path("no_such_file").read_bytes()
    monkeypatch.setitem(sys.modules, "somebodys", package)
    assert fresh("somebodys:own_model")(torch.zeros(1, 3, 32, 32)).shape == (1, 2)
    with pytest.raises(ValueError, match=r"unknown model 'convnett'; did you mean 'convnet'\?"):
        fresh("convnett")
    with pytest.raises(ValueError, match="cannot be imported"):
        fresh("no_such_package:model")
    for name, told in (
        ("no_arguments", r"cannot be made by factory\(2, 32\)"),
        ("no_file", "No such file"),
        ("nothing", "made a NoneType; name what returns a torch.nn.Module"),
    ):
        with pytest.raises(ValueError, match=told):
            fresh(f"somebodys:{name}")


@pytest.mark.parametrize("line", ["raise RuntimeError('no device')", "import sys; sys.exit()", "x = ("])
def test_a_module_that_cannot_be_imported_is_told_whatever_it_raises(line, tmp_path, monkeypatch):
    (tmp_path / "unimportable.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="'unimportable:model' cannot be imported"):
        fresh("unimportable:model")
