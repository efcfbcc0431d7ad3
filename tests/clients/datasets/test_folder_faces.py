import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from photos import read_photo
from PIL import Image
from torch import Tensor

from clients.datasets import open_dataset
from clients.datasets.folder import open_folder
from clients.datasets.images import UnreadableImage
from clients.datasets.people import PeopleDataset
from clients.datasets.table import made_split
from fl_sim.config import ConfigError, Dataset

Write = Callable[..., Path]
Names = Callable[[Tensor], list[tuple[int, int]]]
PEOPLE = {f"person{index:02d}": 4 + index for index in range(12)}
SPLITS = {name: "public" if index % 3 == 0 else "users" for index, name in enumerate(PEOPLE)}


def open_at(root: Path, seed: int = 0, **settings: object) -> PeopleDataset:
    given = {"name": "folder", "root": root, "users": 4, "photos": 6, "image_size": 32, **settings}
    return open_folder(Dataset.model_validate(given), seed)


def test_users_and_public_are_disjoint_people(folder: Write, names_of: Names) -> None:
    faces = open_at(folder(PEOPLE, SPLITS), users=8)
    assert (faces.num_users, faces.num_public, faces.num_classes) == (8, 4, 2)
    users = {who for i in range(8) for who, _ in names_of(faces.user(i).private.photos)}
    public = {who for i in range(4) for who, _ in names_of(faces.public(i).photos)}
    assert users == {index for index in range(12) if index % 3}
    assert public == {0, 3, 6, 9}


