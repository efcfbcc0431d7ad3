import json
import sys

import numpy as np
import pytest
import torch
from external_nets import Net, attended, batch_normed, halved, normed, tied
from PIL import Image
from safetensors.torch import load_file, save_file, save_model
from torch.nn import functional as F
from torchvision.transforms.functional import pil_to_tensor

from attacker.external.external_model import ExternalModel, name_of
from attacker.inversion.matching import Representatives, dummy_gradient
from attacker.observation import LocalTraining
from clients.datasets import open_dataset
from experiments.audit import inversion
from experiments.cli import app
from experiments.evaluate import embedders
from fl_sim.config import ConfigError, Dataset
from fl_sim.threads import one_thread

RATE = 0.1
NET = "external_nets:Net"


@pytest.fixture(scope="module")
def people():
    return open_dataset(Dataset(users=4, photos=20, image_size=32, task="identity"), 0)


@pytest.fixture(scope="module")
def files(people, tmp_path_factory):
    """What a user of somebody else's federation leaves behind, made with plain torch."""
    folder, net, photos = tmp_path_factory.mktemp("update"), Net(), people.user(1).private.photos
    loss = F.cross_entropy(net((photos - 0.5) / 0.5), torch.ones(len(photos), dtype=torch.int64))
    loss.backward()
    gradient = {name: parameter.grad for name, parameter in net.named_parameters()}
    save_file(net.state_dict(), folder / "w.safetensors")
    save_file(gradient, folder / "g.safetensors")
    after = {name: value - RATE * gradient[name] for name, value in net.state_dict().items()}
    save_file(after, folder / "after.safetensors")
    save_file(net.state_dict(), folder / "idle.safetensors")
    save_file({**gradient, "head.bias": torch.tensor([torch.nan, 0])}, folder / "nan.safetensors")
    save_file({**gradient, "head.bias": torch.zeros(3)}, folder / "shape.safetensors")
    save_file({"other.weight": torch.ones(2), **gradient}, folder / "other.safetensors")
    save_file({"other.weight": torch.ones(2)}, folder / "none.safetensors")
    torch.save(net, folder / "module.pth")
    torch.save({"epoch": 3}, folder / "epoch.pth")
    torch.save([1, 2], folder / "numbers.pth")
    torch.save(gradient, folder / "cut.pth")
    (folder / "cut.pth").write_bytes((folder / "cut.pth").read_bytes()[:1000])
    (folder / "text.safetensors").write_text("no tensors")
    np.savez(folder / "g.npz", **{name: value.numpy() for name, value in gradient.items()})
    torch.jit.save(torch.jit.trace(net, torch.zeros(1, 3, 32, 32)), folder / "script.pt")
    np.save(folder / "g.npy", np.ones(3))
    return folder


@pytest.fixture
def invert(files, monkeypatch, capsys, tmp_path):
    """`fl-sim invert` on the files: (exit code, stdout, stderr); pictures go to tmp_path / "out"."""

    def run(*more, update="g.safetensors"):
        command = ["fl-sim", "invert", "--update", files / update, "--weights", files / "w.safetensors", "--model", NET]
        command += ["--out", tmp_path / "out", "--image-size", "32", *more]
        monkeypatch.setattr(sys, "argv", [str(part) for part in command])
        with pytest.raises(SystemExit) as end, one_thread():
            app.main()
        captured = capsys.readouterr()
        return end.value.code or 0, captured.out, captured.err

    return run


def observe(files, update, kind="gradient", labels=None, training=None):
    source = inversion.UpdateFiles(files / update, files / "w.safetensors", kind, 20, labels, training)
    return inversion.observe(ExternalModel(NET, 32), source)


def observed(*arguments, **named):
    return observe(*arguments, **named)[0]


@pytest.mark.parametrize(
    ("update", "more"),
    [("g.safetensors", []), ("after.safetensors", ["--kind", "weights", "--learning-rate", RATE])],
)
def test_the_picture_is_of_the_user_and_of_nobody_else(invert, people, update, more, tmp_path):
    options = ["--attack", "inverting_gradients", "-o", "steps=60", "--num-examples", 20, "--json"]
    code, out, err = invert(*options, *more, update=update)
    assert code == 0, err
    said = json.loads(out)
    assert said == json.loads((tmp_path / "out" / "reconstruction.json").read_text())
    assert said["matching_loss"] < 0.05
    assert len(said["images"]) == 1  # all photos have one label, which is recovered
    picture = pil_to_tensor(Image.open(tmp_path / "out" / said["images"][0]["file"])) / 255
    with one_thread():
        embed = embedders.synthetic()
        face = embed(picture[None])[0]
        likeness = [float((embed(people.user(user).private.photos) @ face).mean()) for user in range(4)]
    assert max(likeness) == likeness[1]
    assert likeness[1] > 0.4
    assert max(likeness[:1] + likeness[2:]) < likeness[1] - 0.1


