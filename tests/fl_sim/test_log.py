"""The log of a run: whole lines from any number of processes, and what the server tells in it."""

import json
import re
import stat
import subprocess
import sys

import pandas as pd
import pytest
from tiny_faces import tiny_config

from attacker.capture.store import CaptureStore
from experiments.plan.setup import prepare
from experiments.run.federation import run_federation
from fl_sim.log import Log
from fl_sim.runs import RunFolder


def lines(run):
    return [json.loads(line) for line in run.log.read_text().splitlines()]


def test_lines_of_processes_that_write_at_once_stay_whole(tmp_path):
    run, each = RunFolder(tmp_path), 500
    write = f"""
import sys
from pathlib import Path
from fl_sim.log import Log
from fl_sim.runs import RunFolder
for number in range({each}):
    Log(RunFolder(Path(sys.argv[1])), "worker")("started", who=sys.argv[2], number=number, long="x" * 5000)
"""
    writers = [subprocess.Popen([sys.executable, "-c", write, tmp_path, str(who)]) for who in range(3)]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    for who in "012":
        assert [line["number"] for line in lines(run) if line["who"] == who] == list(range(each))
    assert stat.S_IMODE(run.log.stat().st_mode) == 0o600


def test_a_line_is_strict_json_with_the_time_in_utc(tmp_path):
    run = RunFolder(tmp_path)
    Log(run, "server")("round", "warning", loss=float("nan"), norm=float("inf"), seconds=0.5)
    (line,) = lines(run)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    facts = {"loss": None, "norm": None, "seconds": 0.5}
    assert line == {"level": "warning", "source": "server", "event": "round", **facts}


@pytest.mark.parametrize(
    ("raised", "event", "level"),
    [(None, "end", "info"), (ValueError("no\nluck"), "error", "error"), (KeyboardInterrupt(), "stopped", "warning")],
)
def test_how_a_block_ended_is_told_and_left_as_it_was(raised, event, level, tmp_path):
    run, caught = RunFolder(tmp_path), None
    try:
        with Log(run, "run").around(jobs=3):
            if raised is not None:
                raise raised
    except BaseException as error:
        caught = error
    assert caught is raised
    begin, last = lines(run)
    assert (begin["event"], begin["jobs"]) == ("begin", 3)
    assert (last["event"], last["level"]) == (event, level)
    assert last.get("reason", "ValueError: no luck") == "ValueError: no luck"


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path):
    run = RunFolder(tmp_path)
    run.log.mkdir()
    Log(run, "server")("round", round=1)
    assert list(run.log.iterdir()) == []


def test_the_server_tells_of_each_round_and_each_rejection(tmp_path):
    run = RunFolder(tmp_path / "run")
    run_federation(prepare(tiny_config(dataset={"name": "tiny_faces:open_broken"})), run)
    told = lines(run)
    assert {line["source"] for line in told} == {"server"}
    assert [line["event"] for line in told] == ["begin", *["rejected", "round"] * 2, "end"]
    rounds = pd.DataFrame(line for line in told if line["event"] == "round")
    rounds = rounds[["round", "accuracy", "loss", "accepted", "rejected", "seconds"]]
    pd.testing.assert_frame_equal(rounds, pd.read_parquet(run.rounds)[rounds.columns], check_exact=True)
    rejected = [line for line in told if line["event"] == "rejected"]
    assert "this user's disk is gone" in rejected[0]["reason"]
    facts = ("round", "user", "status", "reason")
    index = [{fact: row[fact] for fact in facts} for row in CaptureStore(run).rejected()]
    assert [{fact: line[fact] for fact in facts} for line in rejected] == index
