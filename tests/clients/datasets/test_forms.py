"""Photographs in the forms that people have: a folder a person, parquet with pictures inside, Kaggle's packs."""

import contextlib
import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from command_line import fl_sim
from PIL import Image

from clients.datasets import open_dataset, task_of
from clients.datasets.examine import examine
from clients.datasets.images import UnreadableImage, decode
from clients.datasets.parquet import Pictures, find, read_table
from clients.datasets.people import PeopleDataset
from clients.datasets.synthetic import training_photos
from fl_sim.config import ConfigError, Dataset

PEOPLE, PHOTOS = 12, 6
NAMES = [f"Ada_{index}" for index in range(PEOPLE)]
PUBLIC = NAMES[: PEOPLE // 2]


@cache
def jpegs() -> list[bytes]:
    """A synthetic face each, PHOTOS of a person after those of the other, 60 px."""
    made = training_photos("forms", PEOPLE * PHOTOS, 60, PHOTOS, seed=0).photos
    return [encoded(photo.permute(1, 2, 0).numpy()) for photo in made]


def encoded(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


def rows() -> pd.DataFrame:
    """Who is in each photo, and two facts, in the order of `jpegs`."""
    number = np.arange(PEOPLE * PHOTOS)
    who = [NAMES[index // PHOTOS] for index in number]
    return pd.DataFrame({"person": who, "Smiling": number % 3 == 0, "Male": number // PHOTOS % 2 == 1})


def open_form(name: str, root: Path, seed: int = 0, **settings: object) -> PeopleDataset:
    given = {"name": name, "root": root, "users": 3, "photos": 4, "image_size": 32, **settings}
    opened = open_dataset(Dataset.model_validate(given), seed)
    assert isinstance(opened, PeopleDataset)
    return opened


def notes(name: str, root: Path, seed: int = 0) -> str:
    return " ".join(examine(Dataset(name=name, root=root, users=3, photos=2, image_size=32), seed).notes)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """A folder a person."""
    for index, picture in enumerate(jpegs()):
        folder = tmp_path / "people" / NAMES[index // PHOTOS]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index:03d}.JPG").write_bytes(picture)
    (tmp_path / "people" / ".DS_Store").write_bytes(b"")
    (tmp_path / "people" / NAMES[0] / "._000.JPG").write_bytes(b"macOS")
    (tmp_path / "people" / NAMES[0] / "notes.txt").write_text("no photo")
    return tmp_path / "people"


def hugging_face(frame: pd.DataFrame, pictures: list[bytes], names: list[str] | None = None) -> pa.Table:
    """A table as `datasets` writes it; `names` are those of the classes of a column `label`."""
    images = [{"bytes": picture, "path": f"{index}.jpg"} for index, picture in enumerate(pictures)]
    features = {"image": {"_type": "Image"}} | ({"label": {"names": names, "_type": "ClassLabel"}} if names else {})
    table = pa.table({"image": images, **{str(key): frame[key].tolist() for key in frame}})
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """The same as CelebA on the hub: `celeb_id`, facts, files of splits that share no person."""
    frame = rows().rename(columns={"person": "celeb_id"})
    half = len(frame) // 2
    (tmp_path / "hub/data").mkdir(parents=True)
    for name, part in (("train-00000-of-00001", slice(0, half)), ("valid-00000-of-00001", slice(half, None))):
        table = hugging_face(frame[part].assign(celeb_id=lambda one: one.celeb_id.str[4:].astype(int)), jpegs()[part])
        pq.write_table(table, tmp_path / f"hub/data/{name}.parquet", row_group_size=5)
    return tmp_path / "hub"


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    """CelebA as `jessicali9530/celeba-dataset`, with the list of people beside it, which is not part of it."""
    images = tmp_path / "kaggle/img_align_celeba/img_align_celeba"
    images.mkdir(parents=True)
    names = [f"{index + 1:06d}.jpg" for index in range(PEOPLE * PHOTOS)]
    for name, picture in zip(names, jpegs(), strict=True):
        (images / name).write_bytes(picture)
    frame, root = rows(), tmp_path / "kaggle"
    facts = frame[["Smiling", "Male"]].astype(int) * 2 - 1
    facts.insert(0, "image_id", names)
    facts.to_csv(root / "list_attr_celeba.csv", index=False)
    partition = [0 if person in PUBLIC else 1 + index % 2 for index, person in enumerate(frame.person)]
    pd.DataFrame({"image_id": names, "partition": partition}).to_csv(root / "list_eval_partition.csv", index=False)
    lines = [f"{name} {person[4:]}\n" for name, person in zip(names, frame.person, strict=True)]
    (root / "identity_CelebA.txt").write_text("".join(lines))
    return root


@pytest.fixture
def lfw(people: Path, tmp_path: Path) -> Path:
    """LFW as `jessicali9530/lfw-dataset`."""
    root = tmp_path / "lfw"
    (root / "lfw-deepfunneled").mkdir(parents=True)
    people.rename(root / "lfw-deepfunneled/lfw-deepfunneled")
    for name, who in (("peopleDevTrain", PUBLIC), ("peopleDevTest", NAMES[len(PUBLIC) :])):
        pd.DataFrame({"name": who, "images": PHOTOS}).to_csv(root / f"{name}.csv", index=False)
    pd.DataFrame({"name": NAMES, "images": PHOTOS}).to_csv(root / "lfw_allnames.csv", index=False)
    return root


def test_subfolders_are_people_of_whom_nothing_else_is_known(people: Path) -> None:
    faces = open_form("folder", people)
    assert (faces.task, faces.num_classes) == ("identity", 3)
    users = [faces.user(index) for index in range(3)]
    for user in users:
        assert user.identity in NAMES
        assert (len(user.private.photos), len(user.held_out.photos)) == (3, 3)
        assert user.private.attributes == {}
    public = {name for name, _ in faces._public}
    assert public.isdisjoint(user.identity for user in users)
    told = notes("folder", people)
    assert "no split is given, so one is made" in told
    assert "dataset.task is 'identity'" in told
    with pytest.raises(ConfigError, match=r"'smile', but of the people in .* who they are; set dataset.task=identity"):
        open_form("folder", people, task="smile")


def test_a_folder_in_a_folder_is_looked_into_and_a_csv_goes_before(people: Path, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    people.rename(outer / "people")
    assert open_form("folder", outer).user(0).identity in NAMES
    (outer / "faces.csv").write_text("path,identity\n")
    with pytest.raises(ConfigError, match=r"faces.csv has 0 people"):
        open_form("folder", outer, task="identity")


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (["a.jpg"], "has no faces.csv and no folder a person with images in it; put the images"),
        (["train/anna/1.jpg", "test/bert/1.jpg"], r"set dataset.root to a folder of people, such as .*test"),
        (["data/train.parquet", "README.md"], "set dataset.name=parquet"),
        (["list_attr_celeba.csv", "img_align_celeba/img_align_celeba/1.jpg"], "set dataset.name=celeba"),
        (["lfw-deepfunneled/lfw-deepfunneled/anna/1.jpg", "people.csv"], "set dataset.name=lfw"),
        ([], "put the images"),
    ],
)
def test_a_folder_without_people_says_what_to_do(tmp_path: Path, files: list[str], sentence: str) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"")
    with pytest.raises(ConfigError, match=sentence):
        open_form("folder", tmp_path)


def test_parquet_of_the_hub_people_facts_and_the_split_of_its_files(parquet: Path) -> None:
    faces = open_form("parquet", parquet, photos=30)
    assert (faces.task, faces.num_classes, faces.num_public) == ("smiling", 2, len(PUBLIC))
    for index in range(3):
        user = faces.user(index)
        who = int(user.identity)
        assert who >= len(PUBLIC)
        assert user.private.attributes == {"smiling": 0, "male": who % 2}
        assert int(user.private.labels.sum() + user.held_out.labels.sum()) == 2  # every third of six
    assert "the files say who may be users" in notes("parquet", parquet)


def test_parquet_shows_the_photos_that_a_folder_shows(people: Path, tmp_path: Path) -> None:
    where = tmp_path / "one"
    where.mkdir()
    frame = rows()[["person"]].assign(picture=jpegs())  # as pandas writes it, with the pictures as bytes
    frame.to_parquet(where / "faces.parquet")
    theirs, ours = open_form("folder", people), open_form("parquet", where)
    assert [theirs.user(i).identity for i in range(3)] == [ours.user(i).identity for i in range(3)]
    for index in range(3):
        assert torch.equal(theirs.user(index).private.photos, ours.user(index).private.photos)
        assert torch.equal(theirs.user(index).held_out.photos, ours.user(index).held_out.photos)
    assert torch.equal(theirs.public(0).photos, ours.public(0).photos)


def test_only_the_row_groups_that_are_asked_for_are_read(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    whole = pq.ParquetFile.read_row_group

    def watch(self: pq.ParquetFile, group: int, columns: list[str]) -> pa.Table:
        assert columns == ["image"]
        read.append(group)
        return whole(self, group, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", watch)
    faces = open_form("parquet", parquet)
    assert read == []
    faces.user(0)
    assert 0 < len(read) <= 1 + PHOTOS // 5 + 1  # six photos in a row lie in at most three groups of five


def test_a_class_label_is_called_as_the_file_says(tmp_path: Path) -> None:
    frame = pd.DataFrame({"label": [index // PHOTOS for index in range(PEOPLE * PHOTOS)]})
    pq.write_table(hugging_face(frame, jpegs(), NAMES), tmp_path / "train-00000-of-00001.parquet")
    assert open_form("parquet", tmp_path).user(0).identity in NAMES
    assert "no split is given, so one is made" in notes("parquet", tmp_path)  # one file divides nobody


def test_a_split_column_goes_before_the_names_of_files_and_people_on_both_sides_are_split_anew(tmp_path: Path) -> None:
    frame = rows().assign(split=["a" if person in PUBLIC else "b" for person in rows().person])
    table = hugging_face(frame, jpegs())
    pq.write_table(table, tmp_path / "train.parquet")
    faces = open_form("parquet", tmp_path, users_split="b", public_split="a")
    assert [name for name, _ in faces._public] == PUBLIC
    with pytest.raises(ConfigError, match=r"users_split = 'users', but column split of .* has only 'a', 'b'"):
        open_form("parquet", tmp_path)
    (tmp_path / "train.parquet").unlink()
    for name, part in (("train", slice(0, None, 2)), ("test", slice(1, None, 2))):
        pq.write_table(hugging_face(rows()[part], jpegs()[part]), tmp_path / f"{name}.parquet")
    assert "no split is given, so one is made" in notes("parquet", tmp_path)


def test_blank_and_other_facts_in_parquet(tmp_path: Path) -> None:
    frame = rows().assign(age=30.5, city="Rome", bald=[None, *[1.0] * (PEOPLE * PHOTOS - 1)], Hat="yes")
    frame["Wavy"] = ["true" if male else "false" for male in frame.Male]
    pq.write_table(hugging_face(frame, jpegs()), tmp_path / "faces.parquet")
    faces = open_form("parquet", tmp_path)
    assert set(faces.user(0).private.attributes) == {"smiling", "male", "bald", "wavy"}
    assert "blank labels, which count for no class: bald 1" in notes("parquet", tmp_path)


def test_pictures_that_are_none_are_left_out_and_named(parquet: Path) -> None:
    file = parquet / "data/train-00000-of-00001.parquet"
    rows = pq.read_table(file).to_pylist()
    rows[0]["image"]["bytes"], rows[1]["image"]["bytes"] = b"no image", None
    pq.write_table(pa.Table.from_pylist(rows), file)
    faces = open_form("parquet", parquet)
    with pytest.warns(UserWarning, match=r"parquet:0 is left out"):
        shown = faces.public(0).photos
    assert len(shown) == PHOTOS - 2
    left_out = {path.rpartition(":")[2]: reason for path, reason in faces.skipped.items()}
    assert left_out == {"0": "not an image", "1": "the column 'image' holds only the path 1.jpg, which is no file"}


def test_pictures_that_are_given_by_path_are_read(people: Path, tmp_path: Path) -> None:
    """`Dataset.to_parquet` of pictures that are files writes no bytes (datasets 5.2.0)."""
    files = sorted(people.rglob("[0-9]*.JPG"))
    images = [{"bytes": None, "path": str(file)} for file in files]
    where = tmp_path / "paths"
    where.mkdir()
    pq.write_table(pa.table({"image": images, "name": [file.parent.name for file in files]}), where / "0.parquet")
    user = open_form("parquet", where).user(0)
    assert (len(user.private.photos), user.identity in NAMES) == (3, True)


Frame = Callable[[], pa.Table]
BAD: dict[str, tuple[Frame | bytes, str]] = {
    "no pictures": (lambda: pa.table({"celeb_id": [1]}), r"no column of pictures, .* \(it has celeb_id\)"),
    "two": (lambda: pa.table({"a": [b""], "b": [b""], "name": ["x"]}), r"several columns of pictures \(a, b\)"),
    "nobody": (lambda: pa.table({"image": [b""], "age": [1]}), r"no column that says who .* celeb_id or identity"),
    "a blank": (lambda: pa.table({"image": [b""], "name": [""]}), r"bad.parquet:0 has no name"),
    "a null": (lambda: pa.table({"image": [b"", b""], "celeb_id": [3, None]}), r"bad.parquet:1 has no celeb_id"),
    "no rows": (lambda: pa.table({"image": pa.array([], pa.binary()), "name": pa.array([], pa.string())}), "0 people"),
    "no parquet": (b"PAR1 but no more", "bad.parquet is not a parquet file that can be read"),
    "empty": (b"", "bad.parquet is not a parquet file that can be read"),
}


@pytest.mark.parametrize("kind", BAD)
def test_parquet_of_another_form_is_a_sentence_at_the_command_line(tmp_path: Path, kind: str) -> None:
    made, sentence = BAD[kind]
    if isinstance(made, bytes):
        (tmp_path / "bad.parquet").write_bytes(made)
    else:
        pq.write_table(made(), tmp_path / "bad.parquet")
    with pytest.raises(ConfigError, match=sentence):
        open_form("parquet", tmp_path)
    overrides = ("-o", "dataset.name=parquet", "-o", f"dataset.root={tmp_path}", "-o", "dataset.image_size=32")
    code, told = fl_sim("faces", "--out", tmp_path / "sheet.png", *overrides)
    assert code == 2
    assert "Traceback" not in told


@pytest.mark.parametrize("seed", range(4))
def test_damage_anywhere_in_a_parquet_file_gives_photos_or_reasons(parquet: Path, tmp_path: Path, seed: int) -> None:
    whole = (parquet / "data/train-00000-of-00001.parquet").read_bytes()
    draws = np.random.default_rng(seed)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for number in range(25):
        data = bytearray(whole)
        within = 4000 if number % 2 else len(data)  # the end says what is where
        for at in draws.integers(0, within, 1 + number % 5):
            data[len(data) - 1 - int(at)] = int(draws.integers(256))
        (damaged / "0.parquet").write_bytes(data)
        with contextlib.suppress(ConfigError):
            pictures = Pictures(find(damaged))
            for path in read_table(pictures, "users", "public", "damaged")[0]["path"]:
                with contextlib.suppress(UnreadableImage):
                    decode(pictures(path))


def test_a_row_group_that_would_fill_the_memory_is_refused(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.datasets.parquet._LARGEST", 1000)
    with pytest.raises(ConfigError, match=r"has a row group of 0.0 GB, .* \(pandas: to_parquet\(..., row_group"):
        open_form("parquet", parquet)


def test_where_there_is_no_parquet_or_that_of_several_data_sets(tmp_path: Path) -> None:
    (tmp_path / "data.arrow").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"holds no parquet file; it holds arrow files of save_to_disk"):
        open_form("parquet", tmp_path)
    for name, columns in (("a/train", ["image", "name"]), ("a/test", ["image", "who"]), ("b/0", ["image"])):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({column: [b"x"] for column in columns}), tmp_path / f"{name}.parquet")
    with pytest.raises(ConfigError, match=r"lie in 2 folders, .* such as .*/a"):
        open_form("parquet", tmp_path)
    with pytest.raises(ConfigError, match=r"train.parquet has other columns than .*test.parquet"):
        open_form("parquet", tmp_path / "a")


def test_celeba_as_kaggle_packs_it(kaggle: Path) -> None:
    faces = open_form("celeba", kaggle, photos=30)
    assert (faces.task, faces.num_public) == ("smiling", len(PUBLIC))
    user = faces.user(0)
    assert user.private.attributes == {"smiling": 0, "male": int(user.identity) % 2}
    (kaggle / "list_eval_partition.csv").write_text("image_id,partition\n000001.jpg\n")
    with pytest.raises(ConfigError, match=r"not those of CelebA .*has 1 words in the line of 000001.jpg, not 2"):
        open_form("celeba", kaggle, photos=3)
    (kaggle / "identity_CelebA.txt").unlink()
    with pytest.raises(ConfigError, match=r"identity_CelebA.txt, which says who .* Kaggle's pack leaves out; take it"):
        open_form("celeba", kaggle)


def test_lfw_as_kaggle_packs_it_and_without_its_lists(lfw: Path) -> None:
    faces = open_form("lfw", lfw)
    assert (faces.task, [name for name, _ in faces._public]) == ("identity", PUBLIC)
    assert "no split" not in notes("lfw", lfw)
    (lfw / "peopleDevTest.csv").write_text("name,images\nAda,many\n")
    with pytest.raises(ConfigError, match=r"not those of LFW .*'Ada,many', not a name and a number of images"):
        open_form("lfw", lfw, photos=3)
    for name in ("peopleDevTest", "peopleDevTrain"):
        (lfw / f"{name}.csv").unlink()
    assert "no split is given, so one is made" in notes("lfw", lfw, seed=1)


def test_the_task_that_is_left_to_the_dataset(people: Path, parquet: Path) -> None:
    assert task_of(Dataset(), 0) == "smile"
    assert task_of(Dataset(name="folder", root=people, users=3), 0) == "identity"
    assert task_of(Dataset(name="parquet", root=parquet, users=3), 0) == "smiling"
    assert task_of(Dataset(task="glasses"), 0) == "glasses"
