"""What TensorBoard is given is what the tables hold, and no private photo is among it."""

import math
import stat

import pandas as pd
import pytest
import torch
from command_line import fl_sim, sentence
from fake_run import fake_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchvision.io import ImageReadMode, decode_image

from attacker.capture.store import read_reconstruction
from attacker.observation import pixels
from clients.datasets import open_dataset
from experiments.show import tensorboard
from experiments.statistics.aggregate import aggregate
from fl_sim.config import load


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = fake_run(tmp_path_factory.mktemp("tensorboard") / "run")
    table = pd.read_parquet(run.leakage)
    table.assign(capture=table["user"]).to_parquet(run.leakage)
    return run


@pytest.fixture(scope="module")
def written(run, tmp_path_factory):
    """The folder that was written, and its events by arm."""
    folder = tmp_path_factory.mktemp("curves") / "new"
    tensorboard.write(run, folder)
    return folder, read(folder / "run")


def read(folder):
    arms = {path.name: EventAccumulator(str(path), {"images": 0, "scalars": 0}) for path in folder.iterdir()}
    return {name: events.Reload() for name, events in arms.items()}


def scalars(events):
    """(arm, tag, round) -> value."""
    return {
        (arm, tag, event.step): event.value
        for arm, found in events.items()
        for tag in found.Tags()["scalars"]
        for event in found.Scalars(tag)
    }


def images(events):
    """(arm, tag, round) -> image (3, H, W), bytes."""
    return {
        (arm, tag, event.step): decode_image(
            torch.frombuffer(bytearray(event.encoded_image_string), dtype=torch.uint8), ImageReadMode.RGB
        )
        for arm, found in events.items()
        for tag in found.Tags()["images"]
        for event in found.Images(tag)
    }


def test_curves_are_the_tables(run, written):
    expected = {}
    for row in pd.read_parquet(run.rounds).to_dict("records"):
        for name in ("accuracy", "loss", "accepted", "rejected", "seconds"):
            expected["training", f"training/{name}", row["round"]] = row[name]
    for server_round, attacks in aggregate(pd.read_parquet(run.leakage))["rounds"].items():
        for attack, arms in attacks.items():
            for arm, figures in arms.items():
                means = {figure: interval.mean for figure, interval in figures.items()}
                expected |= {
                    (arm, f"{attack}/{figure}", int(server_round)): mean
                    for figure, mean in means.items()
                    if math.isfinite(mean)
                }
    found = scalars(written[1])
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, rel=1e-6)  # TensorBoard keeps single precision
    attack, control = (
        ("attack", "user_diffusion/facial_similarity", 1),
        ("prior_only", "user_diffusion/facial_similarity", 1),
    )
    assert found[attack] > found[control]  # both under one tag: one chart


def test_pictures_are_the_reconstructions_and_nothing_else(run, written):
    labels = {"user_diffusion": "attack", "inverting_gradients": "attack", "prior_only": "prior_only"}
    expected = {
        (arm, f"{label}/user-{user:04d}", server_round): pixels(
            read_reconstruction(run, label, server_round, user).images[0]
        )
        for label, arm in labels.items()
        for server_round in (1, 2)
        for user in range(3)
    }
    found = images(written[1])
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    config = load(run.config)
    dataset = open_dataset(config.dataset, config.seed)
    private = [pixels(photo) for user in range(3) for photo in dataset.user(user).private.photos]
    assert not any(torch.equal(image, photo) for image in found.values() for photo in private)


def test_a_damaged_reconstruction_leaves_its_place_empty(run, written, tmp_path):
    path = run.reconstruction("user_diffusion", 1, 2)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    tensorboard.write(run, tmp_path)
    path.write_bytes(whole)
    assert images(written[1]).keys() - images(read(tmp_path / "run")).keys() == {
        ("attack", "user_diffusion/user-0002", 1)
    }


def test_what_is_written_is_for_its_owner_alone_and_replaces_what_was_there(run, written, tmp_path):
    folder, events = written
    modes = {stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}
    assert modes == {0o700, 0o600}
    other = tmp_path / "run" / "notes.txt"
    other.parent.mkdir()
    other.touch()
    tensorboard.write(run, tmp_path)
    tensorboard.write(run, tmp_path)
    assert other.exists()
    other.unlink()
    assert scalars(read(tmp_path / "run")) == scalars(events)
    assert len(list(tmp_path.rglob("events.*"))) == len(events)


def test_without_the_package_one_sentence_says_how_to_get_it(run, tmp_path, monkeypatch):

    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    before = run.leakage.read_bytes()
    code, told = fl_sim("report", run.root, "--tensorboard", tmp_path / "curves")
    assert code == 2
    assert "pip install 'fl-sim[tensorboard]'" in sentence(told)
    assert run.leakage.read_bytes() == before
    assert not (tmp_path / "curves").exists()
