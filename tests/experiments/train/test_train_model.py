"""Training a victim model: it learns, it never meets a user, and a run takes what it wrote."""

import json
import sys
from dataclasses import dataclass

import pytest
import torch
from safetensors import safe_open
from tiny_faces import TinyFaces, tiny_config
from torch import nn

from clients.datasets.synthetic import training_photos
from clients.user import Faces
from experiments.cli import app
from experiments.cli.commands import train_model as train_model_command
from experiments.train import classifier as train_model
from experiments.train import commands
from experiments.train.classifier import Settings, accuracy, train, vary
from fl_sim import models, seeds
from fl_sim.config import ConfigError
from fl_sim.initial_model import initial_model


@dataclass(frozen=True)
class BrightFaces(TinyFaces):
    """People whose photos are bright where the label is 1; the first pixel says whose they are."""

    num_public: int = 30

    def user(self, partition):
        raise AssertionError("training has asked for a user")

    def public(self, index):
        labels = torch.arange(4) % 2
        noise = torch.rand(4, 3, self.image_size, self.image_size, generator=seeds.generator(0, "bright", index))
        photos = 0.2 * noise + 0.6 * labels[:, None, None, None]
        photos[:, 0, 0, 0] = index / 255
        return Faces(photos, labels, {})


def open_bright(dataset, seed):
    return BrightFaces(dataset.users, dataset.photos, seed, dataset.image_size)


@pytest.fixture
def bright(monkeypatch):
    """A config whose dataset is `BrightFaces`."""
    monkeypatch.setattr(sys.modules["tiny_faces"], "open_bright", open_bright, raising=False)
    return tiny_config(dataset={"name": "tiny_faces:open_bright"})


@pytest.mark.parametrize(("unknown", "left"), [(1, 3), (4, 0)])
def test_photos_without_a_label_teach_nothing(bright, tmp_path, monkeypatch, unknown, left):
    def public(self, index):
        faces = open_bright_public(self, index)
        labels = faces.labels.clone()
        labels[:unknown] = -1
        return Faces(faces.photos, labels, {})

    open_bright_public, seen = BrightFaces.public, []
    monkeypatch.setattr(BrightFaces, "public", public)
    monkeypatch.setattr(train_model, "train", lambda model, photos, labels, *rest: seen.append(labels))
    if left == 0:
        with pytest.raises(ConfigError, match="too few public people have labels"):
            commands.model(bright, tmp_path / "model.safetensors", 1, 1, quiet)
        return
    facts = commands.model(bright, tmp_path / "model.safetensors", 1, 1, quiet)
    assert (facts["train_photos"], facts["held_out_photos"]) == (27 * left, 3 * left)
    assert seen[0].unique().tolist() == [0, 1]


def quiet(*told):
    pass


def test_it_learns_from_public_people_alone_and_is_judged_on_the_tenth_ones(bright, tmp_path, monkeypatch):
    seen = {}

    def watch(name, real):
        def call(model, photos, labels, *rest):
            seen[name] = {int(photo[0, 0, 0]) for photo in photos}
            return real(model, photos, labels, *rest)

        monkeypatch.setattr(train_model, name, call)

    watch("train", train)
    watch("accuracy", accuracy)
    facts = commands.model(bright, tmp_path / "m.safetensors", 200, 1, quiet)
    assert seen == {"train": set(range(30)) - {9, 19, 29}, "accuracy": {9, 19, 29}}
    assert (facts["train_photos"], facts["held_out_photos"], facts["held_out_commoner_label"]) == (108, 12, 0.5)
    assert facts["held_out_accuracy"] == 1.0


def test_a_run_starts_from_what_was_written(bright, tmp_path):
    out = tmp_path / "m.safetensors"
    facts = commands.model(bright, out, 3, 1, quiet)
    config = tiny_config(model={"weights": str(out)})
    assert initial_model(config, 2)[1] == "trained"
    again = tmp_path / "again.safetensors"
    commands.model(bright, again, 3, 1, quiet)
    other = initial_model(tiny_config(model={"weights": str(again)}), 2)[0].state_dict()
    assert all(torch.equal(value, other[name]) for name, value in initial_model(config, 2)[0].state_dict().items())
    with safe_open(out, framework="pt") as file:
        assert json.loads(file.metadata()["facts"]) == facts


