"""Studies: what a file asks for, what is not done twice, and the table that comes out."""

from pathlib import Path

import pandas as pd
import pytest
from fake_run import fake_run

from experiments.plan.setup import prepare
from experiments.plan.study import Study, expand, open_study, shipped, variants
from experiments.run import pipeline
from experiments.studies import results, runner
from experiments.studies.__main__ import main
from fl_sim.config import Config, ConfigError, dump, load
from fl_sim.runs import RunFolder

TINY = """
title = "A try"
axis = "dataset.photos"
[grid]
dataset.photos = [2, 5]
threat_model.labels = ["known", "recovered"]
[base.attacks.user_diffusion]
[base.attacks.inverting_gradients]
[vary.inverting_gradients]
steps = [25, 100]
"""


@pytest.fixture
def study(tmp_path: Path) -> Study:
    (tmp_path / "try.toml").write_text(TINY)
    return open_study(str(tmp_path / "try.toml"))[1]


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_study_asks_for_runs_that_can_be_configured(name: str) -> None:
    title, study = open_study(name)
    cells = expand(title, study)
    assert len({cell.name for cell in cells}) == len(cells) >= 1
    assert any(settings.get("name") == "prior_only" for settings in cells[0].config.attacks.values())


def test_the_grid_is_every_combination_and_each_cell_differs_in_it_alone(study: Study) -> None:
    cells = expand("try", study)
    assert [(c.config.dataset.photos, c.config.threat_model.labels) for c in cells] == [
        (2, "known"), (2, "recovered"), (5, "known"), (5, "recovered"),
    ]  # fmt: skip
    assert {cell.config.federation for cell in cells} == {Config().federation}


def test_one_setting_at_a_time_is_an_attack_more_and_its_present_value_is_not(study: Study) -> None:
    labels = [variant.label for variant in variants(study)]
    assert labels == ["user_diffusion", "inverting_gradients", "inverting_gradients-steps-25"]  # 100 is the default
    config = expand("try", study)[0].config
    assert config.attacks["inverting_gradients-steps-25"] == {"name": "inverting_gradients", "steps": 25}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("tittle = 1", "unknown config key 'tittle'; did you mean 'title'"),
        ("dataset.users=3", "unknown config key 'dataset.users'; did you mean 'base.dataset.users'"),
        ("datset.users=3", "unknown config key 'datset.users'; did you mean 'base.dataset.users'"),
        ("base.dataset.usrs=3", "unknown config key 'base.dataset.usrs'; did you mean 'base.dataset.users'"),
        ("grid.dataset.foto=[1]", "unknown config key 'dataset.foto'"),
        ("grid.dataset.photos=3", "give a list"),
        ("vary.inverting_gradients.step=[3]", "attacks.inverting_gradients-step-3.step"),
        ("vary.dlg.steps=[3]", r"add \[base.attacks.dlg\]"),
        ("axis=dataset.users", "nothing varies"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(tmp_path: Path, change: str, says: str) -> None:
    (tmp_path / "try.toml").write_text(TINY)
    with pytest.raises(ConfigError, match=says):
        expand(*open_study(str(tmp_path / "try.toml"), [change.replace(" = ", "=")]))


def test_a_study_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(ConfigError, match="batch_size"):
        open_study("no_such_study")


@pytest.mark.slow
def test_the_table_has_one_row_a_run_attack_and_arm_and_is_drawn(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_parquet(fake_run(tmp_path / "made", users=2, photos=2).leakage)
    table = pd.concat([table, table[table["attack"] == "inverting_gradients"].assign(attack="left over")])

    def complete(config: Config, folder: RunFolder, *rest: object) -> pipeline.Outcome:
        folder.root.mkdir(parents=True)
        table.to_parquet(folder.leakage)
        return pipeline.Outcome(table, folder.report)

    monkeypatch.setattr(pipeline, "complete", complete)
    monkeypatch.setattr(pipeline, "finished", lambda config, folder: folder.leakage.exists())
    monkeypatch.setattr(runner, "preflight", lambda config, note: note("once"))
    assert main([str(tmp_path / "try.toml"), "--runs", str(tmp_path)]) == 0
    assert capsys.readouterr().err.count("note: once") == 1
    found = pd.read_parquet(tmp_path / "try" / "study.parquet")
    assert set(found["label"]) == {"user_diffusion", "inverting_gradients"}  # what another study left is not in it
    keys = ["dataset.photos", "threat_model.labels", "label", "arm"]
    assert len(found) == 4 * 2 * table["arm"].nunique() == len(found[keys].drop_duplicates())
    expected = table[(table["attack"] == "user_diffusion") & (table["arm"] == "attack")]["facial_similarity"].mean()
    rows = found[(found["label"] == "user_diffusion") & (found["arm"] == "attack")]
    assert rows["facial_similarity"].to_numpy() == pytest.approx(expected)
    assert (rows["facial_similarity_low"] <= rows["facial_similarity_high"]).all()
    assert len(pd.read_csv(tmp_path / "try" / "study.csv")) == len(found)
    assert (tmp_path / "try" / "study.png").read_bytes().startswith(b"\x89PNG")
    by_round = results.long_form(expand("try", study)[0], variants(study), table, by_round=True)
    assert set(by_round["round"]) == {1, 2}


def test_what_is_whole_is_not_done_again_and_what_is_not_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fake_run(tmp_path / "made", users=2, rounds=1, photos=2)
    config = load(run.config)
    run.config.write_text(dump(config))
    run.report.write_text("the report")
    done: list[str] = []
    monkeypatch.setattr(pipeline, "run", lambda *given: done.append("run"))
    monkeypatch.setattr(pipeline, "attack", lambda *given: done.append("attack"))

    def complete(other: Config, folder: RunFolder = run) -> list[str]:
        done.clear()
        pipeline.complete(other, folder, lambda stage, count, total: None, lambda sentence: None)
        return list(done)

    assert complete(config) == []
    more = config.model_copy(update={"attacks": {**config.attacks, "more": {"name": "inverting_gradients"}}})
    assert complete(more) == ["run"]  # not all rounds are captured
    (run.captures / "index.jsonl").write_text('{"round": 1, "status": "finished"}\n')
    assert complete(more) == ["attack"]
    assert complete(config.model_copy(update={"seed": 1})) == ["run"]  # which refuses it
    run.report.unlink()  # an attack was begun and not finished
    assert complete(config) == ["attack"]
    assert complete(config, RunFolder(tmp_path / "new")) == ["run"]


def test_rounds_that_never_come_cannot_be_attacked(tmp_path: Path) -> None:
    (tmp_path / "try.toml").write_text('title = "t"\n[base.workers]\nattack_rounds = [9]\n')
    assert main([str(tmp_path / "try.toml"), "--runs", str(tmp_path)]) == 2
    with pytest.raises(ConfigError, match=r"round 9, but federation.rounds is 3"):
        pipeline.preflight(prepare(expand(*open_study(str(tmp_path / "try.toml")))[0].config), lambda sentence: None)


def test_real_faces_need_their_own_prior_and_judges(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["batch_size", "--faces", "/nowhere"]) == 2
    assert "--faces without --embedder and --prior" in capsys.readouterr().err
