"""A judge that is blind, or read the wrong way, is found out on public people before the run."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clients.user import Faces
from experiments.evaluate import attributes, embedders, recognition
from fl_sim.config import ConfigError, Leakage
from fl_sim.seeds import generator

GRID = 4


def person(index: int, photos: int = 3) -> Faces:
    """A pattern of a person's own, strongest in red, under noise."""
    own = (
        torch.rand(3, GRID, GRID, generator=generator(1, "person", index))
        * torch.tensor([1.0, 0.5, 0.1])[:, None, None]
    )
    noise = torch.rand(photos, 3, GRID, GRID, generator=generator(2, "photos", index))
    return Faces(F.interpolate(0.6 * own + 0.4 * noise, size=(32, 32)), torch.zeros(photos), {"tall": index % 2})


PUBLIC = [person(index) for index in range(40)]
PHOTO = PUBLIC[0].photos[0]
SETTINGS = Leakage(embedder="facenet")


def embed(photos: Tensor, red: float = 1.0, green: float = 1.0, blue: float = 0.1) -> Tensor:
    cells = (F.adaptive_avg_pool2d(photos, GRID) - 0.3) * torch.tensor([red, green, blue]).view(3, 1, 1)
    return F.normalize(cells.flatten(1), dim=1)


def narrow(photos: Tensor) -> Tensor:
    """As `embed`, with all people on one side of the sphere, as dlib's are."""
    seen = embed(photos)
    return F.normalize(torch.cat([seen, torch.full((len(seen), 1), 2.0)], dim=1), dim=1)


def blind(photos: Tensor) -> Tensor:
    """Another vector for each photo, that has nothing to do with the person."""
    rows = [torch.randn(16, generator=generator(int(1e6 * float(photo.sum())), "blind")) for photo in photos]
    return F.normalize(torch.stack(rows), dim=1)


class Counted:
    """A dataset of public people of whom some have one photo."""

    num_public = 60

    def public(self, index: int) -> Faces:
        return person(index, photos=1 + index % 2)


def test_auc_is_the_chance_that_the_same_person_is_more_alike() -> None:
    same, different = torch.tensor([0.9, 0.5, 0.2]), torch.tensor([0.5, 0.1, 0.3])
    wins = [(s > d) + (s == d) / 2 for s in same.tolist() for d in different.tolist()]
    assert recognition.Likeness(same, different).auc == pytest.approx(sum(wins) / len(wins))


def test_only_people_with_two_photos_are_compared() -> None:
    found = recognition.people(Counted())  # type: ignore[arg-type]
    assert [len(faces.photos) for faces in found] == [2] * 30


def test_an_embedder_that_sees_says_nothing() -> None:
    assert recognition.likeness(embed, PUBLIC).auc > 0.95
    assert recognition.check_recognition(embed, PUBLIC, SETTINGS) == []


def test_a_blind_embedder_is_refused_with_its_figures() -> None:
    with pytest.raises(ConfigError, match=r"facenet.*mean cosine .* against .*AUC 0\.[45].*colour order and the range"):
        recognition.check_recognition(blind, PUBLIC, SETTINGS)


def test_the_embedder_of_rendered_faces_is_told_what_it_is() -> None:
    with pytest.raises(ConfigError, match="rendered faces alone"):
        recognition.check_recognition(blind, PUBLIC, Leakage())
    (note,) = recognition.check_recognition(blind, PUBLIC, Leakage(embedder="synthetic"))  # asked for by name
    assert "rendered faces alone" in note


def test_too_few_people_to_tell_is_said() -> None:
    (note,) = recognition.check_recognition(blind, PUBLIC[:9], SETTINGS)
    assert "not known: 9 public people" in note