def test_an_attack_on_several_rounds_is_refused(invert):
    code, _, err = invert("--attack", "user_diffusion", "-o", "rounds=3", "--num-examples", 20)
    assert code == 2
    assert "fuses 3 rounds of a user, but here is one update; set rounds = 1" in " ".join(err.split())


def test_an_attack_that_matches_nothing_is_not_said_to_explain_nothing():
    assert inversion.unexplained(float("nan")) is None
    assert "matching loss 0.9" in inversion.unexplained(0.9)


def test_draws_are_written_with_what_they_are_of(invert, tmp_path):
    options = ["--attack", "elsewhere.noisy_draws", "-o", "draws=3", "-o", "steps=2", "--num-examples", 20, "--json"]
    code, out, err = invert(*options)
    assert code == 0, err
    said, folder = json.loads(out), tmp_path / "out"
    assert said["draws"] == ["draw-0.png", "draw-1.png", "draw-2.png"]
    assert 0 < said["draws_spread"] < 0.5
    assert {path.name for path in folder.glob("*.png")} == {
        "image-0.png", "determined.png", "differ.png", *said["draws"],
    }  # fmt: skip
    assert (folder / "draw-0.png").read_bytes() == (folder / "image-0.png").read_bytes()
    told = " ".join(err.split())
    assert "3 draws of this update" in told
    assert "A realistic face is no evidence" in told


@pytest.mark.parametrize(
    ("more", "update", "told"),
    [
        (["--num-examples", 2], "nan.safetensors", "'head.bias' holds NaN"),
        (["--num-examples", 2], "shape.safetensors", "'head.bias' has shape (3,), expected (2,)"),
        (["--num-examples", 2], "other.safetensors", "the model has no 'other.weight'"),
        (["--num-examples", 2], "none.safetensors", "the model has no 'other.weight'"),
        (["--num-examples", 2], "module.pth", "holds Python objects"),
        (["--num-examples", 2], "numbers.pth", "holds no state dict, but other data"),
        (["--num-examples", 2], "cut.pth", "is damaged"),
        (["--num-examples", 2], "epoch.pth", "holds no state dict, but the entries epoch"),
        (["--num-examples", 2], "g.npz", "is an archive of NumPy's savez"),
        (["--num-examples", 2], "script.pt", "is TorchScript"),
        (["--num-examples", 2], "g.npy", "is an array of NumPy's save"),
        (["--num-examples", 2, "--loss", "torch.nn:BCEWithLogitsLoss"], "g.safetensors", "returns shape (2, 2)"),
        (["--num-examples", 2], "text.safetensors", "cannot be read as safetensors"),
        (["--num-examples", 2], "nowhere.safetensors", "cannot be read as safetensors"),
        (["--num-examples", 2, "--kind", "weights"], "after.safetensors", "without a learning rate"),
        (["--num-examples", 2, "--kind", "weights", "--learning-rate", 1], "idle.safetensors", "changes nothing"),
        (["--num-examples", 2, "--learning-rate", 1], "g.safetensors", "a gradient has no learning rate"),
        (["--num-examples", 2, "--local-epochs", 2], "g.safetensors", "--local-epochs and --batch-size are of new"),
        ([], "g.safetensors", "--num-examples"),
        (["--num-examples", 3, "--labels", "0:2"], "g.safetensors", "--num-examples 3 and 2 labels"),
        (["--labels", "smile"], "g.safetensors", "LABEL:COUNT"),
        (["--labels", "2:3"], "g.safetensors", "labels 0 to 1"),
        (["--num-examples", 2, "--std", "1,1,0"], "g.safetensors", "above 0"),
        (["--num-examples", 2, "--mean", "1"], "g.safetensors", "three numbers"),
        (["--num-examples", 2, "--attack", "user_difusion"], "g.safetensors", "unknown attack 'user_difusion'"),
        (["--num-examples", 2, "--attack", "imprint"], "g.safetensors", "rewrites the model"),
        (["--num-examples", 2, "-o", "step=3"], "g.safetensors", "steps'?"),
        (["--num-examples", 2, "--image-size", 64], "g.safetensors", "does not take images (2, 3, 64, 64)"),
        (["--num-examples", 2, "--model", "external_nets:Nat"], "g.safetensors", "cannot be imported"),
        (["--num-examples", 2, "--model", "Net"], "g.safetensors", "package.module:name"),
        (["--num-examples", 2, "--model", "external_nets:halved"], "g.safetensors", "without arguments"),
        (
            ["--num-examples", 2, "--model", "external_nets:without_file"],
            "g.safetensors",
            "cannot be made (no weights)",
        ),
        (
            ["--num-examples", 2, "--model", "external_nets:asserting"],
            "g.safetensors",
            "does not take images (2, 3, 32",
        ),
        (["--num-examples", 2, "--model", "external_nets:no_logits"], "g.safetensors", "not logits (2, classes)"),
    ],
)
def test_a_mistake_costs_one_sentence_and_leaves_nothing_behind(invert, more, update, told, tmp_path):
    code, out, err = invert(*more, update=update)
    assert code == 2, err
    assert told in " ".join(err.split())
    assert "Traceback" not in err
    assert out == ""
    assert not (tmp_path / "out").exists()


