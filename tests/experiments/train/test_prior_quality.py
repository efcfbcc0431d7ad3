import json
import sys

import pytest
import torch

from clients.datasets import open_dataset
from clients.datasets.synthetic import SyntheticFaces
from experiments.evaluate.embedders import synthetic
from experiments.train import prior_quality
from fl_sim.config import Config
from fl_sim.seeds import generator


def cloud(seed, shift=0.0, n=200):
    return torch.randn(n, 4, generator=generator(seed)) + shift


def test_equal_clouds_are_at_distance_zero_and_shifted_ones_at_their_shift():
    assert prior_quality.frechet(cloud(0), cloud(0)) == pytest.approx(0, abs=1e-6)
    assert prior_quality.frechet(cloud(0), cloud(0) + 2) == pytest.approx(4 * 2**2, rel=1e-6)


def test_precision_is_high_for_the_same_kind_and_zero_far_away():
    assert prior_quality.precision(cloud(0), cloud(0)) == 1
    assert prior_quality.precision(cloud(1), cloud(0)) > 0.7
    assert prior_quality.precision(cloud(1, shift=30), cloud(0)) == 0


@pytest.mark.slow
def test_blurred_faces_are_told_from_photos_and_photos_are_not():
    dataset = open_dataset(Config().dataset, 0)
    photos, others = prior_quality.people(dataset, 96)
    found = prior_quality.compare(prior_quality.people(dataset, 192)[0][96:], photos, others, synthetic())
    assert found["samples"]["recall"] > found["blurred"]["recall"] + 0.3
    assert found["samples"]["frechet"] < 0.5 * found["blurred"]["frechet"]
    assert found["samples"]["face_probability"] > 0.95
    assert found["samples"]["sharpness_fine"] == pytest.approx(1, abs=0.1)
    assert found["blurred"]["sharpness_fine"] < 0.2
    assert found["samples"]["patch_swd_full"] < 0.2 * found["blurred"]["patch_swd_full"]


def test_photos_and_others_are_of_different_people_one_photo_each():
    photos, others = prior_quality.people(SyntheticFaces(2, 2, 32, "smile", 0), 5)
    assert photos.shape == others.shape == (5, 3, 32, 32)
    every = torch.cat([photos, others]).flatten(1)
    assert float((torch.cdist(every, every) + 100 * torch.eye(10)).min()) > 0.1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--samples", "3"], "3 samples would be compared"),
        (["--prior", "./nowhere"], "neither a folder nor a hub name"),
        (["-o", "dataset.name=tiny_faces:open_photographed"], "shows photographs"),
        (["-o", "dataset.user=3"], "did you mean 'dataset.users'?"),
    ],
)
def test_mistakes_are_told_in_a_sentence(options, told, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["prior_quality", *options])
    with pytest.raises(SystemExit) as end:
        prior_quality.main()
    assert end.value.code == 2
    assert told in capsys.readouterr().err


def test_the_figures_are_stored_as_they_are_printed(monkeypatch, tmp_path, capsys):
    out = tmp_path / "quality.json"
    monkeypatch.setattr(prior_quality, "compare", lambda samples, photos, others, embed: {"samples": {"recall": 0.5}})
    monkeypatch.setattr(sys, "argv", ["prior_quality", "--samples", "4", "--steps", "1", "--out", str(out)])
    prior_quality.main()
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text())
    assert json.loads(out.read_text())["figures"] == {"samples": {"recall": 0.5}}
