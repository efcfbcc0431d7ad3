"""Files of a run by way of a URL: the job done far away is the job done here, and nothing of it is left anywhere."""

import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from dispatching import capture, make_run, results, third_party

from attacker.workers.jobs import Job, Workbench
from attacker.workers.remote_storage import Staging, check, downloaded, upload_results
from fl_sim.config import ConfigError
from fl_sim.runs import RunFolder

JOBS = [Job("a", 1, (0, 1, 2)), Job("a", 2, (3, 4))]


@pytest.fixture(autouse=True)
def _plugins(tmp_path: Path) -> Iterator[None]:
    with third_party(tmp_path / "plugins"):
        yield


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this process puts temporary files, and nobody else does."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def with_history(root: Path) -> RunFolder:
    """A run whose attack `a` looks at two rounds of a user; nothing captured yet."""
    run = make_run(root)
    run.config.write_text(run.config.read_text().replace("[attacks.a]", "[attacks.a]\n        rounds = 2"))
    return run


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_a_job_done_from_copies_is_the_job_done_in_the_run_folder(
    tmp_path: Path, temporary: Path, protocol: str
) -> None:
    here, away = with_history(tmp_path / "here"), with_history(tmp_path / "away")
    share = f"{protocol}://{tmp_path}/share"
    staging = Staging(away.root, share)
    bench = Workbench(Path("/nowhere"))
    for job in JOBS:  # the second one needs the captures of the first round too
        capture(here, job.server_round)
        capture(away, job.server_round)
        Workbench(here.root).perform(job)
        with downloaded(staging.url, staging.stage(job)) as bench.run:
            bench.perform(job)
            upload_results(staging.url, bench.run, job)
        assert list(temporary.iterdir()) == []
        staging.download_results(job)
    assert results(away) == results(here)
    assert len(results(here)) == 5
    staging.close()
    assert fsspec.filesystem(protocol).find(f"{tmp_path}/share") == []


def test_copies_are_for_their_owner_alone(tmp_path: Path, temporary: Path) -> None:
    run = make_run(tmp_path / "run")
    capture(run, 1)
    share = tmp_path / "share"
    before = os.umask(0o022)
    try:
        staging = Staging(run.root, share.as_uri())
        names = staging.stage(JOBS[0])
        with downloaded(staging.url, names):
            copies = [path for folder in (share, temporary) for path in folder.rglob("*")]
            modes = {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in [share, *copies]}
    finally:
        os.umask(before)
    assert modes == {(True, 0o700), (False, 0o600)}


def test_a_capture_is_staged_once_however_many_jobs_read_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    capture(run, 1)
    share = tmp_path / "share"
    staging = Staging(run.root, share.as_uri())
    staging.stage(JOBS[0])
    times = {path: path.stat().st_mtime_ns for path in share.rglob("*.safetensors")}
    assert len(times) == 4  # the model and three updates: nobody else's
    staging.stage(Job("b", 1, (0, 1, 2)))
    assert times == {path: path.stat().st_mtime_ns for path in share.rglob("*.safetensors")}


def test_two_dispatches_of_one_name_do_not_meet(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    one, other = (Staging(run.root, f"file://{tmp_path}/share") for _ in range(2))
    one.stage_common()
    other.stage_common()
    one.close()
    with downloaded(other.url, other.stage_common()) as there:
        assert there.config.read_bytes() == run.config.read_bytes()


@pytest.mark.parametrize(
    ("storage", "why"),
    [
        ("share", "no URL"),
        ("foo://share", "Protocol not known: foo"),
        ("file:///proc/share", "cannot be written and read"),
        ("s3://bucket/share", "Install s3fs"),
    ],
)
def test_storage_that_cannot_work_is_told_in_one_sentence(
    storage: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)  # not installed, should it be
    with pytest.raises(ConfigError, match=why) as told:
        check(storage)
    assert str(told.value).startswith(f"workers.storage is {storage!r}")
    assert "\n" not in str(told.value)
