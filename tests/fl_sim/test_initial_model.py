"""Where the weights of round 1 come from, and what a file of weights must be like."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_faces import model_of, tiny_config

from experiments.plan.setup import prepare
from fl_sim import models, seeds
from fl_sim.config import ConfigError
from fl_sim.initial_model import check_smallest_step, initial_model


def saved(path, name, num_classes=2, image_size=32):
    """A file of weights that no seed of these tests gives."""
    model = models.build(name, num_classes, image_size, seeds.generator(77, "elsewhere"))
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    return str(path)


@pytest.mark.parametrize("name", ["convnet", "lenet", "mlp", "tiny_faces:normed_net"])
def test_weights_for_the_same_classes_are_loaded_whole(name, tmp_path):
    config = tiny_config(model={"name": name, "weights": saved(tmp_path / "w.safetensors", name)})
    loaded, file = initial_model(config, 2)[0].state_dict(), load_file(tmp_path / "w.safetensors")
    assert all(torch.equal(loaded[key], file[key]) for key in file)
    assert initial_model(config, 2)[1] == "trained"


@pytest.mark.parametrize("name", ["convnet", "tiny_faces:normed_net"])
def test_for_other_classes_the_head_starts_fresh_from_the_seed_and_all_else_is_loaded(name, tmp_path):
    config = tiny_config(model={"name": name, "weights": saved(tmp_path / "w.safetensors", name, num_classes=7)})
    loaded, file = initial_model(config, 2)[0].state_dict(), load_file(tmp_path / "w.safetensors")
    fresh = model_of(config).state_dict()
    head = {key for key in file if file[key].shape != fresh[key].shape}
    assert len(head) == 2  # weight and bias
    assert all(torch.equal(loaded[key], fresh[key] if key in head else file[key]) for key in file)
    assert initial_model(config, 2)[1] == "trained backbone, fresh head"


def test_no_weights_no_training():
    config = tiny_config()
    initial, fresh = (
        initial_model(config, 2)[0].state_dict(),
        model_of(config).state_dict(),
    )
    assert all(torch.equal(initial[key], fresh[key]) for key in fresh)
    assert initial_model(config, 2)[1] == "untrained"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda weights: weights.pop("2.bias"),
        lambda weights: weights.pop("4.bias"),  # half a head
        lambda weights: weights.update({"4.bias": torch.zeros(3)}),  # a head of two minds
        lambda weights: weights.update({"2.weight": torch.zeros(5, 48)}),  # another backbone
        lambda weights: weights.update({"4.weight": torch.zeros(3, 5), "4.bias": torch.zeros(3)}),
        lambda weights: weights.update({"more": torch.zeros(1)}),
    ],
)
def test_any_other_mismatch_is_a_mistake(spoil, tmp_path):
    config = tiny_config(model={"weights": saved(tmp_path / "w.safetensors", "tiny_faces:tiny_net")})
    assert initial_model(config, 2)[1] == "trained"
    weights = load_file(tmp_path / "w.safetensors")
    spoil(weights)
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=r"model\.weights .* does not fit model"):
        initial_model(config, 2)


def test_weights_for_another_image_size_are_a_mistake(tmp_path):
    path = saved(tmp_path / "w.safetensors", "convnet", image_size=64)
    with pytest.raises(ConfigError, match="does not fit model 'convnet'"):
        initial_model(tiny_config(model={"name": "convnet", "weights": path}), 2)


@pytest.mark.parametrize(
    ("photos", "batch_size", "refused"), [(1, 0, True), (2, 0, False), (3, 2, True), (4, 2, False), (2, 1, True)]
)
def test_a_model_that_fails_on_the_smallest_step_is_refused_before_the_run(photos, batch_size, refused):
    """Statistics of a batch need two values a channel, of which ResNet's last layers have one a photo at 32 px."""
    config = tiny_config(
        dataset={"photos": photos},
        federation={"batch_size": batch_size},
        model={"name": "resnet18", "batch_norm": "train", "small_stem": False},
    )
    model = initial_model(config, 2)[0]
    if not refused:
        return check_smallest_step(config, model, (photos, photos))
    with pytest.raises(ConfigError, match=r"fails on a step of 1 x 3 x 32 x 32 pixels .*raise dataset\.photos"):
        check_smallest_step(config, model, (photos, photos))


def test_the_smallest_step_is_that_of_the_users_whose_photos_were_counted():
    dataset = {"name": "tiny_faces:open_photographed", "photos": 2}  # who have 2, 3 and 4 of them
    model = {"name": "resnet18", "batch_norm": "train", "small_stem": False}
    config = tiny_config(dataset=dataset, federation={"batch_size": 2}, model=model)
    with pytest.raises(ConfigError, match=r"fails on a step of 1 x 3 x 32 x 32 pixels"):
        check_smallest_step(config, initial_model(config, 2)[0], prepare(config).photos)
