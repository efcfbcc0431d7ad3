"""Photos and tables that somebody else made: read, or left out with a reason, or one sentence."""

import contextlib
import gzip
import io
import re
import struct
import warnings
import zipfile
import zlib

import numpy as np
import pytest
import torch
from command_line import fl_sim, sentence
from hypothesis import given, settings
from hypothesis import strategies as st
from photos import read_photo
from PIL import Image

from clients.datasets import open_dataset
from clients.datasets.images import MOST_PIXELS, UnreadableImage
from experiments.audit import audit
from fl_sim.config import ConfigError, Dataset


def encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, more=b"", data=b""):
    """A grey PNG that claims to be of any size, with any pixel data."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + more + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def gradient(mode="RGB", size=(40, 30)):
    ramp = np.linspace(0, 255, size[0] * size[1]).reshape(size[1], size[0]).astype(np.uint8)
    return Image.fromarray(ramp).convert(mode)


READABLE = {
    "1x1.png": encoded(gradient(size=(1, 1)), "PNG"),
    "20000x1.png": encoded(gradient(size=(20_000, 1)), "PNG"),
    "cmyk.jpg": encoded(gradient("CMYK"), "JPEG"),
    "cmyk.tif": encoded(gradient("CMYK"), "TIFF"),
    "animated.gif": encoded(gradient("P"), "GIF", save_all=True, append_images=[gradient("P"), gradient("P")]),
    "transparent.png": encoded(gradient("LA"), "PNG"),
    "palette.png": encoded(gradient("P"), "PNG"),
    "bits.png": encoded(gradient("1"), "PNG"),
    "float.tif": encoded(gradient("F"), "TIFF"),
    "lab.tif": encoded(Image.new("LAB", (8, 8)), "TIFF"),
    "photo.webp": encoded(gradient(), "WEBP"),
}
EXIF = Image.Exif()
EXIF[0x0112] = 6  # orientation: turned by a quarter
DEEP = Image.fromarray((np.arange(1200).reshape(30, 40) * 54).astype(np.uint16))
READABLE |= {
    "turned.jpg": encoded(gradient(), "JPEG", exif=EXIF.tobytes()),
    "deep.png": encoded(DEEP, "PNG"),
    "deep.tif": encoded(DEEP, "TIFF"),
    "alpha.png": encoded(gradient("RGBA"), "PNG"),
    "grey.bmp": encoded(gradient("L"), "BMP"),
}
UNREADABLE = {
    "empty.png": b"",
    "text.png": b"this is no image",
    "truncated.png": encoded(gradient(), "PNG")[:-60],
    "truncated.jpg": encoded(gradient(), "JPEG")[:-200],
    "bomb.png": png(20_000, 20_000),
    "nearly-a-bomb.png": png(9_000, 9_000, data=bytes(9_001)),
    "text-bomb.png": png(8, 8, more=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**24))), data=bytes(72)),
    "profile-bomb.png": png(8, 8, more=chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**24))), data=bytes(8)),
    "no-pixels.png": png(0, 0),
    "archive.png": b"PK\x03\x04" + bytes(40),
    "a.gif": b"GIF89a\xff\xff\xff\xff" + bytes(9),
}


@pytest.mark.parametrize("name", READABLE)
def test_photos_of_any_kind_are_read(name, tmp_path):
    (tmp_path / name).write_bytes(READABLE[name])
    photo = read_photo(tmp_path / name)
    assert photo.shape == (3, 32, 32)
    assert photo.dtype == torch.uint8


def test_the_audit_reads_photos_as_datasets_do(tmp_path):
    for user in range(2):
        (tmp_path / str(user)).mkdir()
    for name, whole in READABLE.items():
        (tmp_path / "0" / name).write_bytes(whole)
    (tmp_path / "1/a.png").write_bytes(encoded(gradient(size=(9, 9)), "PNG"))
    (tmp_path / "0" / ".hidden").write_text("of the file manager")
    found = audit.read_photos(tmp_path, [0, 1], 32)
    for user, photos in found.items():
        paths = sorted(path for path in (tmp_path / str(user)).iterdir() if path.name != ".hidden")
        assert torch.equal(photos, torch.stack([read_photo(path) for path in paths]) / 255)


def test_a_photo_on_its_side_is_read_upright(tmp_path):
    (tmp_path / "turned.jpg").write_bytes(READABLE["turned.jpg"])
    (tmp_path / "plain.jpg").write_bytes(encoded(gradient(), "JPEG"))
    turned, plain = (read_photo(tmp_path / f"{name}.jpg") for name in ("turned", "plain"))
    assert (turned.float() - plain.rot90(-1, (1, 2)).float()).abs().max() < 8  # JPEG


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("notes.txt", b"of no use", "notes.txt cannot be read (not an image)"),
        ("b.jpg", READABLE["palette.png"], "one and the same photo"),
    ],
)
def test_the_audit_refuses_what_is_no_photo_or_anothers(tmp_path, name, data, told):
    for user in range(2):
        (tmp_path / str(user)).mkdir()
    (tmp_path / "0/a.png").write_bytes(READABLE["palette.png"])
    (tmp_path / "1" / name).write_bytes(data)
    with pytest.raises(ConfigError, match=re.escape(told)):
        audit.read_photos(tmp_path, [0, 1], 32)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_no_photo_is_left_out_with_a_reason(name, tmp_path):
    (tmp_path / name).write_bytes(UNREADABLE[name])
    with pytest.raises(UnreadableImage) as error:
        read_photo(tmp_path / name)
    assert str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_pixels_beyond_the_limit_are_not_unpacked(tmp_path):
    side = int(MOST_PIXELS**0.5) + 1
    (tmp_path / "a.png").write_bytes(png(side, side))
    with pytest.raises(UnreadableImage, match=f"{side} x {side} pixels, at most"):
        read_photo(tmp_path / "a.png")


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(READABLE)),
    st.floats(0, 1),
    st.binary(min_size=1, max_size=12),
    st.sampled_from(["overwrite", "cut", "insert"]),
)
def test_damage_anywhere_gives_a_photo_or_a_reason(tmp_path_factory, name, at, other, how):
    data = READABLE[name]
    start = int(at * len(data))
    tail = {"overwrite": data[start + len(other) :], "cut": b"", "insert": data[start:]}[how]
    path = tmp_path_factory.mktemp("photo") / name
    path.write_bytes(data[:start] + (b"" if how == "cut" else other) + tail)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what it can live with
        with contextlib.suppress(UnreadableImage):
            assert read_photo(path).shape == (3, 32, 32)


def dataset(folder, table, name="faces.csv", **settings):
    (folder / name).write_bytes(table)
    return Dataset(name="folder", root=folder, csv=name, users=1, photos=2, image_size=32, **settings)


def people(folder, broken=()):
    """The table of two users and two public people of five photos each; the files of `broken` are damaged."""
    rows = ["path,identity,split,smiling"]
    for person in range(4):
        for photo in range(5):
            name = f"{person}-{photo}.png"
            whole = encoded(gradient("P", (40 + person, 30 + photo)), "PNG")  # no two photos are the same
            (folder / name).write_bytes(UNREADABLE["text.png"] if name in broken else whole)
            rows.append(f"{name},p{person},{'users' if person < 2 else 'public'},{photo % 2}")
    return "\n".join([*rows, ""]).encode()


def test_a_damaged_photo_is_named_and_the_others_are_used(tmp_path):
    table = people(tmp_path, broken=("0-1.png", "1-1.png"))
    opened = open_dataset(dataset(tmp_path, table), 0)
    with pytest.warns(UserWarning, match=r"-1.png is left out: not an image"):
        user = opened.user(0)
    assert len(user.private.photos) == 2
    assert list(opened.skipped.values()) == ["not an image"]


def zipped(table):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("faces.csv", table)
    return file.getvalue()


TABLES = {
    "empty": (b"", "faces.csv"),
    "only a header": (b"path,identity,split,smiling\n", "faces.csv"),
    "binary": (bytes(range(256)) * 3, "faces.csv"),
    "no identity": (b"path,person\na.png,b\n", "faces.csv"),
    "a quote without end": (b'path,identity\n"a.png,b\n', "faces.csv"),
    "more fields than names": (b"path,identity\na.png,b,c,d\n", "faces.csv"),
    "a packed bomb": (gzip.compress(b"path,identity\n" + bytes(2**24)), "faces.csv.gz"),
    "an archive": (zipped(b"path,identity\n"), "faces.csv.zip"),
    "no archive": (b"no archive", "faces.csv.zip"),
    "NUL in a path": (b"path,identity,split,smiling\n" + b"a\0b.png,p,users,1\n" * 5, "faces.csv"),
    "a person on both sides": (b"path,identity,split,smiling\na,p,users,1\nb,p,public,1\n", "faces.csv"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_that_is_none_is_a_sentence_at_the_command_line(kind, tmp_path):
    table, name = TABLES[kind]
    (tmp_path / name).write_bytes(table)
    keys = {"dataset.name": "folder", "dataset.root": tmp_path, "dataset.csv": name, "dataset.image_size": 32}
    overrides = [part for key, value in keys.items() for part in ("-o", f"{key}={value}")]
    code, told = fl_sim("faces", "--out", tmp_path / "sheet.png", *overrides)
    assert code == 2
    assert str(tmp_path / name) in sentence(told)
    assert not (tmp_path / "sheet.png").exists()


cells = st.text(max_size=5) | st.integers().map(str) | st.floats().map(str) | st.sampled_from(["", "users", "public"])


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.sampled_from(["path", "identity", "split", "smiling", "x", "", "path"]), max_size=5),
    st.lists(st.lists(cells, max_size=6).map(",".join), max_size=6),
    st.sampled_from(["utf-8", "utf-16", "latin-1"]),
)
def test_any_table_is_a_dataset_or_a_sentence(tmp_path_factory, header, rows, encoding):
    table = "\n".join([",".join(header), *rows]).encode(encoding, "replace")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(ConfigError):
            open_dataset(dataset(tmp_path_factory.mktemp("faces"), table), 0)


@pytest.mark.parametrize("partition", [b"000001.jpg 7\n", b"000001.jpg\n", b"\xff\n", b"", b'"' + b"x" * 200_000])
def test_lists_that_are_not_celebas_are_a_sentence(partition, tmp_path):
    folder = tmp_path / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    (folder / "list_attr_celeba.txt").write_bytes(b"1\nSmiling \n000001.jpg 1\n")
    (folder / "identity_CelebA.txt").write_bytes(b"000001.jpg 3\n")
    (folder / "list_eval_partition.txt").write_bytes(partition)
    with pytest.raises(ConfigError, match="not those of CelebA"):
        open_dataset(Dataset(name="celeba", root=tmp_path, users=1), 0)