def test_synthetic_people_are_of_a_stream_of_their_own(tmp_path, monkeypatch):
    seen = []

    def learn(model, photos, labels, *rest):
        seen.append((photos, labels))

    monkeypatch.setattr(train_model, "train", learn)
    monkeypatch.setattr(commands, "MODEL_PHOTOS", 48)
    for task in ("smile", "beard"):
        config = tiny_config(dataset={"name": "synthetic", "task": task})
        commands.model(config, tmp_path / "m.safetensors", 1, 1, quiet)
    made = training_photos("model", 48, 32, 4, config.seed)
    kept = made.identity % 10 != 9
    assert all(torch.equal(photos, made.photos[kept]) for photos, _ in seen)
    assert torch.equal(seen[0][1], made.smiles[kept])
    assert torch.equal(seen[1][1], made.attributes["beard"][kept])
    assert 0 < made.smiles.sum() < 48


def test_mistakes(tmp_path):
    out = tmp_path / "m.safetensors"
    for dataset, told in (
        ({"name": "synthetic", "task": "identity"}, r"dataset\.task is 'identity', which is about the users"),
        ({"name": "synthetic", "task": "smyle"}, "no task of synthetic faces"),
        ({"name": "tiny_faces:open_tiny"}, "4 public people; a model needs at least 10"),
    ):
        with pytest.raises(ConfigError, match=told):
            commands.model(tiny_config(dataset=dataset), out, 1, 1, quiet)
    assert not out.exists()


def test_the_global_generator_plays_no_part():
    photos, labels = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8), torch.arange(8) % 2
    ends = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        model = models.build("tiny_faces:normed_net", 2, 32, seeds.generator(0, "model"))
        state = torch.get_rng_state()
        train(model, photos, labels, Settings(steps=2, batch_size=4), seeds.generator(0, "draws"), quiet)
        assert torch.equal(torch.get_rng_state(), state)
        assert not model.training
        ends.append(model.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert not torch.equal(ends[0]["1.running_mean"], nn.BatchNorm2d(4).running_mean)  # learnt on the way


def test_variation_keeps_range_and_shape_and_moves_a_face_only_a_little():
    photo = torch.zeros(1, 3, 32, 32)
    photo[:, :, 12:20, 12:20] = 1
    varied = vary(photo.expand(200, -1, -1, -1), seeds.generator(0, "vary"))
    assert varied.shape == (200, 3, 32, 32)
    assert 0 <= varied.min() <= varied.max() <= 1
    assert len({one.numpy().tobytes() for one in varied}) == 200
    middle, corner = varied[:, :, 14:18, 14:18].mean((1, 2, 3)), varied[:, :, :4, :4].mean((1, 2, 3))
    assert (middle > corner + 0.3).all()
    ramp = torch.linspace(0, 1, 32).expand(200, 3, 32, 32)
    rising = (vary(ramp, seeds.generator(0, "vary")).diff(dim=3).mean((1, 2, 3)) > 0).float().mean()
    assert 0.4 < rising < 0.6  # half are mirrored


def test_accuracy_is_the_share_of_photos_that_are_right():
    class Light(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, images):
            level = images.mean((1, 2, 3)) * self.scale
            return torch.stack([-level, level], 1)

    photos = torch.zeros(130, 3, 8, 8, dtype=torch.uint8)
    photos[100:] = 255
    assert accuracy(Light(), photos, torch.ones(130, dtype=torch.int64)) == pytest.approx(30 / 130)


def test_the_command_line(bright, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train_model_command, "load", lambda path, overrides: bright)
    monkeypatch.setattr(
        sys, "argv", ["fl-sim", "train-model", "--out", str(tmp_path / "m"), "--steps", "1", "--threads", "1"]
    )
    with pytest.raises(SystemExit):
        app.main()
    assert "held_out_accuracy: " in capsys.readouterr().out
    assert (tmp_path / "m").exists()
