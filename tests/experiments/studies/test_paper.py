"""The paper's items: every one is on the page, runs from its config, and shows no private photo unasked."""

import importlib
import json
import operator
from pathlib import Path

import pandas as pd
import pytest
import torch
from fake_run import fake_run

from attacker import attacks
from attacker.capture.store import read_reconstruction
from experiments.evaluate.realism import SHARPNESS, SWD
from experiments.plan.study import Cell, Variant, expand, open_study
from experiments.run import pipeline
from experiments.studies import results
from experiments.studies.paper import make, page, pictures, tables
from experiments.studies.paper.__main__ import main
from experiments.studies.paper.items import ALGORITHM, HERE, ITEMS
from experiments.studies.paper.pictures import Panel
from fl_sim.config import Config, load, parse, read
from fl_sim.runs import RunFolder

REPORTED = ("0.5217", "0.9579", "0.5565", "0.4371", "0.9528", "0.7080")  # all numbers of the paper that are known


@pytest.mark.parametrize("name", sorted({name for item in ITEMS.values() for name in item.configs}))
def test_every_config_is_of_attacks_and_keys_that_exist(name: str) -> None:
    if name == "figure5":
        assert len(expand(*open_study(str(HERE / "figure5.toml")))) == 1
        return
    config = parse(Config, read(HERE / f"{name}.toml", []))
    assert {attacks.load(label, table).name for label, table in config.attacks.items()} >= {"prior_only"}


def test_the_algorithm_points_to_functions_that_exist() -> None:
    for _, module, function in ALGORITHM:
        assert callable(operator.attrgetter(function)(importlib.import_module(module)))


def test_the_page_holds_every_item_and_what_the_paper_reports_even_before_anything_ran(tmp_path: Path) -> None:
    text = page.write(tmp_path / "paper").read_text(encoding="utf-8")
    for item in ITEMS.values():
        assert f"## {item.title}\n" in text
        assert item.name == "algorithm1" or f"`python -m experiments.studies.paper {item.name}`" in text
    assert all(number in text for number in REPORTED)


def made(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *options: str, draws: int = 0) -> Path:
    """The page after the item was made from a made-up run; every config's attacks are those of that run."""

    def complete(config: Config, folder: object, *rest: object) -> pipeline.Outcome:
        run = fake_run(tmp_path / "runs" / "paper" / config.name, users=2, rounds=1, photos=2, draws=draws)
        return pipeline.Outcome(pd.read_parquet(run.leakage), run.report)

    def few(path: Path, overrides: list[str]) -> dict[str, object]:
        return read(None, ["dataset.users=2", "dataset.photos=2", "dataset.image_size=32", *overrides])

    monkeypatch.setattr(pipeline, "complete", complete)
    monkeypatch.setattr(make, "read", few)
    out = tmp_path / "out"
    assert main([name, "--runs", str(tmp_path / "runs"), "--out", str(out), *options]) == 0
    return out


@pytest.mark.parametrize("name", ["figure1", "figure3", "table1"])
def test_an_item_is_a_record_a_picture_and_a_section(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = made(name, tmp_path, monkeypatch)
    record = json.loads((out / f"{name}.json").read_text())
    text = out.with_suffix(".md").read_text(encoding="utf-8")
    assert f"`{record['command']}`" in text
    assert f"python -m experiments.studies.paper {name}" in record["command"]
    for picture in record["pictures"]:
        assert (out / picture).read_bytes()[8:12] == b"WEBP"
        assert f"(out/{picture})" in text
    assert bool(record["pictures"]) == name.startswith("figure")
    for table in record["tables"]:
        assert all(len(row) == len(table["columns"]) for row in table["rows"])
        assert set(tables.REALISM) <= set(table["columns"])
    assert text.count(tables.NOTE) == 1


@pytest.mark.parametrize(("name", "drawing"), [("figure1", "portrait"), ("figure2", "strip"), ("figure3", "batches")])
def test_pictures_show_the_answer_and_the_mean_face_behind_it(
    name: str, drawing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Panel] = []

    def draw(first: Panel | list[Panel], beside: list[Panel] | None = None) -> bytes:
        shown.extend(beside if beside is not None else first)
        return b""

    monkeypatch.setattr(pictures, drawing, draw)
    made(name, tmp_path / "drawn", monkeypatch, draws=2)
    behind = [index for index, panel in enumerate(shown) if panel.title == "the mean face behind it"]
    assert [shown[index - 1].title.split()[0] for index in behind] == ["user_diffusion"] * len(behind) != []
    run = RunFolder(next((tmp_path / "drawn" / "runs" / "paper").iterdir()))
    found = read_reconstruction(run, "user_diffusion", 1, 0)
    assert torch.equal(shown[behind[0]].images[0], found.determined)
    assert any(torch.equal(shown[behind[0] - 1].images[0], image) for image in found.images)
    shown.clear()
    made(name, tmp_path / "not", monkeypatch)
    assert not any(panel.title == "the mean face behind it" for panel in shown)


def test_private_photos_of_real_people_are_in_pictures_only_on_demand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Panel] = []
    monkeypatch.setattr(pictures, "portrait", lambda batch, beside: shown.append(batch) or b"")
    real = ["-o", "dataset.name=tiny_faces:open_tiny"]
    made("figure1", tmp_path / "a", monkeypatch, *real)
    made("figure1", tmp_path / "b", monkeypatch, *real, "--with-private-photos")
    assert shown[0].images is None
    assert shown[1].images is not None