def test_swapped_colours_are_found_though_people_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The right order is better on the same people; the wrong one is named, the right one is not."""

    def opened(settings: Leakage) -> embedders.Embedder:
        return embed if settings.embedder_channels == "rgb" else lambda photos: embed(photos.flip(1))

    monkeypatch.setattr(embedders, "open_embedder", opened)
    right, wrong = (Leakage(embedder="onnx", embedder_channels=order) for order in ("rgb", "bgr"))  # type: ignore[arg-type]
    assert recognition.check_recognition(opened(right), PUBLIC, right) == []
    swapped = recognition.likeness(opened(wrong), PUBLIC)
    assert swapped.gain(recognition.likeness(embed, PUBLIC)) > recognition.SURELY
    try:
        said = recognition.check_recognition(opened(wrong), PUBLIC, wrong)[0]
    except ConfigError as error:
        said = str(error)
    assert "leakage.embedder_channels = 'rgb' does better" in said


def test_settings_that_change_nothing_are_not_better() -> None:
    found = recognition.likeness(embed, PUBLIC)
    assert found.gain(found) == 0


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda photos: torch.full((len(photos), 8), math.nan), "not finite"),
        (lambda photos: 2 * embed(photos), "norm 1"),
        (lambda photos: F.normalize(torch.ones(len(photos), 8), dim=1), "one embedding for two pictures"),
        (lambda photos: F.normalize(embed(photos) - embed(photos).mean(0) + 1e-3, dim=1), "alone"),
        (lambda photos: embed(photos).flatten(), "a row of numbers a photo"),
        (lambda photos: embed(photos)[:1], "a row of numbers a photo"),
        (lambda photos: photos.reshape(5), "fails on photos"),
    ],
)
def test_an_embedder_that_is_none_is_refused_by_name(broken: embedders.Embedder, words: str) -> None:
    recognition.check_embedder(embed, PHOTO, "mine")
    with pytest.raises(ConfigError, match=f"mine .*{words}"):
        recognition.check_embedder(broken, PHOTO, "mine")


def tall(photos: Tensor) -> dict[str, Tensor]:
    """Right for everybody, since it knows them."""
    of = {round(float(photo.sum()), 3): one.attributes["tall"] for one in PUBLIC for photo in one.photos}
    return {"tall": torch.tensor([of.get(round(float(photo.sum()), 3), 0) for photo in photos])}


def test_a_classifier_no_better_than_chance_is_told() -> None:
    check = recognition.check_classifier
    assert check(tall, PHOTO, PUBLIC, "mine") == []
    (note,) = check(lambda photos: {"tall": torch.ones(len(photos)).long()}, PHOTO, PUBLIC, "mine")
    assert "mine reads tall off 80 public photos no better than chance (right for 50%" in note
    assert check(lambda photos: {"short": torch.ones(len(photos)).long()}, PHOTO, PUBLIC, "mine") == []  # no truth


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda photos: {"tall": torch.ones(1).long()}, "tall = "),
        (lambda photos: {"tall": torch.ones(len(photos))}, "tall = "),
        (lambda photos: {"tall": torch.arange(len(photos)) + len(photos)}, "for the first alone"),
        (lambda photos: {"tall": photos.reshape(5)}, "fails on photos"),
    ],
)
def test_a_classifier_that_is_none_is_refused_by_name(broken: attributes.Classifier, words: str) -> None:
    with pytest.raises(ConfigError, match=f"mine .*{words}"):
        recognition.check_classifier(broken, PHOTO, PUBLIC, "mine")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["embedder_a.onnx", "embedder_b.onnx"])
@pytest.mark.parametrize("size", [32, 64])
def test_on_real_faces_the_right_settings_pass_and_wrong_ones_are_named(
    real_faces: Path, model: str, size: int
) -> None:
    from clients.datasets import open_dataset
    from fl_sim.config import Dataset

    public = recognition.people(open_dataset(Dataset(name="folder", root=real_faces, image_size=size), 0))  # type: ignore[arg-type]

    def check(**settings: str) -> list[str]:
        leakage = Leakage(embedder="onnx", embedder_path=real_faces / model, **settings)  # type: ignore[arg-type]
        return recognition.check_recognition(embedders.open_embedder(leakage), public, leakage)

    assert check() == []
    assert "leakage.embedder_channels = 'rgb' does better" in check(embedder_channels="bgr")[0]
    with pytest.raises(ConfigError, match=r"leakage\.embedder_range = '0\.\.1' does better"):
        check(embedder_range="0..255")
    with pytest.raises(ConfigError, match="rendered faces alone"):
        recognition.check_recognition(embedders.synthetic(), public, Leakage())


def test_that_strangers_are_alike_is_said_where_people_are_told_apart_all_the_same() -> None:
    assert recognition.check_recognition(embed, PUBLIC, SETTINGS) == []
    (note,) = recognition.check_recognition(narrow, PUBLIC, SETTINGS)
    assert "finds strangers alike, too (mean cosine 0." in note
    assert "read facial_similarity beside its controls, or rank1" in note
