"""`fl-sim report` reads what was said, as long as nothing has changed that it was said of."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from command_line import fl_sim
from fake_run import fake_run

from experiments.run import pipeline
from experiments.show.answer import Answer, answer, keep, kept, made_of
from experiments.show.report import write_report
from experiments.show.report.run_data import read
from fl_sim.config import Leakage, load
from fl_sim.runs import RunFolder

JUDGE = "judge.onnx"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Answer]:
    folder = fake_run(tmp_path_factory.mktemp("runs") / "fake", users=2, rounds=1)
    write_report(folder)
    return folder, answer(read(folder))


@pytest.fixture
def run(finished: tuple[RunFolder, Answer], tmp_path: Path) -> RunFolder:
    folder, said = finished
    copy = RunFolder(shutil.copytree(folder.root, tmp_path / "fake"))
    (tmp_path / JUDGE).write_bytes(b"weights")
    keep(copy, said, made_of(copy, Leakage(embedder="onnx", embedder_path=tmp_path / JUDGE)), False)
    return copy


def shake(path: Path) -> None:
    """Another content of the same size, as a restored file may have."""
    before = path.stat()
    path.write_bytes(bytes(before.st_size))
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns + 1))


CHANGES: dict[str, Callable[[RunFolder], object]] = {
    "a capture": lambda run: shake(run.captures / "index.jsonl"),
    "another capture": lambda run: run.capture(2, 0).parent.mkdir() or run.capture(2, 0).touch(),
    "a reconstruction": lambda run: shake(run.reconstruction("user_diffusion", 1, 0)),
    "a reconstruction less": lambda run: run.reconstruction("user_diffusion", 1, 0).unlink(),
    "a setting of the judge": lambda run: run.config.write_text(run.config.read_text() + "[leakage]\n"),
    "the judge": lambda run: shake(run.root.parent / JUDGE),
    "no judge": lambda run: (run.root.parent / JUDGE).unlink(),
    "a damaged table": lambda run: shake(run.leakage),
    "no table": lambda run: run.leakage.unlink(),
    "no page": lambda run: run.report.unlink(),
    "a damaged answer": lambda run: run.answer.write_text("{"),
    "an answer of another version": lambda run: run.answer.write_text('{"text": ""}'),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_was_said_holds_until_something_changes(run: RunFolder, change: Callable[[RunFolder], object]) -> None:
    found = kept(run)
    assert found is not None
    change(run)
    assert kept(run) is None


def test_logs_and_locks_and_another_place_are_no_change(run: RunFolder) -> None:
    run.log.write_text("{}\n")
    (run.captures / "lock").touch()
    assert kept(RunFolder(run.root.rename(run.root.parent / "moved"))) is not None


def test_reading_it_needs_neither_torch_nor_pandas(run: RunFolder) -> None:
    code = (
        "import sys; from experiments.cli import app; sys.argv = ['fl-sim', 'report', sys.argv[1], '--json']\n"
        "try: app.main()\n"
        "finally: print(sorted({'torch', 'pandas', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run.root)], capture_output=True, text=True, check=True)
    figures, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    found = kept(run)
    assert found is not None
    assert json.loads(figures) == found[0].figures
    assert figures.count('"verdict"') == 1


def test_the_command_measures_only_what_has_changed_or_when_asked(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def judge(folder: RunFolder, *rest: object) -> tuple[pd.DataFrame, Path, Answer]:
        measured.append(rest[-1])
        return pd.DataFrame(), folder.report, Answer({}, "")

    monkeypatch.setattr(pipeline, "judge", judge)
    assert fl_sim("report", run.root)[0] == 0
    assert not measured
    assert fl_sim("report", run.root, "--again")[0] == 0
    run.leakage.unlink()
    assert fl_sim("report", run.root, "--with-private-photos")[0] == 0
    assert measured == [False, True]


def test_private_photos_leave_the_page_again(run: RunFolder) -> None:
    for asked in (True, False):
        assert fl_sim("report", run.root, *["--with-private-photos"] * asked)[0] == 0
        found = kept(run)
        assert found is not None
        assert found[1] == asked
    assert load(run.config)
