"""Embedders and attribute classifiers: their contract, their errors, and their skill where weights are at hand."""

import csv
import os
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import Tensor

from clients.datasets import open_dataset
from experiments.evaluate import attributes, embedders, identity_net
from experiments.evaluate.gallery import build_gallery
from fl_sim.config import ConfigError, Dataset, Leakage
from fl_sim.seeds import generator

FACES = Path(os.environ.get("FACES_DIR", Path(__file__).parents[4] / "shared" / "faces"))
needs_faces = pytest.mark.skipif(not (FACES / "faces.csv").is_file(), reason="real faces are absent; set FACES_DIR")
needs_weights = pytest.mark.skipif(not identity_net.SHIPPED.is_file(), reason="the identity net is not trained yet")


def tiny_net(path: Path) -> Path:
    identity_net.save_net(identity_net.IdentityNet({"hat": 2, "hair": 3}), path, {"note": "untrained"})
    return path


@pytest.mark.parametrize("size", [32, 64, 100])
def test_embeddings_are_unit_vectors_whatever_the_size_of_the_photos(tmp_path: Path, size: int) -> None:
    embed = embedders.synthetic(tiny_net(tmp_path / "net.safetensors"))
    photos = torch.rand(5, 3, size, size, generator=generator(0, "photos"))
    got = embed(photos)
    assert got.shape == (5, identity_net.EMBEDDING)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(got[3:4], embed(photos[3:4]), atol=1e-5, rtol=0)  # no photo depends on its batch
    assert not got.requires_grad


def test_a_saved_net_is_the_same_net_up_to_half_precision(tmp_path: Path) -> None:
    path = tiny_net(tmp_path / "net.safetensors")
    net = identity_net.load_net(path)
    identity_net.save_net(net, tmp_path / "again.safetensors", {})
    again = identity_net.load_net(tmp_path / "again.safetensors")
    for one, other in zip(net.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert identity_net.facts(path)["note"] == "untrained"
    assert path.stat().st_size < 8e6


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"embedder": "arcface"}, "allowed are"),
        ({"embedder": "onnx"}, "embedder_path"),
        ({"embedder": "onnx", "embedder_path": Path("absent.onnx")}, "does not exist"),
        ({"embedder": "facenet", "embedder_path": Path("absent.pt")}, "does not exist"),
    ],
)
def test_an_embedder_that_cannot_be_had_is_told_in_a_sentence(settings: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        embedders.open_embedder(Leakage(**settings))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"attributes": "oracle"}, "allowed are"),
        ({"attributes": "onnx"}, "attributes_path"),
        ({"attributes": "onnx", "attributes_path": Path("absent.onnx")}, "does not exist"),
    ],
)
def test_a_classifier_that_cannot_be_had_is_told_in_a_sentence(settings: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        attributes.open_classifier(Leakage(**settings))


def test_a_file_that_is_no_model_is_told_in_a_sentence(tmp_path: Path) -> None:
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"junk")
    with pytest.raises(ConfigError, match="not an ONNX model"):
        embedders.onnx(junk)
    with pytest.raises(ConfigError, match="missing"):
        embedders.synthetic(tmp_path / "absent.safetensors")


@pytest.mark.slow
def test_facenet_offline_is_told_before_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*arguments: object, **options: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("facenet_pytorch.models.inception_resnet_v1.download_url_to_file", offline)
    with pytest.raises(ConfigError, match="set leakage"):
        embedders.open_embedder(Leakage(embedder="facenet"))


@pytest.mark.slow
def test_facenet_reads_a_local_weights_file(tmp_path: Path) -> None:
    from facenet_pytorch import InceptionResnetV1

    net = InceptionResnetV1(classify=True, num_classes=7)  # the published files hold a classifier, too
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    embed = embedders.open_embedder(Leakage(embedder="facenet", embedder_path=tmp_path / "weights.pt"))
    photos = torch.rand(2, 3, 64, 64, generator=generator(0, "photos"))
    got = embed(photos)
    assert got.shape == (2, 512)
    net.classify = False
    with torch.no_grad():
        expected = net.eval()((identity_net.resize(photos, 160) * 255 - 127.5) / 128)
    torch.testing.assert_close(got, expected)


def test_true_values_are_found_whatever_the_case_and_coding() -> None:
    assert attributes.true_value({"Male": -1, "Young": 1}, "male") == 0
    assert attributes.true_value({"Male": -1, "Young": 1}, "young") == 1
    assert attributes.true_value({"hair_color": 3}, "hair_color") == 3
    assert attributes.true_value({"Male": 1}, "glasses") is None


def test_no_classifier_infers_nothing() -> None:
    assert attributes.names(attributes.open_classifier(Leakage(attributes="none"))) == []


def auc(embeddings: Tensor, person: Tensor) -> float:
    cosine, equal = embeddings @ embeddings.T, person[:, None] == person[None, :]
    upper = torch.triu(torch.ones_like(equal), 1)
    same, different = cosine[equal & upper], cosine[~equal & upper]
    return float((same[:, None] > different[None, :]).double().mean())


@needs_faces
@pytest.mark.slow
def test_the_onnx_models_recognise_real_faces() -> None:
    from torchvision.io import decode_image

    with (FACES / "faces.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "public"]
    people = sorted({row["identity"] for row in rows})[:10]
    chosen = [row for name in people for row in [row for row in rows if row["identity"] == name][:6]]
    photos = torch.stack([decode_image(str(FACES / row["path"])) for row in chosen]).float() / 255
    person = torch.tensor([people.index(row["identity"]) for row in chosen])
    embed = embedders.open_embedder(Leakage(embedder="onnx", embedder_path=FACES / "embedder_b.onnx"))
    assert auc(embed(photos), person) > 0.95
    assert auc(embed(identity_net.resize(photos, 64)), person) > 0.95
    classify = attributes.open_classifier(Leakage(attributes="onnx", attributes_path=FACES / "age_gender.onnx"))
    inferred = classify(identity_net.resize(photos, 64))
    male = torch.tensor([max(int(row["Male"]), 0) for row in chosen])
    assert float((inferred["male"] == male).double().mean()) > 0.8  # 0.96 on all; of 10 people, one may be misread
    assert inferred["young"].unique().tolist() == [0, 1]


@needs_weights
@pytest.mark.slow
def test_the_shipped_net_finds_users_it_has_never_seen_among_100() -> None:
    dataset = open_dataset(Dataset(users=20, photos=10), seed=123)
    embed, classify = embedders.synthetic(), attributes.network()
    gallery = build_gallery(dataset, embed, 100)
    users = [dataset.user(index) for index in range(20)]
    ranks = [gallery.rank(own, user.partition) for user in users for own in embed(user.private.photos)]
    assert sum(rank == 1 for rank in ranks) / len(ranks) >= 0.97
    means = [gallery.rank(embed(user.private.photos.mean(0, keepdim=True))[0], user.partition) for user in users]
    assert sum(rank == 1 for rank in means) / len(means) >= 0.9
    inferred = [classify(user.private.photos)["glasses"] == user.private.attributes["glasses"] for user in users]
    assert float(torch.cat(inferred).double().mean()) > 0.9
