"""CelebA and LFW, on trees of the form that the originals have on disk."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clients.datasets import open_dataset
from clients.datasets.align import face_crop
from clients.datasets.celeba import open_celeba, read_table
from clients.datasets.images import UnreadableImage
from clients.datasets.lfw import open_lfw
from fl_sim.config import ConfigError, Dataset

PARTITIONS = (0, 0, 1, 2, 2)  # of the five people of the CelebA tree
PHOTOS = 9  # of each


def config(name: str, root: Path, **settings: object) -> Dataset:
    return Dataset.model_validate({"name": name, "root": root, "users": 3, "image_size": 32, **settings})


@pytest.fixture
def celeba(tmp_path: Path) -> Path:
    folder = tmp_path / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{index + 1:06d}.jpg" for index in range(5 * PHOTOS)]
    lines: dict[str, list[str]] = {"attr": [], "identity": [], "partition": []}
    for index, name in enumerate(names):
        person = index % 5  # the people of CelebA are not in order either
        picture = np.zeros((218, 178, 3), dtype=np.uint8)
        picture[35:183, 15:163] = 40 * person + 40  # the central 148 pixels
        picture[:8, :8] = 5 * (index // 5)  # no two photos are the same
        Image.fromarray(picture).save(folder / "img_align_celeba" / name, quality=95)
        lines["attr"].append(f"{name} {'1' if index % 4 == 0 else '-1':>2} {'1' if person % 2 else '-1':>2}")
        lines["identity"].append(f"{name} {2880 + person}")
        lines["partition"].append(f"{name} {PARTITIONS[person]}")
    count = str(len(names))
    write(folder / "list_attr_celeba.txt", [count, "Smiling Male ", *lines["attr"]])
    write(folder / "identity_CelebA.txt", lines["identity"])
    write(folder / "list_eval_partition.txt", lines["partition"])
    return tmp_path


@pytest.fixture
def lfw(tmp_path: Path) -> Path:
    people = {"Aaron_Peirsol": 4, "Zico": 5, "Abba_Eban": 6, "Ana_Paula_Gerard": 1, "Jay_Leno": 2}
    folder = tmp_path / "lfw-py"
    for number, (name, count) in enumerate(people.items()):
        images = folder / "lfw-deepfunneled" / name
        images.mkdir(parents=True)
        for index in range(1, count + 1):
            Image.new("RGB", (250, 250), (40 * number, 30 * index, 0)).save(
                images / f"{name}_{index:04d}.jpg", quality=95
            )
    test, train = list(people)[:3], list(people)[3:]
    write(folder / "peopleDevTest.txt", ["3", *(f"{name}\t{people[name]}" for name in test)])
    write(folder / "peopleDevTrain.txt", ["2", *(f"{name}\t{people[name]}" for name in train)])
    write(folder / "lfw-names.txt", [f"{name}\t{count}" for name, count in people.items()])
    return tmp_path


def write(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n")


def test_celeba_people_partitions_attributes_and_crop(celeba: Path) -> None:
    faces = open_dataset(config("celeba", celeba), 0)
    assert (faces.num_users, faces.num_public, faces.num_classes) == (3, 2, 2)
    assert {faces.user(index).identity for index in range(3)} == {"2882", "2883", "2884"}
    for index in range(3):
        user = faces.user(index)
        person = int(user.identity) - 2880
        photos = torch.cat([user.private.photos, user.held_out.photos])
        assert (len(user.private.photos), len(user.held_out.photos)) == (PHOTOS - 4, 4)
        assert (photos * 255 - (40 * person + 40)).abs().max() < 12  # the crop keeps the grey square alone; JPEG
        smiling = [number % 4 == 0 for number in range(5 * PHOTOS) if number % 5 == person]
        assert int(user.private.labels.sum() + user.held_out.labels.sum()) == sum(smiling)
        assert user.private.attributes == {"smiling": 0, "male": person % 2}
    assert len(faces.public(0).photos) == PHOTOS


def test_celeba_says_what_is_missing_or_malformed(celeba: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'male'"):
        open_celeba(config("celeba", celeba, task="males"), 0)
    write(celeba / "celeba/list_attr_celeba.txt", ["1", "Smiling", "000001.jpg many"])
    with pytest.raises(ConfigError, match="not those of CelebA"):
        open_celeba(config("celeba", celeba), 0)
    (celeba / "celeba/identity_CelebA.txt").unlink()
    with pytest.raises(ConfigError, match=r"lacks identity_CelebA.txt, which says who .* take it from"):
        open_celeba(config("celeba", celeba), 0)
    (celeba / "celeba/list_attr_celeba.txt").unlink()
    with pytest.raises(ConfigError, match=r"lacks identity_CelebA, list_attr_celeba; put CelebA's"):
        open_celeba(config("celeba", celeba), 0)


@pytest.mark.parametrize("name", ["identity_CelebA.txt", "list_attr_celeba.txt", "list_eval_partition.txt"])
def test_celebas_lists_are_joined_by_file_name_in_whatever_order_they_are(celeba: Path, name: str) -> None:
    before = read_table(celeba / "celeba").set_index("path")
    lines = (celeba / "celeba" / name).read_text().splitlines()
    head = 2 if name == "list_attr_celeba.txt" else 0
    write(celeba / "celeba" / name, [*lines[:head], *lines[head:][::-1]])
    assert read_table(celeba / "celeba").set_index("path").loc[before.index].equals(before)


@pytest.mark.parametrize("name", ["identity_CelebA.txt", "list_attr_celeba.txt"])
def test_a_line_that_one_of_celebas_lists_lacks_or_has_twice_is_named(celeba: Path, name: str) -> None:
    lines = (celeba / "celeba" / name).read_text().splitlines()
    write(celeba / "celeba" / name, lines[:-1])
    with pytest.raises(ConfigError, match=rf"{name} has no line for 000045.jpg"):
        open_celeba(config("celeba", celeba), 0)
    write(celeba / "celeba" / name, [*lines, lines[-1]])
    with pytest.raises(ConfigError, match=rf"{name} has two lines for 000045.jpg"):
        open_celeba(config("celeba", celeba), 0)


def test_lfw_people_and_lists(lfw: Path) -> None:
    faces = open_dataset(config("lfw", lfw, task="identity"), 0)
    assert (faces.num_users, faces.num_public, faces.num_classes) == (3, 2, 3)
    assert {faces.user(index).identity for index in range(3)} == {"Aaron_Peirsol", "Zico", "Abba_Eban"}
    assert [len(faces.public(index).photos) for index in range(2)] == [1, 2]
    assert faces.user(0).private.attributes == {}


def test_lfw_says_what_is_missing_or_malformed(lfw: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing is known but who they are; set dataset.task=identity"):
        open_lfw(config("lfw", lfw, task="smile"), 0)
    (lfw / "lfw-py/peopleDevTest.txt").write_text("3\nAaron_Peirsol\n")
    with pytest.raises(ConfigError, match="not those of LFW"):
        open_lfw(config("lfw", lfw, task="identity"), 0)
    (lfw / "lfw-py/peopleDevTest.txt").unlink()
    with pytest.raises(ConfigError, match=r"lacks peopleDevTest.txt \(or .csv\); put it there, or take both"):
        open_lfw(config("lfw", lfw, task="identity"), 0)
    (lfw / "lfw-py/lfw-deepfunneled").rename(lfw / "lfw-py/elsewhere")
    with pytest.raises(ConfigError, match=r"lacks lfw-deepfunneled or lfw_funneled or lfw; put LFW's"):
        open_lfw(config("lfw", lfw), 0)


def test_alignment_leaves_out_photos_without_a_face(celeba: Path) -> None:
    faces = open_celeba(config("celeba", celeba, align=True), 0)
    with pytest.warns(UserWarning, match="MTCNN finds no face"), pytest.raises(ConfigError, match="only 0 photos"):
        faces.user(0)
    assert len(faces.skipped) == PHOTOS


def test_alignment_finds_a_real_face_wherever_it_is() -> None:
    root = Path(os.environ.get("FACES_DIR", Path(__file__).parents[4] / "shared/faces"))
    photos = sorted(root.glob("images/*/*.jpg"))[::400]
    if not photos:
        pytest.skip("no real faces: set FACES_DIR")
    crop = face_crop()
    for number, path in enumerate(photos):
        left, top = 20 + 25 * (number % 8), 200 - 25 * (number % 8)
        scene = Image.new("RGB", (400, 400), "gray")
        with Image.open(path) as face:
            scene.paste(face, (left, top))
        try:
            cut = crop(scene)
        except UnreadableImage:
            pytest.fail(f"no face found in {path.name}")
        assert cut.width == cut.height
        assert 80 <= cut.width <= 190
        gray = (np.asarray(cut) == 128).all(axis=2).mean()  # what is not of the pasted photo
        assert gray < 0.45