def test_weights_say_what_the_gradient_says(files):
    training = LocalTraining(1, 0, RATE)
    left, right = observed(files, "g.safetensors"), observed(files, "after.safetensors", "weights", training=training)
    assert list(left.gradient) == list(right.gradient) == [name for name, _ in Net().named_parameters()]
    for name, value in left.gradient.items():
        torch.testing.assert_close(right.gradient[name], value, rtol=0, atol=2e-6)


def test_a_file_of_torch_with_prefixes_says_the_same(invert, files):
    gradient = load_file(files / "g.safetensors")
    wrapped = {f"module.{name}": value for name, value in gradient.items()}
    torch.save({"epoch": 3, "state_dict": wrapped}, files / "g.pth")
    torch.save([gradient[name] for name, _ in Net().named_parameters()], files / "list.pth")
    options = ["--attack", "inverting_gradients", "-o", "steps=2", "--num-examples", 20, "--json"]
    results = [invert(*options, update=name) for name in ("g.safetensors", "g.pth", "list.pth")]
    plain, wrapped, nameless = (json.loads(out) for _, out, _ in results)
    assert plain["matching_loss"] == wrapped["matching_loss"] == nameless["matching_loss"]
    assert "read" not in results[0][2]
    told = " ".join(results[1][2].split())
    assert "the entry 'state_dict' was read" in told
    assert "without their prefixes: 'module.conv1" in told
    assert "6 arrays without names were taken for the state dict in that order" in " ".join(results[2][2].split())


def test_gradients_of_a_frozen_model_are_none(files):
    gradient = load_file(files / "g.safetensors")
    some = {name: gradient[name] if "head" in name else None for name, _ in Net().named_parameters()}
    torch.save(some, files / "some.pth")
    torch.save(list(some.values()), files / "listed.pth")
    seen, listed = observed(files, "some.pth"), observed(files, "listed.pth")
    for name, value in some.items():
        expected = torch.zeros_like(gradient[name]) if value is None else value
        assert torch.equal(seen.gradient[name], expected)
        assert torch.equal(listed.gradient[name], expected)


def test_pictures_that_explain_nothing_are_told(invert):
    options = ["--attack", "inverting_gradients", "-o", "steps=1", "--num-examples", 20]
    assert "the pictures do not explain the update" in " ".join(invert(*options)[2].split())
    assert "do not explain" not in " ".join(invert(*options, "-o", "steps=60")[2].split())


def test_what_the_update_lacks_is_frozen_and_told(invert, files):
    gradient = load_file(files / "g.safetensors")
    save_file({name: gradient[name] for name in gradient if "head" in name}, files / "head.safetensors")
    seen = observed(files, "head.safetensors")
    assert list(seen.gradient) == [name for name, _ in Net().named_parameters()]
    assert {name for name, value in seen.gradient.items() if value.any()} == {"head.weight", "head.bias"}
    code, _, err = invert(
        "--attack", "inverting_gradients", "-o", "steps=2", "--num-examples", 20, update="head.safetensors"
    )
    assert code == 0, err
    assert "lacks 'conv1.weight' and 3 more, taken as frozen" in " ".join(err.split())


