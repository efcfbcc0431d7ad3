"""`fl-sim watch --web`: one page, for its reader on this machine alone, that follows the run to its end."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from browser import PROGRAM, Browser
from command_line import fl_sim, sentence
from fake_run import fake_run

from attacker.capture.store import write_reconstruction
from attacker.observation import Reconstruction
from experiments.run import live
from experiments.run.live import LivePage, served
from experiments.run.watch import Watch
from fl_sim.config import ConfigError
from fl_sim.log import Log
from fl_sim.runs import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run that has been trained and attacked, and not measured."""
    run = fake_run(tmp_path / "run", users=2, rounds=1)
    run.leakage.unlink()
    return run


@contextmanager
def at_work(run: RunFolder):
    with Log(run, "run").around(command="run", jobs=3):
        Log(run, "dispatcher")("round", round=1, users=2, jobs=3, skipped=0)
        yield


def get(address: str, host: str | None = None) -> tuple[int, str]:
    request = urllib.request.Request(address, headers={} if host is None else {"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def job(number: int) -> dict[str, object]:
    return {"label": "user_diffusion", "round": 1, "users": [number]}


def test_the_page_changes_as_the_run_comes_further_and_ends_with_its_report(run, monkeypatch):
    monkeypatch.setattr(live, "LEAST", 0.0)
    monkeypatch.setattr(live, "SHARE", 0)
    watch = Watch(run)
    with at_work(run):
        page = LivePage(run, watch.look())
        with served(page, 0) as address:
            code, first = get(address)
            assert code == 200
            assert "Running: 1 of 1 rounds trained, 0 of 3 attack jobs done." in first
            assert "A realistic face is no evidence" in first  # faces are there before any number
            assert not re.search(r'(?:src|href)="(?!data:|#)', first)
            news = json.loads(get(f"{address}state")[1])
            assert f'data-token="{news["token"]}"' in first
            monkeypatch.setattr(live, "READER", 0.3)
            page.linger()  # no longer than somebody asks
            picture = Reconstruction(torch.rand(1, 3, 32, 32), torch.ones(1), 0.1, 2.0)
            write_reconstruction(run, "later", 1, 0, picture, {"name": "dlg"})
            assert get(address)[1] == first  # one page a step of the run, however often it is asked for
            Log(run, "dispatcher")("done", **job(0), seconds=1.0, queued=2)
            page.update(watch.look())
            newer = json.loads(get(f"{address}state")[1])
            assert newer["token"] != news["token"]
            assert "1 of 3 attack jobs done" in newer["said"]
            second = get(address)[1]
            assert "by later in round 1" in second
            assert "by later in round 1" not in first
            page.update(watch.look())
            assert json.loads(get(f"{address}state")[1]) == newer
            run.report.write_text("the report")
    with served(page, 0) as address:
        page.update(watch.look())
        assert json.loads(get(f"{address}state")[1])["token"] != newer["token"]
        assert get(address) == (200, "the report")
    with pytest.raises(urllib.error.URLError):
        get(address)


def test_a_failed_run_says_so_on_a_page_that_asks_no_more(run):
    with pytest.raises(OSError, match="full"), at_work(run):
        raise OSError("the disk is <full>")
    page = LivePage(run, Watch(run).look()).html().decode()
    assert "OSError: the disk is &lt;full&gt;" in page
    assert "fetch(" not in page


def test_nothing_else_is_served_and_to_nobody_else(run):
    with at_work(run), served(LivePage(run, Watch(run).look()), 0) as address:
        origin, path = re.fullmatch(r"(http://127\.0\.0\.1:\d+)(/[\w-]{20,}/)", address).groups()
        for other in (
            "/",
            path[:-1],
            f"{path}config.toml",
            f"{path}../config.toml",
            f"{path}%2e%2e/log.jsonl",
            "/state",
        ):
            assert get(origin + other)[0] == 404
        assert get(address, "localhost:" + origin.rpartition(":")[2])[0] == 200
        for host in ("evil.example", "evil.example:" + origin.rpartition(":")[2], "127.0.0.1", ""):
            assert get(address, host)[0] == 421
        for method in ("POST", "PUT", "DELETE"):
            with pytest.raises(urllib.error.HTTPError, match="501"):
                urllib.request.urlopen(urllib.request.Request(address, method=method), timeout=30)
        with urllib.request.urlopen(address, timeout=30) as answer:
            assert "connect-src 'self'" in answer.headers["Content-Security-Policy"]
            assert answer.headers["Cache-Control"] == "no-store"
        taken = int(origin.rpartition(":")[2])
        with pytest.raises(ConfigError, match=f"port {taken} of 127.0.0.1 cannot be had"), served(None, taken):
            pass


def test_mistakes_cost_one_sentence(run):
    for arguments, told in ((["--port", 80], "give --web"), (["--web", "--once"], "leave --once out")):
        code, said = fl_sim("watch", run.root, *arguments)
        assert code == 2
        assert told in sentence(said)


def test_a_run_that_has_ended_is_told_where_its_report_is(run):
    run.report.touch()
    code, told = fl_sim("watch", run.root, "--web")
    assert code == 0
    assert "--web serves a run that is at work, and this one is finished" in told.replace("\n", " ")
    assert f"report: {run.report}" in told.replace("\n", "")


@pytest.mark.slow
@pytest.mark.skipif(PROGRAM is None, reason="no Chromium here; install Debian's chromium package to run this")
def test_a_browser_keeps_its_place_and_gets_the_end(run):
    command = [sys.executable, "-m", "experiments.cli.app", "watch", run.root, "--web"]
    with at_work(run), subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watching:
        address = watching.stderr.readline().split()[1]
        with Browser(390, 600) as browser:
            browser.open(address)
            browser.evaluate("document.getElementById('setup').open = true; scrollTo(0, 700)")
            browser.evaluate("document.querySelector('.conceal').click()")
            time.sleep(3)  # a page has its least age
            Log(run, "dispatcher")("done", **job(0), seconds=1.0, queued=2)
            heading = "document.querySelector('h1').textContent"
            wait(browser, f"document.readyState === 'complete' && {heading}.includes('1 of 3')")
            wait(browser, "scrollY === 700 && document.getElementById('setup').open")
            assert browser.evaluate("document.documentElement.classList.contains('concealed')")
            assert browser.problems == []
            run.report.write_text("<!doctype html><title>the end</title>")
            Log(run, "run")("end")
            wait(browser, "document.title === 'the end'")
            assert {one for one in browser.requests if not one.startswith("data:")} == {address, f"{address}state"}
        assert watching.wait(30) == 0
        assert f"report: {run.report}" in watching.stderr.read()


@pytest.mark.slow
def test_ctrl_c_ends_the_watch_and_not_the_run(run):
    command = [sys.executable, "-m", "experiments.cli.app", "watch", run.root, "--web"]
    with at_work(run), subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watching:
        watching.stderr.readline()
        time.sleep(0.5)
        os.kill(watching.pid, signal.SIGINT)
        assert watching.wait(30) == 3
        assert "the run goes on" in watching.stderr.read()


def wait(browser: Browser, condition: str) -> None:
    deadline = time.monotonic() + 60
    while not browser.evaluate(condition):
        assert time.monotonic() < deadline, condition
        time.sleep(0.1)