@pytest.mark.parametrize("count", range(4, 14))
def test_held_out_photos_are_other_photos(folder: Write, names_of: Names, count: int) -> None:
    user = open_at(folder({"a": count, "b": 3}, {"a": "users", "b": "public"}), users=1).user(0)
    private, held_out = names_of(user.private.photos), names_of(user.held_out.photos)
    assert len(held_out) == min(4, count // 2)
    assert len(private) == min(6, count - len(held_out))
    assert len({*private, *held_out}) == len(private) + len(held_out)
    assert {who for who, _ in private + held_out} == {0}


def test_labels_and_attributes_agree_with_the_csv(folder: Write, names_of: Names) -> None:
    root = folder(PEOPLE, SPLITS)
    faces = open_at(root, users=8, photos=30)
    for index in range(8):
        user = faces.user(index)
        for part in (user.private, user.held_out):
            assert part.labels.dtype == torch.int64
            assert part.labels.tolist() == [int(which % 3 == 0) for _, which in names_of(part.photos)]
        who = names_of(user.private.photos)[0][0]
        assert user.identity == f"person{who:02d}"
        assert user.private.attributes == {"smiling": 0, "male": who % 2}  # `age` is not binary
    assert open_at(root, task="male").user(0).private.labels.unique().tolist() in ([0], [1])


def test_identity_task(folder: Write) -> None:
    faces = open_at(folder(PEOPLE, SPLITS), task="identity")
    assert faces.num_classes == 4
    assert [faces.user(index).held_out.labels.unique().tolist() for index in range(4)] == [[0], [1], [2], [3]]
    assert faces.public(0).labels.unique().tolist() == [-1]


def test_same_seed_same_users_whatever_the_order_of_calls(folder: Write) -> None:
    root = folder(PEOPLE, SPLITS)
    forth, back = open_at(root), open_at(root)
    first = [forth.user(index) for index in range(4)]
    second = [back.user(index) for index in (3, 2, 1, 0)][::-1]
    for one, other in zip(first, second, strict=True):
        assert one.identity == other.identity
        assert torch.equal(one.private.photos, other.private.photos)
        assert torch.equal(one.held_out.photos, other.held_out.photos)
    orders = {tuple(open_at(root, seed).user(index).identity for index in range(4)) for seed in range(5)}
    assert len(orders) > 1


def test_people_with_few_photos_come_last_and_those_with_three_never(folder: Write) -> None:
    people = {"few": 4, "some": 5, "many": 10, "more": 12, "three": 3, "known": 2}
    root = folder(people, {name: "public" if name == "known" else "users" for name in people})
    for seed in range(4):
        faces = open_at(root, seed, users=4, photos=16)
        order = [faces.user(index).identity for index in range(4)]
        assert set(order[:2]) == {"many", "more"}
        assert order[2:] == ["some", "few"]
    with pytest.raises(ConfigError, match=r"users = 5, but .* has 4 people"):
        open_at(root, users=5)


def test_without_a_split_half_of_those_with_enough_photos_are_users_whatever_the_config(folder: Write) -> None:
    root = folder({**PEOPLE, "few": 3, "one": 1})
    sides = [open_at(root, seed, users=1 + seed, photos=4 + seed) for seed in range(3)]
    public = {tuple(name for name, _ in faces._public) for faces in sides}
    assert len(public) == 1  # neither the seed nor the number of users moves anybody
    assert {"few", "one"} < set(public.pop())
    assert all("no split is given, so one is made" in faces.examine()[1][0] for faces in sides)
    many = pd.Series([f"p{index}" for index in range(2000) for _ in range(4)])
    assert 0.45 < (made_split(many)[0] == "public").mean() < 0.55


def test_photos_are_floats_in_the_unit_range_and_shape(folder: Write) -> None:
    photos = open_at(folder(PEOPLE, SPLITS)).user(0).private.photos
    assert photos.dtype == torch.float32
    assert photos.shape[1:] == (3, 32, 32)
    assert float(photos.min()) >= 0
    assert float(photos.max()) <= 1


def test_users_outside_the_range_are_refused(folder: Write) -> None:
    faces = open_at(folder(PEOPLE, SPLITS))
    for ask in (lambda: faces.user(4), lambda: faces.user(-1), lambda: faces.public(4)):
        with pytest.raises(ValueError, match="does not exist"):
            ask()


def test_unreadable_images_are_named_skipped_and_counted_with_one_warning(folder: Write, names_of: Names) -> None:
    root = folder({"a": 12, "b": 3}, {"a": "users", "b": "public"})
    (root / "a/0.png").write_text("no image")
    whole = (root / "a/1.png").read_bytes()
    (root / "a/1.png").write_bytes(whole[: len(whole) // 2])
    (root / "a/2.png").unlink()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        faces = open_at(root, users=1, photos=30)
        user = faces.user(0)
    shown = {which for _, which in names_of(torch.cat([user.private.photos, user.held_out.photos]))}
    assert shown == set(range(3, 12))
    assert set(faces.skipped) == {str(root / f"a/{index}.png") for index in range(3)}
    assert faces.skipped[str(root / "a/2.png")] == "no such file"
    assert len(caught) == 1
    assert "a/" in str(caught[0].message)


def test_too_few_readable_photos_say_so(folder: Write) -> None:
    root = folder({"a": 5, "b": 2}, {"a": "users", "b": "public"})
    for path in [root / "a/0.png", root / "a/1.png", root / "b/0.png", root / "b/1.png"]:
        path.write_text("no image")
    faces = open_at(root, users=1)
    with pytest.warns(UserWarning, match="left out"), pytest.raises(ConfigError, match="only 3 photos of user 'a'"):
        faces.user(0)
    with pytest.raises(ConfigError, match="no photo of public person 'b'"):
        faces.public(0)
    for path in (root / "a").iterdir():
        path.unlink()
    with pytest.warns(UserWarning, match="left out"), pytest.raises(ConfigError, match="missing image files: 5"):
        open_at(root, users=1)


def test_grey_wide_and_sixteen_bit_images(tmp_path: Path) -> None:
    Image.new("L", (90, 60), 51).save(tmp_path / "grey.png")
    Image.fromarray(np.full((60, 90), 51 * 257, dtype=np.uint16)).save(tmp_path / "deep.png")
    Image.new("RGBA", (60, 90), (51, 51, 51, 255)).save(tmp_path / "alpha.png")
    for name in ("grey", "deep", "alpha"):
        photo = read_photo(tmp_path / f"{name}.png")
        assert photo.shape == (3, 32, 32)
        assert photo.unique().tolist() == [51]


def test_shrinking_is_antialiased_and_keeps_the_centre(tmp_path: Path) -> None:
    stripes = np.zeros((256, 512, 3), dtype=np.uint8)
    stripes[:, 128:384:2] = 255  # one pixel wide: nearest-neighbour sampling would give all black or all white
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    photo = read_photo(tmp_path / "stripes.png").float()
    assert (photo[:, :, 2:-2] - 127.5).abs().max() < 3
    with pytest.raises(UnreadableImage, match="no such file"):
        read_photo(tmp_path / "absent.png")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"csv": "other.csv"}, "other.csv does not exist"),
        ({"task": "smyling"}, "did you mean 'smiling'"),
        ({"task": "age"}, "no such binary attribute"),
        ({"users_split": "clients"}, "has only 'public', 'users'"),
        ({"public_split": "users"}, "users cannot be public"),
        ({"users": 9}, "has 8 people for users with at least 4 photos; lower"),
    ],
)
def test_config_mistakes_are_one_sentence(folder: Write, settings: dict[str, object], sentence: str) -> None:
    root = folder(PEOPLE, SPLITS)
    with pytest.raises(ConfigError, match=sentence):
        open_at(root, **settings)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("file,identity\na.png,1\n", "no column 'path'"),
        ("path,person\na.png,1\n", "no column 'identity'"),
        ("path,identity\na.png,1\nb.png,\n", "no identity in line 3"),
        ("", "cannot be read as CSV"),
        ("path,identity,split\na.png,1,users\nb.png,1,public\n", "person '1' both among"),
    ],
)
def test_malformed_tables_are_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "faces.csv").write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        open_at(tmp_path, task="identity")


