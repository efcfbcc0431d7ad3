"""Clocks that jump decide nothing; two runs of one name do not meet."""

import datetime
import json
import os
import signal
import time

import pandas as pd
import pytest
from processes import killed_at_write
from tiny_faces import tiny_config

from experiments.plan.setup import prepare
from experiments.run import pipeline
from experiments.run.federation import run_federation
from fl_sim.config import ConfigError, dump
from fl_sim.runs import RunFolder, locked

DAY = 86_400  # seconds


def captured(run):
    rows = [json.loads(line) for line in (run.captures / "index.jsonl").read_text().splitlines()]
    files = {str(path.relative_to(run.root)): path.read_bytes() for path in run.captures.rglob("*.safetensors")}
    return [(row["round"], row["status"], row.get("user")) for row in rows], files


@pytest.mark.parametrize("step", [-DAY, DAY])
def test_a_clock_that_jumps_at_every_look_changes_no_capture(step, tmp_path, monkeypatch):
    config = tiny_config()
    plain, jumping = RunFolder(tmp_path / "plain"), RunFolder(tmp_path / "jumping")
    run_federation(prepare(config), plain)
    looks = [0]

    def jump():
        looks[0] += 1
        return 1.7e9 + looks[0] * step

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime.fromtimestamp(jump(), tz)

    monkeypatch.setattr(time, "time", jump)
    monkeypatch.setattr(datetime, "datetime", Clock)
    monkeypatch.setattr("flwr.supercore.date.datetime.datetime", Clock, raising=False)
    run_federation(prepare(config), jumping)
    assert captured(jumping) == captured(plain)


def test_a_finished_run_is_finished_whatever_the_times_of_its_files(tmp_path):
    config, run = tiny_config(workers={"backend": "none"}), RunFolder(tmp_path / "tiny")
    pipeline.run(config, run, lambda *done: None, lambda sentence: None)
    pd.DataFrame({"rank": [1]}).to_parquet(run.leakage)
    for config_time, report_time in ((0, DAY), (DAY, 0)):
        os.utime(run.config, (config_time, config_time))
        os.utime(run.report, (report_time, report_time))
        assert pipeline.finished(config, run)


def test_a_run_that_was_taken_up_again_and_killed_is_not_finished(tmp_path):
    config, run = tiny_config(workers={"backend": "none"}), RunFolder(tmp_path / "tiny")
    pipeline.run(config, run, lambda *done: None, lambda sentence: None)
    assert killed_at_write(2, lambda: pipeline.run(config, run, lambda *done: None, lambda sentence: None))
    os.utime(run.config, (0, 0))  # before whatever report there was
    table = pd.DataFrame({"rank": [1]})
    table.to_parquet(run.leakage)
    assert not pipeline.finished(config, run)
    run.leakage.unlink()
    pipeline.run(config, run, lambda *done: None, lambda sentence: None)
    table.to_parquet(run.leakage)
    assert pipeline.finished(config, run)


def test_the_second_run_of_a_name_is_told_who_holds_it(tmp_path):
    config, run = tiny_config(workers={"backend": "none"}), RunFolder(tmp_path / "tiny")
    ready, wait = os.pipe(), os.pipe()
    holder = os.fork()
    if holder == 0:
        try:
            with locked(run.root):
                os.write(ready[1], b"1")
                os.read(wait[0], 1)
        finally:
            os._exit(0)
    os.read(ready[0], 1)
    try:
        with pytest.raises(ConfigError, match=rf"tiny is in use by process {holder}; wait .* another name"):
            pipeline.run(config, run, lambda *done: None, lambda sentence: None)
        assert not run.config.exists()
    finally:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
    pipeline.run(config, run, lambda *done: None, lambda sentence: None)  # a killed holder holds nothing
    assert run.report.exists()


def test_two_servers_do_not_write_the_captures_of_one_run(tmp_path):
    run = RunFolder(tmp_path / "tiny")
    run.config.parent.mkdir()
    run.config.write_text(dump(tiny_config()))
    with locked(run.captures), pytest.raises(ConfigError, match="captures is in use by process"):
        run_federation(prepare(tiny_config()), run)
    run_federation(prepare(tiny_config()), run)
