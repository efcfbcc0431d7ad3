"""Sweeps: what a file asks for, what is not done twice, what fails and what the table then holds."""

import math
from datetime import date
from pathlib import Path

import pandas as pd
import pytest
from fake_run import fake_run

from experiments.cli.early import check_study
from experiments.plan.attackers import planned
from experiments.plan.defended import called, strengths
from experiments.plan.setup import prepare
from experiments.plan.study import Study, expand, open_study, variants
from experiments.run import pipeline
from experiments.studies import runner, sweep
from fl_sim.config import Config, ConfigError, dump, parse
from fl_sim.runs import RunFolder, write_atomically, write_manifest

TINY = """
title = "A try"
cells = [
  {defenses = []},
  {defenses = [{name = "clip", max_norm = 1.0}, {name = "prune", keep = [0.5, 0.1]}]},
]
[grid]
seed = [0, 1]
[base.dataset]
users = 2
photos = 2
image_size = 32
[base.attacks.user_diffusion]
knowledge = ["none", "mechanism", "parameters"]
[base.attacks.prior_only]
"""


@pytest.fixture
def study(tmp_path: Path) -> Study:
    (tmp_path / "try.toml").write_text(TINY)
    return open_study(str(tmp_path / "try.toml"))[1]


@pytest.fixture
def worlds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cells that were run, in order; a cell leaves what a finished run does, `prune-keep_0.1` of seed 1 fails."""
    ran: list[str] = []

    def complete(config: Config, folder: RunFolder, *rest: object) -> pipeline.Outcome:
        ran.append(folder.name)
        if folder.name.endswith("keep_0.1-1"):
            raise RuntimeError("out\nof memory")
        made = fake_run(folder.root, users=2, rounds=2, photos=2)
        table = pd.read_parquet(made.leakage).query("attack == 'user_diffusion'")
        labels = {label: settings.get("knowledge", "none") for label, settings in planned(config).attacks.items()}
        more = [table.assign(attack=label, knowledge=labels[label]) for label in labels if label != "prior_only"]
        pd.concat(more, ignore_index=True).assign(seed=config.seed).to_parquet(made.leakage)
        made.manifest.unlink()
        write_manifest(made, threat_model=pipeline.threat_model(prepare(config)))
        made.report.write_text("done")
        return pipeline.Outcome(table, made.report)

    monkeypatch.setattr(pipeline, "complete", complete)
    monkeypatch.setattr(pipeline, "finished", lambda config, folder: folder.report.exists())
    monkeypatch.setattr(runner, "preflight", lambda config, note: note("once"))
    return ran


def run(study: Study, runs: Path) -> tuple[runner.Outcome, list[tuple[int, int]], list[str]]:
    seen: list[tuple[int, int]] = []
    told: list[str] = []

    def progress(stage: str, done: int, total: int) -> None:
        seen.append((done, total))

    return (
        runner.run("try", study, runs, "sweep", sweep.rows, "local", progress, told.append, lambda line: None),
        seen,
        told,
    )


@pytest.mark.usefixtures("worlds")
def test_it_says_what_is_left_and_how_each_cell_ended(study: Study, tmp_path: Path) -> None:
    said: list[str] = []
    quiet = lambda *progress: None  # noqa: E731
    runner.run("try", study, tmp_path, "sweep", sweep.rows, "local", quiet, quiet, said.append)
    assert said[0].startswith("0 of 6 cells are finished; left: none-0, none-1, clip+prune-keep_0.5-0")
    assert len(said) == 7
    assert said[1].startswith("none-0 names ")
    assert " of 2 users" in said[1]
    assert "; 5 left, about 0 min" in said[1]
    assert said[6].startswith("clip+prune-keep_0.1-1 failed: RuntimeError: out of memory; 0 left")


def test_a_list_of_strengths_is_a_run_each_and_cells_are_called_by_what_differs(study: Study) -> None:
    cells = expand("try", study)
    assert [cell.name for cell in cells] == [
        "none-0", "none-1", "clip+prune-keep_0.5-0", "clip+prune-keep_0.5-1", "clip+prune-keep_0.1-0",
        "clip+prune-keep_0.1-1",
    ]  # fmt: skip
    assert cells[4].config.defenses == [{"name": "clip", "max_norm": 1.0}, {"name": "prune", "keep": 0.1}]
    assert cells[4].keys == {"defense": "clip+prune", "strength": "keep 0.1", "seed": 0}
    assert cells[4].config.name == "try/clip+prune-keep_0.1-0"


def test_a_level_of_knowledge_may_be_varied_like_any_setting_and_one_that_there_is_gets_no_second_label(
    study: Study,
) -> None:
    levels = {"user_diffusion": {"knowledge": ["none", "mechanism", "parameters"]}}
    attacks = {"user_diffusion": {}, "prior_only": {}}
    varied = study.model_copy(update={"vary": levels, "base": {**study.base, "attacks": attacks}})
    labels = [variant.label for variant in variants(varied)]
    assert labels == [
        "user_diffusion",
        "user_diffusion-knowledge-mechanism",
        "prior_only",
    ]  # the others are the default
    known = expand("try", varied)[0].config.attacks["user_diffusion-knowledge-mechanism"]
    assert known == {"name": "user_diffusion", "knowledge": "mechanism"}
    defended = planned(expand("try", varied)[2].config)
    assert {label: table.get("knowledge") for label, table in defended.attacks.items()} == {
        "user_diffusion": "parameters", "user_diffusion-none": "none",
        "user_diffusion-knowledge-mechanism": "mechanism", "prior_only": None,
    }  # fmt: skip


def test_several_lists_of_strengths_in_one_cell_are_refused() -> None:
    chain = [{"name": "clip", "max_norm": [1.0, 2.0]}, {"name": "prune", "keep": [0.1, 0.2]}]
    with pytest.raises(ConfigError, match=r"clip.max_norm and prune.keep"):
        strengths({"defenses": chain})
    assert strengths({"dataset.users": 3}) == [{"dataset.users": 3}]


def test_the_protocol_defends_too() -> None:
    protocol = {"differential_privacy": "server_fixed", "clipping_norm": 0.5}
    configs = [parse(Config, {"protocol": {**protocol, "noise_multiplier": z}}) for z in (1.0, 2.0)]
    configs.append(parse(Config, {"protocol": {"secure_aggregation": 4}}))
    assert called(configs) == [
        ("dp_server_fixed", "noise_multiplier 1.0"), ("dp_server_fixed", "noise_multiplier 2.0"),
        ("secure_aggregation", ""),
    ]  # fmt: skip


def test_a_failed_cell_is_named_the_others_go_on_and_what_is_finished_is_not_run_again(
    study: Study, tmp_path: Path, worlds: list[str]
) -> None:
    done, seen, told = run(study, tmp_path)
    assert len(worlds) == 6
    assert done.problems == ["clip+prune-keep_0.1-1: RuntimeError: out of memory"]
    assert seen == [(number, 6) for number in range(7)]
    assert told == ["once"]
    worlds.clear()
    again, seen, _ = run(study, tmp_path)
    assert worlds == ["clip+prune-keep_0.1-1"]
    assert seen == [(5, 6), (6, 6)]
    assert len(again.problems) == 1
    pd.testing.assert_frame_equal(done.table, again.table)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("base.dataset.photos=3", "dataset.photos was 2, now it is 3"),
        ("base.attacks.user_diffusion.steps=5", "attacks.user_diffusion.steps was 100, now it is 5"),
    ],
)
def test_another_config_in_the_folder_is_refused_and_all_stays_as_it_was(
    study: Study, tmp_path: Path, override: str, told: str
) -> None:
    cell = expand("try", study)[0]
    write_atomically(tmp_path / "try" / cell.name / "config.toml", dump(runner._on_one_cpu(cell).config).encode())
    write_atomically(tmp_path / "try" / "sweep.parquet", b"what was found")
    other = open_study(str(tmp_path / "try.toml"), [override])[1]
    with pytest.raises(ConfigError, match=rf"{told}; give --runs another folder"):
        run(other, tmp_path)
    assert (tmp_path / "try" / "sweep.parquet").read_bytes() == b"what was found"
    assert not (tmp_path / "try" / "sweep.toml").exists()


def test_a_default_that_is_spelt_out_is_no_other_config(study: Study, tmp_path: Path) -> None:
    cell = expand("try", study)[0]
    write_atomically(tmp_path / "try" / cell.name / "config.toml", dump(cell.config).encode())
    other = open_study(str(tmp_path / "try.toml"), ["base.attacks.user_diffusion.steps=100"])[1]
    runner._refuse_another(expand("try", other)[0], tmp_path / "try")


def test_the_table_has_every_measurement_of_every_cell_once(study: Study, tmp_path: Path, worlds: list[str]) -> None:
    table = run(study, tmp_path)[0].table
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "try" / "sweep.parquet"), table)
    keys = ["cell", "seed", "round", "user", "label", "arm"]
    assert len(table) == len(table[keys].drop_duplicates())
    assert set(table["cell"]) == {cell.name for cell in expand("try", study)} - {"clip+prune-keep_0.1-1"}
    defended = table[table["defense"] != "none"]
    assert dict(zip(defended["label"], defended["knowledge"], strict=True)) == {
        "user_diffusion": "parameters", "user_diffusion-mechanism": "mechanism", "user_diffusion-none": "none",
    }  # fmt: skip
    assert set(table["known_to_nobody"]) == {""}
    bare = table[table["defense"] == "none"]
    assert dict(zip(bare["label"], bare["knowledge"], strict=True)) == {"user_diffusion": "none"}
    assert set(table["attack"]) == {"user_diffusion"}
    accuracy = pd.read_parquet(tmp_path / "try" / "none-0" / "rounds.parquet")["accuracy"].iloc[-1]
    assert set(table["accuracy"]) == {accuracy}
    assert set(table.loc[table["defense"] == "clip+prune", "strength"]) == {"keep 0.5", "keep 0.1"}
    assert table["epsilon"].isna().all()


def test_a_cell_takes_one_cpu_whatever_the_base_says(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Config] = []
    monkeypatch.setattr(runner, "preflight", lambda setup, note: seen.append(setup.config))
    monkeypatch.setattr(runner, "run_cell", lambda config, folder: ["not run"])
    assert run(study, tmp_path)[0].table.empty
    assert {config.federation.engine for config in seen} == {"inprocess"}
    assert {config.workers.backend for config in seen} == {"inprocess"}


def test_what_a_frontier_has_no_place_for_is_refused_with_what_to_do(study: Study) -> None:
    sweep.check("try", study)
    wider = study.model_copy(update={"grid": {**study.grid, "dataset": {"photos": [2, 4]}}})
    with pytest.raises(ConfigError, match=r"the sweep varies dataset.photos.*-o base.dataset.photos=VALUE"):
        sweep.check("try", wider)


@pytest.mark.parametrize("norm", [math.nan, date(2026, 1, 1)])
def test_a_defense_s_setting_that_no_config_holds_is_told_in_a_sentence(tmp_path: Path, norm: object) -> None:
    told = "nan" if isinstance(norm, float) else str(norm)
    (tmp_path / "try.toml").write_text(TINY.replace("max_norm = 1.0", f"max_norm = {told}"))
    with pytest.raises(ConfigError, match=r"defenses"):
        check_study(str(tmp_path / "try.toml"), [])