def test_real_faces() -> None:
    root = Path(os.environ.get("FACES_DIR", Path(__file__).parents[4] / "shared/faces"))
    if not (root / "faces.csv").is_file():
        pytest.skip("no real faces: set FACES_DIR")
    faces = open_dataset(Dataset(name="folder", root=root, users=58), 0)
    assert (faces.num_users, faces.num_public) == (58, 201)
    table = pd.read_csv(root / "faces.csv", dtype={"identity": str}).set_index("identity")
    for user in (faces.user(index) for index in range(0, 58, 6)):
        assert set(table.loc[user.identity, "split"]) == {"users"}
        assert len(user.held_out.photos) == 4
        assert 24 <= len(user.private.photos) <= 26
        smiles = int(user.private.labels.sum() + user.held_out.labels.sum())
        assert smiles == int((table.loc[user.identity, "Smiling"] == 1).sum())
        assert user.private.attributes["male"] == int(table.loc[user.identity, "Male"].mean() > 0)


@pytest.mark.parametrize("words", [("NA", "None"), ("null", "nan"), ("001", "1"), ("N/A", "true"), ("1.0", "1e0")])
def test_people_are_called_what_the_table_calls_them(folder: Write, words: tuple[str, str]) -> None:
    names = {"first": words[0], "second": words[1]}
    root = folder({"first": 5, "second": 6, "b": 2}, {"first": "users", "second": "users", "b": "public"})
    table = pd.read_csv(root / "faces.csv")
    table["identity"] = table["identity"].replace(names)
    table.to_csv(root / "faces.csv", index=False)
    faces = open_at(root, users=2)
    assert {faces.user(index).identity for index in range(2)} == set(words)


def test_a_split_called_NA_is_a_split(folder: Write) -> None:
    root = folder({"a": 5, "b": 2}, {"a": "NA", "b": "null"})
    faces = open_at(root, users=1, users_split="NA", public_split="null")
    assert (faces.user(0).identity, faces.num_public) == ("a", 1)


@pytest.mark.parametrize("blank", ["", "NA", "nan", " "])
def test_a_blank_label_is_no_class(folder: Write, names_of: Names, blank: str) -> None:
    root = folder({"a": 9, "b": 6}, {"a": "users", "b": "public"})
    table = pd.read_csv(root / "faces.csv", dtype=str)
    table = table.drop(columns="age")
    table.loc[table["path"].str.contains("[12].png"), "Smiling"] = blank
    table.loc[table["identity"] == "b", "Male"] = blank
    table.to_csv(root / "faces.csv", index=False)
    faces = open_at(root, users=1)
    user, public = faces.user(0), faces.public(0)
    assert {which for _, which in names_of(torch.cat([user.private.photos, user.held_out.photos]))} == {0, *range(3, 9)}
    assert public.labels.tolist() == [1, -1, -1, 1, 0, 0]
    assert public.attributes == {"smiling": 0}  # half of the labelled ones; male is unknown
    (_, notes) = faces.examine()
    assert any("blank labels, which count for no class: smiling 4, male 6;" in note for note in notes)
    assert not any("label" in note for note in open_at(folder_without_blanks(root), users=1).examine()[1])


def folder_without_blanks(root: Path) -> Path:
    pd.read_csv(root / "faces.csv")[["path", "identity", "split"]].assign(smiling=1).to_csv(
        root / "faces.csv", index=False
    )
    return root


def test_alignment_acts_on_folders_too(folder: Write) -> None:
    faces = open_at(folder({"a": 5, "b": 2}, {"a": "users", "b": "public"}), users=1, align=True)
    with pytest.warns(UserWarning, match="MTCNN finds no face"), pytest.raises(ConfigError, match="only 0 photos"):
        faces.user(0)
    with pytest.raises(ConfigError, match="align cuts faces out of photographs"):
        open_dataset(Dataset(align=True), 0)
