"""Attribute classifiers for photographs: learnt from public people's photos, kept in a file, used by the config."""

import sys
from dataclasses import dataclass

import pytest
import torch
from tiny_faces import TinyFaces, tiny_config

from clients.user import Faces
from experiments.cli import app
from experiments.cli.commands import train_attributes as train_attributes_command
from experiments.evaluate import attributes, identity_net
from experiments.train import attributes as train_attributes
from experiments.train import commands
from experiments.train.attributes import Settings, balanced_accuracies, train
from fl_sim.config import ConfigError, Leakage
from fl_sim.seeds import generator

SMALL = {"steps": 16, "batch_size": 16, "learning_rate": 2e-3}


def photos_of(count, *names):
    """Photos (count, 3, 32, 32) uint8: red where `red` is 1, blue where `blue` is; and those labels."""
    draw = generator(0, *names)
    red, blue = (torch.randint(2, (count,), generator=draw) for _ in range(2))
    photos = torch.randint(90, (count, 3, 32, 32), generator=draw)
    photos[:, 0] += 150 * red[:, None, None]
    photos[:, 2] += 150 * blue[:, None, None]
    return photos.byte(), {"red": red, "blue": blue}


@pytest.fixture(scope="module")
def net():
    torch.set_num_threads(1)
    return train(*photos_of(60, "train"), Settings(**SMALL), lambda done, total: None)


def test_it_learns_each_attribute_from_the_photos(net):
    photos, labels = photos_of(60, "test")
    assert all(value >= 0.9 for value in balanced_accuracies(net, photos, labels).values())
    flipped = {"red": 1 - labels["red"], "blue": labels["blue"]}
    assert balanced_accuracies(net, photos, flipped)["red"] <= 0.1


def test_always_one_answer_is_worth_a_half_however_rare_the_other(net):
    photos, labels = photos_of(40, "test")
    bright = photos[labels["red"] == 1][:1].expand(20, -1, -1, -1)  # all read as 1
    rare = torch.tensor([0] + [1] * 19)
    assert balanced_accuracies(net, bright, {"red": rare})["red"] == 0.5


def test_the_file_is_read_as_it_was_written_and_the_config_names_it(net, tmp_path):
    path = tmp_path / "a.safetensors"
    identity_net.save_net(net, path, {"steps": 1})
    photos = photos_of(20, "test")[0].float() / 255
    read = attributes.open_classifier(Leakage(attributes="trained", attributes_weights=path))
    assert attributes.names(read) == ["blue", "red"]
    expected = {name: logits.argmax(1) for name, logits in identity_net.infer(net, photos)[1].items()}
    assert all(torch.equal(read(photos)[name], expected[name]) for name in expected)


def test_of_several_classifiers_the_first_that_knows_an_attribute_is_asked():
    ones = lambda photos: {"a": torch.ones(len(photos), dtype=torch.int64)}  # noqa: E731
    zeros = lambda photos: {name: torch.zeros(len(photos), dtype=torch.int64) for name in ("a", "b")}  # noqa: E731
    asked = attributes.first_that_knows([ones, zeros])(torch.zeros(2, 3, 8, 8))
    assert {name: value.tolist() for name, value in asked.items()} == {"a": [1, 1], "b": [0, 0]}


@pytest.mark.parametrize(
    ("leakage", "told"),
    [
        ({"attributes": "trained"}, "without weights; set leakage.attributes_weights"),
        ({"attributes": "synthetic,trained"}, "without weights; set leakage.attributes_weights"),
        ({"attributes": "trained", "attributes_weights": "/nowhere/a"}, "/nowhere/a does not exist; make it with"),
        ({"attributes": "trained", "attributes_weights": __file__}, "is not a file of"),
        ({"attributes": "learned"}, "'learned'; allowed are"),
    ],
)
def test_what_is_missing_is_told_in_one_sentence(leakage, told):
    with pytest.raises(ConfigError, match=told) as error:
        attributes.open_classifier(Leakage(**leakage))
    assert "\n" not in str(error.value)


@dataclass(frozen=True)
class RatedFaces(TinyFaces):
    """20 people, whose photos have labels of their own; nobody may ask for a user."""

    num_public: int = 20
    task: str = "smiling"

    def user(self, partition):
        raise AssertionError("training has asked for a user")

    def public(self, index):
        photos = torch.full((4, 3, 32, 32), index / 255)
        return Faces(photos, torch.tensor([0, 1, 1, 1] if self.task == "smiling" else [1, 0, 0, 0]), {"smiling": 1})


def test_the_command_trains_on_public_people_with_the_labels_of_each_photo(tmp_path, monkeypatch, capsys):
    module = sys.modules["tiny_faces"]
    monkeypatch.setattr(module, "open_rated", lambda d, seed: RatedFaces(4, 2, 0, 32, task=d.task), raising=False)
    seen = {}

    def watch(photos, labels, settings, progress):
        seen.update({"people": {int(value) for value in photos[:, 0, 0, 0]}, "labels": labels})
        return train(photos, labels, settings, progress)

    monkeypatch.setattr(train_attributes, "train", watch)
    config = tiny_config(dataset={"name": "tiny_faces:open_rated"})
    monkeypatch.setattr(train_attributes_command, "load", lambda path, overrides: config)
    out = tmp_path / "a.safetensors"
    command = ["train-attributes", "--out", str(out), "--attributes", "smiling, Hat", "--steps", "1", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["fl-sim", *command])
    with pytest.raises(SystemExit):
        app.main()
    assert "held_out_balanced_accuracy: " in capsys.readouterr().out
    assert seen["people"] == set(range(20)) - {9, 19}
    assert {name: values[:4].tolist() for name, values in seen["labels"].items()} == {
        "smiling": [0, 1, 1, 1],
        "hat": [1, 0, 0, 0],
    }
    assert identity_net.facts(out)["held_out_share"] == {"smiling": 0.75, "hat": 0.25}


def test_synthetic_people_and_no_attributes_are_refused(tmp_path):
    for config, names, told in (
        (tiny_config(dataset={"name": "synthetic"}), ["smiling"], "classifiers are shipped"),
        (tiny_config(), [], "name binary ones"),
    ):
        with pytest.raises(ConfigError, match=told):
            commands.attributes(config, tmp_path / "a", names, 1, 1, lambda *told: None)
    assert not (tmp_path / "a").exists()
