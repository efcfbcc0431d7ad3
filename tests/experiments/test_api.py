"""`import fl_sim` as a notebook uses it."""

import inspect
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
from fake_run import fake_run

import fl_sim
from experiments.run import pipeline
from experiments.show.report import write_report
from fl_sim.config import Config, ConfigError, load

SMALL = {
    "dataset": {"users": 2, "photos": 2, "image_size": 32},
    "federation": {"rounds": 1, "engine": "inprocess"},
    "workers": {"backend": "inprocess"},
}
FAST = {"inverting_gradients": {"steps": 2}, "prior_only": {}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> fl_sim.Result:
    run = fake_run(tmp_path_factory.mktemp("api") / "made", users=5)
    write_report(run)
    return fl_sim.load(run.root)


def test_importing_it_loads_nothing_heavy() -> None:
    heavy = "{'pandas', 'torch', 'pydantic', 'experiments'} & set(sys.modules)"
    code = f"import sys, fl_sim; fl_sim.__version__; dir(fl_sim); print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_all_that_is_offered_is_there_and_documented() -> None:
    for name in set(fl_sim.__all__) - {"__version__"}:
        assert inspect.getdoc(getattr(fl_sim, name)), name
    assert fl_sim.__version__ == version("fl-sim")
    assert fl_sim.ConfigError is ConfigError
    assert set(fl_sim.__all__) <= set(dir(fl_sim))
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        fl_sim.runn  # noqa: B018


def test_a_result_reads_what_the_run_left(finished: fl_sim.Result) -> None:
    assert len(finished.leakage) == len(pd.read_parquet(finished.folder / "leakage.parquet"))
    assert list(finished.rounds["round"]) == [1, 2]
    assert finished.report == finished.folder / "report.html"
    assert finished.verdict.startswith("From one update, user_diffusion")
    assert finished.verdict in repr(finished)
    assert finished.problems == ()


def test_faces_are_a_row_of_the_photo_and_each_attack(finished: fl_sim.Result) -> None:
    row = finished.faces(1)
    other = finished.faces(1, server_round=2)
    assert row.size == other.size
    assert row.width > 4 * 128 > row.height  # a photo, two attacks, the prior alone
    assert row.tobytes() != other.tobytes()
    with pytest.raises(ConfigError, match="user 9 was not attacked"):
        finished.faces(9)
    with pytest.raises(ConfigError, match=r"not attacked in round 3 .* rounds \[1, 2\]"):
        finished.faces(1, server_round=3)


def test_in_a_notebook_it_is_short(finished: fl_sim.Result) -> None:
    page = finished._repr_html_()
    assert finished.verdict in page
    assert page.count("<img") == 3
    assert page.count("<tr>") <= 9
    assert len(page) < 500_000


def test_a_photo_of_a_real_person_is_shown_only_if_asked_for(
    finished: fl_sim.Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_photo = finished.faces(0)
    real = load(finished.folder / "config.toml", ["dataset.name=folder"])
    monkeypatch.setattr("experiments.show.report.run_data.load", lambda path: real)
    assert finished.faces(0).width < with_photo.width
    opened = []
    monkeypatch.setattr("experiments.show.result.open_dataset", lambda *given: opened.append(given))
    finished._repr_html_()
    assert opened == []


def test_attacks_that_failed_are_told(finished: fl_sim.Result) -> None:
    note = finished.folder / "reconstructions" / "failed.json"
    note.write_text(json.dumps([{"label": "user_diffusion", "round": 1, "users": [2], "reason": "out of memory"}]))
    try:
        result = fl_sim.load(finished.folder)
        assert result.problems == ("attack 'user_diffusion', round 1, users 2: out of memory",)
        assert "out of memory" in repr(result)
        assert "out of memory" in result._repr_html_()
    finally:
        note.unlink()


def test_a_folder_that_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run folder"):
        fl_sim.load(tmp_path)
    with pytest.raises(ConfigError, match="not finished"):
        fl_sim.load(fake_run(tmp_path / "half", users=1, rounds=1).root)


def test_a_mistake_is_told_before_anything_starts(tmp_path: Path) -> None:
    for mistake in ({"datset": {}}, {"dataset": {"usres": 2}}, {"dataset": 3}, {"defenses": [{"name": "clipp"}]}):
        with pytest.raises(ConfigError):
            fl_sim.run(runs=tmp_path, **mistake)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_run_in_python_is_the_run_of_the_command(tmp_path: Path) -> None:
    file = tmp_path / "base.toml"
    file.write_text('name = "of_the_file"\nseed = 3\n[dataset]\nusers = 5\nphotos = 2\n')
    made = fl_sim.run("name=mine", config=file, runs=tmp_path / "runs", attacks=FAST, **SMALL)
    assert made.folder == tmp_path / "runs" / "mine"  # an override lies over the file
    config: Config = load(made.folder / "config.toml")
    assert (config.seed, config.dataset.users, config.dataset.photos) == (3, 2, 2)  # and so does a section, key by key
    assert set(made.leakage["user"]) == {0, 1}
    assert made.report.is_file()
    stamp = made.report.stat().st_mtime_ns
    again = fl_sim.run("name=mine", config=file, runs=tmp_path / "runs", attacks=FAST, **SMALL)
    assert again == made
    assert made.report.stat().st_mtime_ns == stamp  # what is there in full is read


def test_a_failed_attack_is_warned_of(finished: fl_sim.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = pipeline.Outcome(pd.DataFrame(), finished.report, ["attack 'dlg', round 1, users 0: out of memory"])
    monkeypatch.setattr(pipeline, "complete", lambda *given: outcome)
    with pytest.warns(RuntimeWarning, match="out of memory"):
        result = fl_sim.run(name="failing", runs=tmp_path)
    assert result.problems == tuple(outcome.problems)
