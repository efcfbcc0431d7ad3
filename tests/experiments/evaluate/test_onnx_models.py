"""ONNX judges: whatever the exporter made of input and outputs, the same photos give the same numbers."""

from pathlib import Path

import pytest
import tiny_onnx
import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.evaluate import attributes, embedders, identity_net
from experiments.evaluate.onnx_models import open_onnx
from fl_sim.config import ConfigError, Leakage
from fl_sim.seeds import generator


def photos(n: int = 5, size: int = 64) -> Tensor:
    return F.interpolate(torch.rand(n, 3, 8, 8, generator=generator(0, "photos")), size=(size, size), mode="bilinear")


def grid(pictures: Tensor, size: tuple[int, int] = (32, 32)) -> Tensor:
    return F.adaptive_avg_pool2d(identity_net.resize(pictures, size), 4)


def expected(pictures: Tensor, size: tuple[int, int] = (32, 32)) -> Tensor:
    return F.normalize((grid(pictures, size) - 0.5).flatten(1), dim=1)


@pytest.mark.parametrize(
    ("shape", "kind", "tolerance"),
    [
        (("n", 3, 32, 32), tiny_onnx.FLOAT, 1e-5),
        (("n", 3, 32, 32), tiny_onnx.FLOAT16, 1e-2),
        (("n", 3, 32, 32), tiny_onnx.DOUBLE, 1e-5),
        ((1, 3, 32, 32), tiny_onnx.FLOAT, 1e-5),
        ((4, 3, 32, 32), tiny_onnx.FLOAT, 1e-5),  # a fixed batch: 5 photos are padded to 8, and cut
        (("n", 3, 32, 64), tiny_onnx.FLOAT, 1e-5),
        (("n", 3, 64, 32), tiny_onnx.FLOAT, 1e-5),
        (("n", 32, 64, 3), tiny_onnx.FLOAT, 1e-5),  # channels last, as TensorFlow exports
        ((2, 32, 32, 3), tiny_onnx.FLOAT16, 1e-2),
    ],
)
def test_an_exporters_input_does_not_change_the_embedding(
    tmp_path: Path, shape: tuple[int | str, ...], kind: int, tolerance: float
) -> None:
    path = tiny_onnx.embedder(tmp_path / "model.onnx", shape, kind)
    got = embedders.onnx(path)(photos())
    size = (int(shape[1]), int(shape[2])) if shape[3] == 3 else (int(shape[2]), int(shape[3]))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected(photos(), size), atol=tolerance, rtol=0)
    torch.testing.assert_close(got[3:4], embedders.onnx(path)(photos()[3:4]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [("n", 3, 32, 32), (2, 32, 32, 3)])
def test_bytes_are_0_to_255(tmp_path: Path, shape: tuple[int | str, ...]) -> None:
    path = tiny_onnx.embedder(tmp_path / "model.onnx", shape, tiny_onnx.UINT8, centre=127.5)
    torch.testing.assert_close(embedders.onnx(path)(photos()), expected(photos()), atol=1e-2, rtol=0)
    with pytest.raises(ConfigError, match=r"embedder_range is '-1\.\.1', but .* takes bytes"):
        embedders.onnx(path, pixels="-1..1")


def test_colours_and_range_are_what_the_settings_say(tmp_path: Path) -> None:
    path = tiny_onnx.embedder(tmp_path / "model.onnx")
    rows = {
        name: embedders.open_embedder(Leakage(embedder="onnx", embedder_path=path, **settings))(photos())
        for name, settings in {
            "bgr": {"embedder_channels": "bgr"},
            "signed": {"embedder_range": "-1..1"},
            "bytes": {"embedder_range": "0..255"},
            "imagenet": {"embedder_range": "imagenet", "embedder_channels": "bgr"},
        }.items()
    }
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    imagenet = (grid(photos()) - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    torch.testing.assert_close(rows["bgr"], expected(photos().flip(1)), atol=1e-5, rtol=0)
    for name, seen in {
        "signed": 2 * grid(photos()) - 1,
        "bytes": 255 * grid(photos()),
        "imagenet": imagenet.flip(1),  # the constants go with the colours
    }.items():
        torch.testing.assert_close(rows[name], F.normalize((seen - 0.5).flatten(1), dim=1), atol=1e-5, rtol=0)


def test_of_several_outputs_the_embedding_is_chosen_by_name(tmp_path: Path) -> None:
    nodes = [tiny_onnx.Node("Flatten", ["image"], "features"), tiny_onnx.Node("Neg", ["features"], "other")]
    both = [tiny_onnx.Value(name, tiny_onnx.FLOAT, ["n", 3072]) for name in ("features", "other")]
    path = tiny_onnx.write(
        tmp_path / "two.onnx", nodes, [tiny_onnx.Value("image", tiny_onnx.FLOAT, ["n", 3, 32, 32])], both
    )
    with pytest.raises(ConfigError, match=r"features \('n', 3072\).*other.*embedder_output"):
        embedders.onnx(path)
    with pytest.raises(ConfigError, match=r"'third', but .* features .* other"):
        embedders.onnx(path, "third")
    one, other = (embedders.onnx(path, name)(photos()) for name in ("features", "other"))
    torch.testing.assert_close(one, -other)
    torch.testing.assert_close(one.norm(dim=1), torch.ones(5))  # what is not of unit length is made so


@pytest.mark.parametrize("axes", [0, 1, 3])
def test_an_output_that_is_no_row_of_numbers_is_refused_by_name(tmp_path: Path, axes: int) -> None:
    path = tiny_onnx.embedder(tmp_path / "model.onnx", more={"strange": axes})
    with pytest.raises(ConfigError, match="'strange'"):
        embedders.onnx(path, "strange")(photos())
    assert embedders.onnx(path)(photos()).shape == (5, 48)  # `embedding` is there, and is taken


@pytest.mark.parametrize(
    ("shape", "kind", "words"),
    [
        (("n", 3, "h", "w"), tiny_onnx.FLOAT, "fixed size"),
        (("n", 1, 32, 32), tiny_onnx.FLOAT, "needed is one image"),
        (("n", 3072), tiny_onnx.FLOAT, "needed is one image"),
        (("n", 3, 32, 32), tiny_onnx.INT64, "float, float16, double or uint8"),
    ],
)
def test_an_input_that_is_no_photo_is_refused(
    tmp_path: Path, shape: tuple[int | str, ...], kind: int, words: str
) -> None:
    nodes = [tiny_onnx.Node("Flatten", ["image"], "embedding")]
    out = [tiny_onnx.Value("embedding", kind, ["n", "d"])]
    path = tiny_onnx.write(tmp_path / "model.onnx", nodes, [tiny_onnx.Value("image", kind, shape)], out)
    with pytest.raises(ConfigError, match=words):
        open_onnx(path, "embedder")


def test_a_model_that_fails_is_told_in_a_sentence(tmp_path: Path) -> None:
    """It says that it takes any number of photos, and takes one."""
    nodes = [tiny_onnx.Node("Flatten", ["image"], "embedding", {"axis": 0})]
    values = [tiny_onnx.Value("image", tiny_onnx.FLOAT, ["n", 3, 32, 32])]
    path = tiny_onnx.write(
        tmp_path / "m.onnx", nodes, values, [tiny_onnx.Value("embedding", tiny_onnx.FLOAT, ["n", "d"])]
    )
    with pytest.raises(ConfigError, match=r"5 photos with the output 'embedding' of shape \(1, 15360\).*batch"):
        embedders.onnx(path)(photos())


def classifier(path: Path, **settings: str) -> attributes.Classifier:
    return attributes.open_classifier(Leakage(attributes="onnx", attributes_path=path, **settings))


def test_attribute_models_read_the_same_inputs(tmp_path: Path) -> None:
    """The mean pixel, between 0 and 1, for a probability, and for an age."""
    pictures = torch.stack([torch.full((3, 64, 64), level) for level in (0.1, 0.4, 0.6)])
    for shape, kind in ((("n", 3, 32, 32), tiny_onnx.FLOAT), ((2, 32, 48, 3), tiny_onnx.FLOAT16)):
        path = tiny_onnx.embedder(tmp_path / "model.onnx", shape, kind, {"p_male": 1, "age_years": 1}, centre=0.0)
        got = classifier(path)(pictures)
        assert got["male"].tolist() == [0, 0, 1]
        assert got["young"].tolist() == [1, 1, 1]
    path = tiny_onnx.embedder(tmp_path / "model.onnx", kind=tiny_onnx.UINT8, more={"age_years": 1}, centre=0.0)
    assert classifier(path)(pictures)["young"].tolist() == [1, 0, 0]  # 25, 102 and 153 "years"


@pytest.mark.parametrize(
    ("more", "centre", "words"),
    [
        ({"age": 1}, 0.5, r"outputs embedding.*age \('n',\).*needed is p_male or age_years"),
        ({"p_male": 1}, 0.9, "p_male from -.*needed is a probability"),
        ({"p_male": 2}, 0.5, r"gives p_male of shape \(3, 4\) for 3 photos"),
    ],
)
def test_an_attribute_model_of_other_numbers_is_refused(
    tmp_path: Path, more: dict[str, int], centre: float, words: str
) -> None:
    path = tiny_onnx.embedder(tmp_path / "model.onnx", more=more, centre=centre)
    with pytest.raises(ConfigError, match=words):
        classifier(path)(torch.full((3, 3, 32, 32), 0.5))
