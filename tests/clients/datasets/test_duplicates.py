"""A photo is one person's, and never both private and held out: by its path, and by its pixels."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_faces import PhotographedFaces
from torch import Tensor

from clients.datasets.examine import examine
from clients.datasets.folder import open_folder
from clients.user import Faces, User
from fl_sim.config import ConfigError, Dataset

Write = Callable[..., Path]
Names = Callable[[Tensor], list[tuple[int, int]]]
SPLITS = {"anna": "users", "bert": "users", "carl": "public"}


def settings(root: Path, **others: object) -> Dataset:
    given = {"name": "folder", "root": root, "users": 2, "photos": 4, "image_size": 32, **others}
    return Dataset.model_validate(given)


def add(root: Path, *lines: str) -> None:
    with (root / "faces.csv").open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


@pytest.fixture
def people(folder: Write) -> Path:
    return folder({"anna": 8, "bert": 8, "carl": 3}, SPLITS)


def test_photos_that_are_all_different_leave_nothing_to_tell(people: Path) -> None:
    found = examine(settings(people), 0)
    assert not found.synthetic
    assert found.photos == (4, 4)
    assert found.notes == ()


def _shows_each_photo_once(people: Path, names_of: Names) -> None:
    """Anna's eight, private and held out, however they are drawn."""
    for seed in range(10):
        user = next(
            user for index in range(2) if (user := open_folder(settings(people), seed).user(index)).identity == "anna"
        )
        shown = names_of(torch.cat([user.private.photos, user.held_out.photos]))
        assert len(set(shown)) == len(shown) == 8


def test_a_photo_listed_twice_is_used_once_and_counted(people: Path, names_of: Names) -> None:
    add(people, *(f"anna/../anna/{index}.png,anna,users,1,1,3" for index in range(8)))
    _shows_each_photo_once(people, names_of)
    (note,) = examine(settings(people), 0).notes
    assert note.startswith("left out, copies of other photos of that person: 8 (")


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_a_photo_stored_twice_is_used_once_whatever_the_format(people: Path, names_of: Names, suffix: str) -> None:
    for index in range(8):
        Image.open(people / f"anna/{index}.png").save(people / f"anna/copy-{index}.{suffix}")
        add(people, f"anna/copy-{index}.{suffix},anna,users,1,1,3")
    _shows_each_photo_once(people, names_of)
    (note,) = examine(settings(people), 0).notes
    assert "copies of other photos of that person" in note


@pytest.mark.parametrize(("other", "split"), [("bert", "users"), ("carl", "public")])
def test_a_photo_listed_under_two_people_is_refused_with_both(people: Path, other: str, split: str) -> None:
    add(people, f"anna/../anna/2.png,{other},{split},1,1,3")
    with pytest.raises(ConfigError, match=rf"anna/2.png as a photo of 'anna' and of '{other}'"):
        open_folder(settings(people), 0)


@pytest.mark.parametrize("other", ["bert", "carl"])
def test_a_photo_stored_under_two_people_is_refused_with_both(people: Path, other: str) -> None:
    Image.open(people / "anna/2.png").save(people / f"{other}/0.png", compress_level=1)
    with pytest.raises(ConfigError, match=r"one and the same photo") as error:
        examine(settings(people), 0)
    assert all(word in str(error.value) for word in ("anna/2.png", f"{other}/0.png", "'anna'", repr(other)))


def test_people_who_are_neither_users_nor_public_may_share_photos(people: Path) -> None:
    add(people, "anna/2.png,dora,nobody,1,1,3", "anna/2.png,emil,nobody,1,1,3")
    assert examine(settings(people), 0).notes == ()


def test_a_person_with_copies_alone_has_too_few_photos(people: Path) -> None:
    for index in range(1, 8):
        shutil.copy(people / "anna/0.png", people / f"anna/{index}.png")
    with pytest.raises(
        ConfigError, match=r"only 1 photos of user 'anna' can be used, 4 different ones .*a copy of another"
    ):
        examine(settings(people), 0)


def test_the_photos_that_users_really_have_are_told(people: Path) -> None:
    found = examine(settings(people, photos=30), 0)
    assert found.photos == (4, 4)
    assert found.notes == (
        "users train on 4 photos each, not on dataset.photos = 30: no more are left beside those held out",
    )


def test_what_was_not_compared_is_told(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.datasets.people.COMPARED", 0)
    (note,) = examine(settings(people, task="male"), 0).notes
    assert "was checked for the first 0 of 1 public people" in note


@dataclass(frozen=True)
class OwnFaces(PhotographedFaces):
    """Photographs of a factory of one's own, with one fault or none."""

    fault: str = ""

    def user(self, partition: int) -> User:
        if self.fault == "raises":
            raise OSError("no such disk")
        user = super().user(partition)
        if self.fault == "held out":
            return User(partition, user.identity, user.private, user.private)
        if self.fault == "two users":
            return User(partition, user.identity, super().user(0).private, user.held_out)
        return user

    def public(self, index: int) -> Faces:
        return self.user(0).private if self.fault == "public" else super().public(index)


def own(dataset: Dataset, seed: int) -> OwnFaces:
    return OwnFaces(dataset.users, dataset.photos, seed, dataset.image_size, fault=dataset.csv.removesuffix(".csv"))


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("held out", "user 0 .* is both private and held out"),
        ("two users", r"private photo 0 of 'user 0 .*' and private photo 0 of 'user 1 .*' are one and the same"),
        ("public", r"private photo 0 of 'user 0 .*' and photo 0 of 'public person 0'"),
        ("raises", "cannot be read .*no such disk"),
    ],
)
def test_ones_own_dataset_is_held_to_the_same(fault: str, sentence: str) -> None:
    dataset = Dataset(name=f"{__name__}:own", users=3, photos=2, image_size=32)
    assert examine(dataset, 0).photos == (2, 4)
    with pytest.raises(ConfigError, match=sentence):
        examine(dataset.model_copy(update={"csv": f"{fault}.csv"}), 0)