def test_tables_give_the_means_of_the_leakage_table(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "made", users=3, rounds=1, photos=2)
    table = pd.read_parquet(run.leakage)
    own = make.Run(load(run.config), run, table)
    revealed = tables.revealed([own])
    cells = {(row[0], row[1]): dict(zip(revealed["columns"], row, strict=True)) for row in revealed["rows"]}
    for (label, reading), arm in {
        ("user_diffusion", "first image"): "attack",
        ("inverting_gradients", "all images"): "all_images",
    }.items():
        rows = table[(table["attack"] == label) & (table["arm"] == arm)]
        cell = cells[label, reading]
        assert cell["facial similarity"].startswith(f"{rows['facial_similarity'].mean():.2f} [")
        right = (rows["attr_beard_true"] == rows["attr_beard_inferred"]).mean()
        assert cell["beard"].startswith(f"{100 * right:.0f} % [")
    assert [row[0] for row in tables.per_user(own)["rows"]][:4] == ["0", "1", "2", "mean"]
    assert tables.per_user(own)["rows"][0][1] == "0.5200 to 0.9600"


def test_realism_stands_beside_identity_in_the_row_of_its_arm(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "made", users=3, rounds=1, photos=2, draws=2)
    table = pd.read_parquet(run.leakage)
    for number, arm in enumerate(sorted(table["arm"].unique())):
        table.loc[table["arm"] == arm, [*SHARPNESS, *SWD, "face_probability"]] = number / 20
    table.loc[table["arm"] == "prior_only", "face_probability"] = float("nan")
    own = make.Run(load(run.config), run, table)
    expected = {
        arm: [
            "" if arm == "prior_only" else f"{level:.2f}",
            " ".join([f"{level:.2f}"] * 3),
            " ".join([f"{level:.0f}"] * 3),
        ]
        for arm, level in table.groupby("arm")["sharpness_fine"].first().items()
    }
    found = tables.revealed([own])
    first = found["columns"].index("rank-1") + 1
    assert found["columns"][first : first + 3] == [*tables.REALISM]
    cells = {(row[0], row[1]): row[first : first + 3] for row in found["rows"]}
    assert cells["user_diffusion", "first image"] == expected["attack"]
    assert cells["user_diffusion", "determined"] == expected["determined"]
    assert cells["", "prior only (control)"] == expected["prior_only"]
    assert cells["", "a real photo (ceiling)"] == expected["own_photo"]
    rows = {row[0]: row[-3:] for row in tables.per_user(own)["rows"]}
    assert rows["mean"] == expected["attack"]
    assert rows["1"] == [*expected["attack"][:2], ""]  # patches are of all users together
    assert rows["mean: determined"] == expected["determined"]


def test_a_setting_s_row_tells_identity_realism_and_the_mean_face_behind_a_drawn_answer(tmp_path: Path) -> None:
    leakage = pd.read_parquet(fake_run(tmp_path / "made", users=3, rounds=1, photos=2, draws=2).leakage)
    cell = Cell("only", {}, load(None, []))
    named = [Variant("user_diffusion", "user_diffusion", "", None), Variant("inverting_gradients", "b", "tv", 0.1)]
    table = results.long_form(cell, named, leakage, by_round=False)
    found = tables.varied(table)
    assert found["columns"][-1] == "determined: similarity"
    own = leakage[leakage["attack"] == "user_diffusion"].groupby("arm")["facial_similarity"].mean()
    plain, other = found["rows"]
    assert plain[0] == "as it is"
    assert plain[1].startswith(f"{own['attack']:.2f} [")
    assert plain[3:6] == ["0.90", "0.80 0.80 0.80", "6 6 6"]
    assert plain[6].startswith(f"{own['determined']:.2f} [")
    assert (other[0], other[6]) == ("tv = 0.1", "")
    assert tables.varied(table[table["arm"] != "determined"])["columns"] == found["columns"][:-1]


def test_a_mosaic_holds_every_image_where_it_belongs() -> None:
    images = torch.rand(30, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    canvas = pictures.mosaic(images)
    step = 8 + pictures.GAP
    assert canvas.shape == (5 * step - pictures.GAP, 6 * step - pictures.GAP, 3)
    assert torch.equal(torch.from_numpy(canvas[step : step + 8, :8]).permute(2, 0, 1), images[6])