@pytest.mark.parametrize("factory", [normed, tied, attended])
def test_a_model_as_it_is_saved_is_a_model_that_can_be_read(factory, tmp_path):
    network, images = factory(), torch.rand(4, 3, 32, 32)
    save_model(network, tmp_path / "w.safetensors")
    torch.save(network.state_dict(), tmp_path / "w.pth")
    saved = torch.load(tmp_path / "w.pth", weights_only=True)
    F.cross_entropy(network(images), torch.tensor([0, 1, 1, 1])).backward()
    gradient = {name: parameter.grad for name, parameter in network.named_parameters()}
    save_file(gradient, tmp_path / "g.safetensors")
    external = ExternalModel(*name_of(factory, "model")[:1], 32)
    for weights in ("w.safetensors", "w.pth"):
        source = inversion.UpdateFiles(tmp_path / "g.safetensors", tmp_path / weights, "gradient", 4)
        seen, notes = inversion.observe(external, source)
        assert notes == ()
        assert list(seen.gradient) == list(gradient)
        assert all(torch.equal(seen.gradient[name], value) for name, value in gradient.items())
        external.open().load_state_dict(seen.parameters)  # strict: nothing is missing, of buffers and ties either
        assert all(torch.equal(seen.parameters[name], value) for name, value in saved.items())


def test_weights_in_the_place_of_a_gradient_are_noticed_and_the_other_way_round(files):
    def told(update, kind, training=None):
        return observe(files, update, kind, training=training)[1]

    training = LocalTraining(1, 0, RATE)
    assert told("g.safetensors", "gradient") == told("after.safetensors", "weights", training) == ()
    assert "near the weights that were sent" in told("after.safetensors", "gradient")[0]
    assert "far from the weights that were sent" in told("g.safetensors", "weights", training)[0]


def test_given_labels_become_shares(files):
    assert observed(files, "g.safetensors").label_proportions is None
    assert observed(files, "g.safetensors", labels=(0, 1, 1, 1)).label_proportions.tolist() == [
        0.25,
        0.75,
    ]


def test_a_loss_of_ones_own_is_the_loss_that_is_differentiated():
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    group = Representatives(torch.tensor([0, 1, 1]), torch.tensor([0.5, 0.3, 0.2]))
    plain = dummy_gradient(ExternalModel(NET, 32).open(), images, group)
    named = ExternalModel(NET, 32, loss=name_of(torch.nn.CrossEntropyLoss, "loss")[0])
    half = ExternalModel(NET, 32, loss=name_of(halved, "loss")[0])
    torch.testing.assert_close(dummy_gradient(named.open(), images, group), plain)
    torch.testing.assert_close(dummy_gradient(half.open(), images, group), plain / 2)


def test_images_are_scaled_as_the_app_scales_them_and_parameters_keep_their_names():
    mean, std, photos = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), torch.rand(2, 3, 32, 32)
    network = ExternalModel(NET, 32, mean=mean, std=std).open()
    scaled = (photos - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(network(photos * 2 - 1), Net()(scaled))
    assert list(network.state_dict()) == list(Net().state_dict())


@pytest.mark.parametrize("thing", [lambda: Net(), Net().forward, Net()])
def test_what_has_no_name_cannot_be_audited(thing):
    with pytest.raises(ConfigError, match="cannot be found by its name"):
        name_of(thing, "model")


@pytest.mark.parametrize("training", [True, False])
def test_a_model_with_batch_norm_is_inverted_in_the_mode_of_its_user(invert, people, files, training, tmp_path):
    net, photos = batch_normed().train(training), people.user(1).private.photos
    before = {name: value.clone() for name, value in net.state_dict().items()}
    loss = F.cross_entropy(net((photos - 0.5) / 0.5), torch.ones(len(photos), dtype=torch.int64))
    gradient = dict(zip(dict(net.named_parameters()), torch.autograd.grad(loss, list(net.parameters())), strict=True))
    save_file(before, tmp_path / "w.safetensors")
    save_file(gradient, tmp_path / "g.safetensors")
    given = ["--weights", tmp_path / "w.safetensors", "--model", "external_nets:batch_normed", "--num-examples", 20]
    options = ["--attack", "inverting_gradients", "-o", "steps=40", "--json"]
    code, out, err = invert(*given, *options, update=tmp_path / "g.safetensors")
    assert code == 0, err
    assert json.loads(out)["batch_norm"]["batch_norm"] == ("train" if training else "eval")
    assert ("batch norm is taken with the statistics of the batch" in err) is training
    assert "has dropout (6)" in err
