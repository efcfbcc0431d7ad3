"""`fl-sim train-prior`: who is learnt from, and what is refused before anything is rendered."""

import json
import sys
from dataclasses import dataclass

import priors
import pytest
import torch
from command_line import fl_sim, sentence
from tiny_faces import TinyFaces, tiny_config

from attacker.priors import train as train_prior
from attacker.priors.prior import load_prior
from clients.user import Faces
from experiments.train import commands

SMALL = ["--photos", 64, "--batch-size", 2, "-o", "dataset.image_size=32", "--threads", 1]


@dataclass(frozen=True)
class Shades(TinyFaces):
    """Public people whose photos are of one grey, which says whose they are and with which label."""

    num_public: int = 20

    def user(self, partition):
        raise AssertionError("training has asked for a user")

    def public(self, index):
        labels = torch.arange(5) % 2
        grey = (10 * index + labels)[:, None, None, None] / 255
        return Faces(grey.expand(-1, 3, self.image_size, self.image_size), labels, {})


@pytest.fixture
def few(monkeypatch):
    """Few held-out photos and pictures."""
    monkeypatch.setattr(commands, "HELD_OUT", 48)
    monkeypatch.setattr(train_prior, "HELD_OUT_BATCHES", 1)
    monkeypatch.setattr(train_prior, "SHEET", (1, 1, 4))
    monkeypatch.setattr(train_prior, "SAMPLING_STEPS", 2)


def test_synthetic_people_give_a_conditional_prior_that_the_next_training_begins_with(few, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert fl_sim("train-prior", "--out", first, "--steps", 2, "--channels", "8,32", *SMALL)[0] == 0
    assert fl_sim("train-prior", "--out", second, "--steps", 1, "--start", first, *SMALL)[0] == 0
    assert load_prior(str(second), 32).conditional
    facts = json.loads((second / "training.json").read_text())
    assert (facts["start"], facts["steps"], facts["train_photos"]) == ("first", 1, 64)
    assert "synthetic people" in facts["source"]


def test_public_people_are_learnt_from_with_their_labels_and_every_tenth_is_held_out(monkeypatch, tmp_path):
    monkeypatch.setattr(sys.modules["tiny_faces"], "open_shades", lambda d, s: Shades(4, 2, s, d.image_size), False)
    monkeypatch.setattr(commands, "examine", lambda dataset, seed: None)
    seen = []
    monkeypatch.setattr(train_prior, "train", lambda *given: seen.extend(given[:2]) or train_prior.Outcome(1, 0, 0, 0))
    dataset = tiny_config(dataset={"name": "tiny_faces:open_shades", "image_size": 32}).dataset
    commands.prior(dataset, tmp_path, 90, (8, 32), {"steps": 1}, 0, 1, lambda *done: None)
    train, held_out = seen
    assert held_out.people.unique().tolist() == [9, 19]
    assert train.people.unique().tolist() == [person for person in range(20) if person % 10 != 9]
    for album in (train, held_out):
        assert torch.equal(album.photos[:, 0, 0, 0], (10 * album.people + album.labels).byte())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--start", "nowhere"], "neither a folder nor a hub name"),
        (["--start", "synthetic64", "--channels", "24,32"], "give one of the two"),
        (["--start", "synthetic64", "-o", "dataset.image_size=32"], "is of 64 px, dataset.image_size is 32"),
        (["--start", "latent"], "is a latent prior"),
    ],
)
def test_a_start_that_cannot_be_is_told_before_anything_is_rendered(given, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "training_photos", lambda *given: pytest.fail("photos are rendered"))
    priors.write_prior(tmp_path / "latent", priors.unet(4))
    priors.write_vae(tmp_path / "latent" / "vae")
    code, text = fl_sim("train-prior", "--out", tmp_path / "out", *given)
    assert code == 2
    assert told in sentence(text)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_start_is_told_before_anything_is_rendered(few, tmp_path, monkeypatch):
    assert fl_sim("train-prior", "--out", tmp_path, "--steps", 1, "--channels", "8,32", *SMALL)[0] == 0
    monkeypatch.setattr(commands, "training_photos", lambda *given: pytest.fail("photos are rendered"))
    code, text = fl_sim("train-prior", "--out", tmp_path, "--start", tmp_path, *SMALL)
    assert code == 2
    assert "began at random weights" in sentence(text)
