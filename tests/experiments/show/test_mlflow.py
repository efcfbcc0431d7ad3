"""What MLflow is given is what the tables hold, and no face unless it is asked for."""

import math
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
from command_line import fl_sim, sentence
from fake_run import fake_run

from experiments.show import mlflow as tracking
from experiments.show.report import write_report
from experiments.statistics.aggregate import aggregate
from fl_sim.config import ConfigError
from fl_sim.runs import RunFolder

needs_mlflow = pytest.mark.skipif(find_spec("mlflow") is None, reason="no mlflow here: pip install mlflow-skinny")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = fake_run(tmp_path_factory.mktemp("mlflow") / "run", users=2, rounds=2)
    table = pd.read_parquet(run.leakage)
    table.assign(capture=table["user"]).to_parquet(run.leakage)
    write_report(run)
    return run


def stored(run: RunFolder, folder: Path, faces: bool):
    """The client, the run as a file store gives it back, and the folder of its artifacts."""
    client = tracking.connect(f"file:{folder}")
    found = client.get_run(tracking.write(run, client, faces))
    return client, found, Path(found.info.artifact_uri.removeprefix("file://"))


@needs_mlflow
def test_parameters_are_the_config_and_metrics_the_tables(run: RunFolder, tmp_path: Path) -> None:
    client, found, _ = stored(run, tmp_path / "store", faces=False)
    assert found.info.status == "FINISHED"
    assert found.data.params["dataset.users"] == "2"
    assert found.data.params["defenses"] == "[]"
    rounds = aggregate(pd.read_parquet(run.leakage))["rounds"]
    for end, suffix in {"mean": "", "low": "_low", "high": "_high"}.items():
        key = f"user_diffusion/attack/rank1{suffix}"
        history = {point.step: point.value for point in client.get_metric_history(found.info.run_id, key)}
        expected = {int(number): arms["user_diffusion"]["attack"]["rank1"][end] for number, arms in rounds.items()}
        assert history == expected
    accuracy = pd.read_parquet(run.rounds)["accuracy"].iloc[-1]
    assert found.data.metrics["training/accuracy"] == accuracy
    assert all(math.isfinite(value) for value in found.data.metrics.values())


@needs_mlflow
def test_no_face_is_written_unless_it_is_asked_for(run: RunFolder, tmp_path: Path) -> None:
    _, _, without = stored(run, tmp_path / "store", faces=False)
    names = {str(path.relative_to(without)) for path in without.rglob("*") if path.is_file()}
    assert names == {"config.toml", "manifest.json", "leakage.parquet", "rounds.parquet", "report.html"}
    assert "data:image/png" in run.report.read_text()
    assert "data:image/png" not in (without / "report.html").read_text()
    _, _, asked = stored(run, tmp_path / "store", faces=True)
    assert (asked / "report.html").read_text() == run.report.read_text()
    pictures = list((asked / "faces").rglob("*.png"))
    assert len(pictures) == 3 * 2 * 2  # attacks, rounds, users


@needs_mlflow
def test_the_store_is_for_its_owner_alone(run: RunFolder, tmp_path: Path) -> None:
    _, _, artifacts = stored(run, tmp_path / "store", faces=True)
    made = [
        tmp_path / "store",
        artifacts,
        artifacts / "report.html",
        *(artifacts / "faces").rglob("*"),
    ]  # tables are copied as they are
    assert {path.stat().st_mode & 0o077 for path in made} == {0}


@needs_mlflow
def test_an_address_that_is_none_is_told_before_anything_is_measured(run: RunFolder) -> None:
    with pytest.raises(ConfigError, match="give the address of an MLflow server"):
        tracking.connect("nonsense://x")


def test_pictures_of_any_kind_are_greyed() -> None:
    page = '<img src="data:image/webp;base64,AAAA+/=="><img src="data:image/svg+xml,x">'
    assert tracking.PICTURE.sub("GREY", page) == '<img src="GREY"><img src="data:image/svg+xml,x">'


def test_without_the_package_one_sentence_says_how_to_get_it(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    before = run.leakage.read_bytes()
    code, told = fl_sim("report", run.root, "--mlflow", f"file:{tmp_path}")
    assert code == 2
    assert "pip install 'fl-sim[mlflow]'" in sentence(told)
    assert run.leakage.read_bytes() == before


def test_faces_alone_are_refused(run: RunFolder) -> None:
    code, told = fl_sim("report", run.root, "--faces")
    assert code == 2
    assert "--mlflow" in sentence(told)
