"""A real dispatcher, watched: its events, its log, its Prometheus metrics and `fl-sim watch` tell the same."""

import json
import re
import socket
import subprocess
import sys
import urllib.request
from collections import Counter

import pytest
import tomli_w
from command_line import fl_sim, sentence
from dispatching import install
from prometheus_client.parser import text_string_to_metric_families
from tiny_faces import tiny_config

from attacker.workers.metrics import ADDRESS, check, open_metrics
from experiments.plan.setup import prepare
from experiments.run.federation import run_federation
from experiments.run.watch import Watch
from fl_sim.config import ConfigError, dump
from fl_sim.runs import RunFolder, write_manifest

ATTACK = """
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from attacker.observation import Reconstruction


@dataclass(frozen=True)
class Settings:
    dies_once: str = ""
    broken_round: int = 0


def attack(observations, attacker, settings, generators, progress):
    if settings.dies_once and not Path(settings.dies_once).exists():
        Path(settings.dies_once).touch()
        os._exit(7)
    if observations[0].server_round == settings.broken_round:
        raise RuntimeError("no image came out of this")
    return [Reconstruction(torch.rand(1, 3, 8, 8, generator=one), torch.ones(1), 0.0, 0.5) for one in generators]
"""


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return probe.getsockname()[1]


def scraped(port):
    """(metric, label or None) -> value."""
    with urllib.request.urlopen(f"http://{ADDRESS}:{port}/metrics", timeout=60) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    samples = [sample for family in families for sample in family.samples if "le" not in sample.labels]
    return {(sample.name, sample.labels.get("label")): sample.value for sample in samples}


def expected(events):
    """What the metrics must be after these events."""
    found = {("fl_sim_workers", None): 1.0, ("fl_sim_jobs_queued", None): 0.0}
    found["fl_sim_jobs_queued", None] += sum(event["jobs"] for event in events if event["event"] == "round")
    for label in "ab":
        of_label = [event for event in events if event.get("label") == label]
        counts = Counter(event["event"] for event in of_label)
        found["fl_sim_jobs_queued", None] -= counts["done"] + counts["failed"]
        found["fl_sim_jobs_done_total", label] = found["fl_sim_job_seconds_count", label] = counts["done"]
        found["fl_sim_jobs_failed_total", label] = counts["failed"]
        found["fl_sim_jobs_retried_total", label] = counts["retry"]
        seconds = [event["seconds"] for event in of_label if event["event"] == "done"]
        found["fl_sim_job_seconds_sum", label] = pytest.approx(sum(seconds))
    return found


def documented(repository):
    """(source, event) -> the facts that docs/observability.md says are in the log."""
    text = (repository / "docs" / "observability.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (.*?) \|", text, re.MULTILINE)
    return {(source, event): set(re.findall(r"`(\w+)`", facts)) for source, event, facts in rows}


@pytest.mark.slow
def test_events_log_metrics_and_watch_tell_the_same_of_a_dispatch(tmp_path, monkeypatch, port, repository):
    install(monkeypatch, tmp_path, "moodylab.attack", ATTACK)
    sections = {
        "dataset": {"name": "tiny_faces:open_broken"},  # user 1 raises
        "attacks": {
            "a": {"name": "moodylab.attack", "dies_once": str(tmp_path / "died")},
            "b": {"name": "moodylab.attack", "broken_round": 2},
        },
        "workers": {"backend": "local", "count": 1, "victims_per_job": 2, "metrics_port": port},
    }
    run = RunFolder(tmp_path / "run")
    run_federation(prepare(tiny_config(**sections, federation={"rounds": 2})), run)
    config = tiny_config(**sections, federation={"rounds": 3})
    run.config.write_text(dump(config))
    write_manifest(run, num_classes=2)
    watch, events = Watch(run), []
    with subprocess.Popen(
        [sys.executable, "-m", "attacker.workers.dispatch", run.root, "--follow"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stdout:
            events.append(json.loads(line))
            if events[-1]["event"] == "idle":  # rounds 1 and 2 are attacked, the third is not trained yet
                at_rest = scraped(port)
                state = watch.look()
                break
        counts = Counter(event["event"] for event in events)
        assert (counts["done"], counts["failed"], counts["retry"]) == (6, 2, 1)
        assert {key: at_rest[key] for key in expected(events)} == expected(events)
        assert (state.done, state.failed, state.retried, state.queued, state.under_way) == (6, 2, 1, 0, [])
        assert state.rounds_done == 2
        run_federation(prepare(config), run)
        events += [json.loads(line) for line in process.stdout]
    assert process.returncode == 1
    assert events[-1] == {"event": "end", "done": 10, "failed": 2}

    told = [json.loads(line) for line in run.log.read_text().splitlines()]
    facts = [{name: line[name] for name in line if name not in {"time", "level", "source"}} for line in told]
    assert [one for one, line in zip(facts, told, strict=True) if line["source"] == "dispatcher"] == events
    assert {line["level"] for line in told if line["event"] in {"failed", "retry"}} == {"error", "warning"}
    started = sorted((line["label"], line["round"], *line["users"]) for line in told if line["event"] == "started")
    tried = [event for event in events if event["event"] in {"done", "failed", "retry"}]
    assert started == sorted((event["label"], event["round"], *event["users"]) for event in tried)
    state = watch.look()
    assert (state.state, state.jobs, state.done, state.failed, state.rounds_done) == ("failed", 12, 10, 2, 3)

    known = documented(repository)
    for line, named in zip(told, facts, strict=True):  # nothing is in the log that the documentation does not name
        assert set(named) - {"event"} == known[line["source"], line["event"]]
    assert {line["source"] for line in told} == {"server", "dispatcher", "worker"}


def test_without_a_port_nothing_is_served(port):
    open_metrics(0, ["a"])("done", label="a", seconds=1.0)
    check(0)
    with pytest.raises(OSError, match="refused"):
        scraped(port)


@pytest.mark.slow
def test_a_port_in_use_is_refused_before_anything_starts(tmp_path):
    with socket.socket() as other:
        other.bind((ADDRESS, 0))
        other.listen()
        taken = other.getsockname()[1]
        config = tiny_config(attacks={"a": {"name": "dlg"}}, workers={"metrics_port": taken})
        path = tmp_path / "tiny.toml"
        path.write_text(tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)))
        code, told = fl_sim("run", "--config", path, "--runs", tmp_path / "runs")
        assert code == 2
        assert sentence(told).startswith(f"workers.metrics_port = {taken} cannot be had on 127.0.0.1 (Address already")
        assert list(tmp_path.iterdir()) == [path]
        with pytest.raises(ConfigError, match="give a port that is free"):  # taken after the look at it
            open_metrics(taken, ["a"])
    check(taken)
