"""`fl-sim watch`: the state of a run is what its folder says, whoever looks and whenever."""

import io
import json
import socket
import subprocess
import sys
import threading
import time

import pytest
import tomli_w
from command_line import fl_sim, sentence
from fake_run import fake_run
from rich.console import Console
from tiny_faces import tiny_config

from experiments.cli.commands.watch import draw
from experiments.run import pipeline
from experiments.run.watch import Watch
from fl_sim.log import Log
from fl_sim.runs import RunFolder


@pytest.fixture
def run(tmp_path):
    """A run of 3 rounds, of which 2 are trained and measured; its report is written, its log is not."""
    run = fake_run(tmp_path / "run")
    run.config.write_text(run.config.read_text().replace("rounds = 2", "rounds = 3"))
    run.report.touch()
    return run


def ended(run, jobs=0):
    with Log(run, "run").around(command="run", jobs=jobs):
        pass


def drawn(state, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(draw(state))
    return console.file.getvalue()


def job(number, label="a"):
    return {"label": label, "round": 1, "users": [number]}


def test_a_run_of_an_older_version_without_a_log_shows_its_rounds(run):
    state = Watch(run).look()
    assert (state.state, state.rounds, state.rounds_done, state.accepted, state.rejected) == ("finished", 3, 2, 3, 0)
    assert (state.seconds_per_round, state.jobs, state.silence, state.log) == (1.25, 0, None, [])
    assert "2 of 3, 1.2 s each" in drawn(state)


def test_looks_add_up_to_what_one_look_at_the_end_sees(run):
    dispatcher, worker, often = Log(run, "dispatcher"), Log(run, "worker"), Watch(run)
    with Log(run, "run").around(command="run", jobs=9):
        dispatcher("round", round=1, users=3, jobs=3, skipped=2)
        dispatcher("start", backend="local", workers=2)
        state = often.look()
        assert (state.state, state.jobs, state.done, state.queued, state.left) == ("running", 9, 2, 3, None)
        worker("started", **job(0))
        worker("started", **job(1))
        dispatcher("done", **job(0), seconds=4.0, queued=2)
        dispatcher("retry", "warning", **job(1), reason="worker died", attempt=2)
        worker("started", **job(1))
        state = often.look()
        assert (state.done, state.retried, state.queued) == (3, 1, 2)
        assert [one["users"] for one in state.under_way] == [[1]]
        assert state.left == max(1 * 1.25, 6 * 4.0 / 2)  # one round of 1.25 s; 6 jobs of 4 s on 2 workers
        assert "at it for 0.0 s" in drawn(state)
        with run.log.open("ab") as file:
            file.write(b'{"time": "cut off by a full disk\n"no line of ours"\n')
        dispatcher("failed", "error", **job(1), reason="RuntimeError: no", queued=1)
        dispatcher("done", **job(2, "b"), seconds=1.0, queued=0)
        state = often.look()
        assert (state.done, state.failed, state.queued, state.under_way) == (4, 1, 0, [])
        assert state.seconds_per_job == {"a": 4.0, "b": 1.0}
        dispatcher("end", done=2, failed=1)
    once, last = Watch(run).look(), often.look()
    assert (once.jobs, once.done, once.failed, once.retried) == (5, 4, 1, 1)
    assert {**vars(once), "silence": 0} == {**vars(last), "silence": 0}


def test_a_line_that_is_still_being_written_waits_for_its_end(run):
    watch = Watch(run)
    ended(run)
    text = run.log.read_bytes()
    run.log.write_bytes(text[:-20])
    assert [line["event"] for line in watch.look().log] == ["begin"]
    run.log.write_bytes(text)
    assert [line["event"] for line in watch.look().log] == ["begin", "end"]


def test_a_run_that_is_attacked_again_starts_its_counts_anew(run):
    watch = Watch(run)
    with Log(run, "run").around(command="run", jobs=1):
        Log(run, "dispatcher")("round", round=1, users=1, jobs=1, skipped=0)
        Log(run, "dispatcher")("failed", "error", **job(0), reason="no", queued=0)
        Log(run, "run")("problem", "error", reason="the dispatcher ended")
    state = watch.look()
    assert (state.state, state.reason, state.failed) == ("failed", "the dispatcher ended", 1)
    with Log(run, "run").around(command="attack", jobs=1):
        Log(run, "dispatcher")("round", round=1, users=1, jobs=1, skipped=0)
        assert watch.look().state == "running"
        Log(run, "dispatcher")("done", **job(0), seconds=1.0, queued=0)
        Log(run, "dispatcher")("end", done=1, failed=0)
    state = watch.look()
    assert (state.state, state.reason, state.done, state.failed) == ("finished", "", 1, 0)


def test_failed_jobs_of_a_run_that_has_ended_are_a_failure_until_mended(run):
    ended(run)
    note = run.reconstructions / "failed.json"
    note.write_text("[]")
    assert Watch(run).look().state == "failed"
    note.unlink()
    assert Watch(run).look().state == "finished"


@pytest.mark.parametrize(
    ("here", "state"), [(True, "stopped"), (False, "running")], ids=["this machine", "another machine"]
)
def test_a_killed_process_is_known_on_its_own_machine_alone(run, here, state):
    run.report.unlink()
    with subprocess.Popen(["sleep", "60"]) as process:
        host = socket.gethostname() if here else "elsewhere"
        Log(run, "run")("begin", command="run", jobs=0, pid=process.pid, host=host)
        assert Watch(run).look().state == "running"
        process.kill()
    assert Watch(run).look().state == state


def test_a_run_that_was_interrupted_is_stopped_and_one_that_failed_says_why(run):
    run.report.unlink()
    with pytest.raises(KeyboardInterrupt), Log(run, "run").around(command="run", jobs=0):
        raise KeyboardInterrupt
    assert Watch(run).look().state == "stopped"
    with pytest.raises(OSError, match="full"), Log(run, "run").around(command="run", jobs=0):
        raise OSError("the disk is [full]")
    state = Watch(run).look()
    assert (state.state, state.reason) == ("failed", "OSError: the disk is [full]")
    assert "run  failed: OSError: the disk is [full]" in drawn(state)


def test_80_columns_are_enough(run):
    with Log(run, "run").around(command="run", jobs=9):
        Log(run, "dispatcher")("start", backend="local", workers=2)
        for number in range(9):
            Log(run, "worker")("started", label="inverting_gradients", round=1, users=list(range(9 * number, 90)))
        text = drawn(Watch(run).look())
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "dispatcher  start     backend local, workers 2" not in text  # the latest lines are shown
    assert text.count("started   label inverting_gradients, round 1, users") == 8


def test_the_exit_code_is_the_state(run, tmp_path):
    def code():
        return fl_sim("watch", run.root)[0]

    assert code() == 0
    (run.reconstructions / "failed.json").write_text("[]")
    assert code() == 1
    (run.reconstructions / "failed.json").unlink()
    run.report.unlink()
    assert code() == 3
    code, told = fl_sim("watch", tmp_path / "none")
    assert code == 2
    assert "is no run folder" in sentence(told)
    run.rounds.write_bytes(b"no parquet")
    code, told = fl_sim("watch", run.root)
    assert code == 2
    assert str(run.rounds) in sentence(told)


@pytest.mark.slow
def test_a_real_run_is_followed_to_its_end(tmp_path, monkeypatch):
    config = tiny_config(
        dataset={"name": "synthetic", "photos": 4, "users": 2},
        model={"name": "mlp"},
        federation={"rounds": 5},
        workers={"backend": "none"},  # those of a real dispatcher: tests/attacker/workers/test_metrics.py
    )
    path = tmp_path / "tiny.toml"
    path.write_text(tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)))
    run, states, over = RunFolder(tmp_path / "runs" / "tiny"), [], threading.Event()

    def follow():
        watch = Watch(run)
        while not over.wait(0.05):
            if run.log.exists():
                states.append(watch.look())
        states.append(watch.look())

    def reported_when_seen(*args, **settings):
        until = time.monotonic() + 30
        while not any(state.measuring for state in states) and time.monotonic() < until:
            time.sleep(0.01)
        return write_report(*args, **settings)

    write_report = pipeline.write_report
    monkeypatch.setattr(pipeline, "write_report", reported_when_seen)
    follower = threading.Thread(target=follow)
    follower.start()
    try:
        assert fl_sim("run", "--config", path, "--runs", run.root.parent)[0] == 0
    finally:
        over.set()
        follower.join()
    last = states[-1]
    assert (last.state, last.rounds_done, last.accepted, last.jobs) == ("finished", 5, 2, 0)
    assert states[0].state == "running"
    assert any(state.measuring for state in states)
    seen = [state.rounds_done for state in states]
    assert seen == sorted(seen)
    command = [sys.executable, "-m", "experiments.cli.app", "watch", run.root, "--json"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert {**json.loads(told.stdout), "silence": 0} == {**json.loads(json.dumps(vars(last))), "silence": 0}
