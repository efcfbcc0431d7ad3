"""Cells that differ in attacks and judges alone: one trains, and each ends as if it had been run by itself."""

from pathlib import Path

import pandas as pd
import pytest
import tomli_w
from tiny_faces import tiny_config

from attacker.capture.store import CaptureStore
from experiments.plan.setup import prepare
from experiments.plan.study import Cell, open_study
from experiments.run import pipeline
from experiments.run.federation import run_federation
from experiments.studies import runner, same_captures, sweep
from fl_sim.config import Config, dump
from fl_sim.runs import RunFolder


def quiet(*told: object) -> None:
    pass


def test_only_what_the_users_send_alike_is_the_same() -> None:
    one = tiny_config(attacks={"dlg": {"steps": 1}})
    alike = [{"attacks": {"dlg": {"steps": 2}}}, {"leakage": {"gallery_size": 2}}, {"name": "other"}]
    unlike = [{"seed": 1}, {"defenses": [{"name": "sign"}]}, {"threat_model": {"labels": "known"}}]
    unlike += [{"workers": {"attack_rounds": [1], "keep": "attacked"}}, {"federation": {"rounds": 3}}]
    assert all(same_captures.same(one, tiny_config(**change)) for change in alike)
    assert not any(same_captures.same(one, tiny_config(**change)) for change in unlike)
    configs = [one, tiny_config(seed=1), tiny_config(name="other"), tiny_config(seed=1, name="more")]
    cells = [Cell(name, {}, config) for name, config in zip("abcd", configs, strict=True)]
    assert same_captures.firsts(cells) == {"a": "a", "b": "b", "c": "a", "d": "b"}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    base = tiny_config(leakage={"attributes": "none", "gallery_size": 8}).model_dump(mode="json", exclude_none=True)
    base["attacks"] = {"dlg": {"steps": 1}}
    content = {
        "title": "t",
        "base": base,
        "grid": {"attacks": {"dlg": {"layer_norm_power": [0.0, 1.0]}}},
    }
    path = tmp_path / "tiny.toml"
    path.write_text(tomli_w.dumps(content))
    return path


@pytest.mark.slow
def test_cells_train_once_and_end_as_if_run_alone(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs: list[Config] = []
    run_cell = runner.run_cell

    def noted(config: Config, folder: RunFolder) -> list[str]:
        configs.append(config)
        return run_cell(config, folder)

    monkeypatch.setattr(runner, "run_cell", noted)
    name, content = open_study(str(study))
    outcome = runner.run(name, content, tmp_path, "sweep", sweep.rows, "local", quiet, quiet, quiet)
    assert outcome.problems == []
    runs = [RunFolder(tmp_path / config.name) for config in configs]
    trained = ['"source": "server"' in run.log.read_text() for run in runs]
    assert trained == [True, False]
    for config, run in zip(configs, runs, strict=True):
        assert pipeline.finished(config, run)
        assert CaptureStore(run).finished_rounds() == [1, 2]
        alone = RunFolder(tmp_path / "alone" / config.name)
        assert pipeline.run(config, alone, quiet, quiet).problems == []
        tables = [pd.read_parquet(one.leakage).drop(columns="seconds") for one in (run, alone)]
        pd.testing.assert_frame_equal(*tables, check_exact=True)
        kept = [{path.relative_to(one.captures): path.read_bytes() for path in one.captures.rglob("*.safetensors")}
                for one in (run, alone)]  # fmt: skip
        assert kept[0] == kept[1]


def test_a_lending_that_was_stopped_is_taken_up(tmp_path: Path) -> None:
    cells = [Cell(name, {}, tiny_config(name=name, attacks={"dlg": {"steps": n}})) for n, name in enumerate("ab", 1)]
    lender, run = RunFolder(tmp_path / "a"), RunFolder(tmp_path / "b")
    run_federation(prepare(cells[0].config), lender)
    lender.config.write_text(dump(cells[0].config))
    same_captures.lend(cells[1], cells, tmp_path)
    whole = {path.relative_to(run.root): path.read_bytes() for path in run.root.rglob("*") if path.is_file()}
    run.config.unlink()  # it is written last
    run.capture(1, 0).unlink()
    run.capture(1, 0).write_bytes(b"half")
    same_captures.lend(cells[1], cells, tmp_path)
    assert whole == {path.relative_to(run.root): path.read_bytes() for path in run.root.rglob("*") if path.is_file()}
    assert CaptureStore(run).finished_rounds() == CaptureStore(lender).finished_rounds()
    CaptureStore(lender).observation(1, 0)  # the lender's own file is as it was
