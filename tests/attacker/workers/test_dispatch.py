"""Attack jobs, their workers and the dispatcher: every capture is attacked once, whatever dies on the way."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from dispatching import capture, make_run, results, third_party, wait_for

import attacker
from attacker.attacks import load as load_attack
from attacker.capture.store import read_reconstruction
from attacker.priors import eigenfaces
from attacker.workers.dispatch import Dispatcher, dispatch
from attacker.workers.inprocess_pool import InProcessPool
from attacker.workers.jobs import Job, Workbench, batches, is_done
from attacker.workers.pool import Completion, on_gpus
from fl_sim import seeds
from fl_sim.config import ConfigError, Workers, load
from fl_sim.runs import RunFolder

REPOSITORY = Path(attacker.__file__).parents[1]


@pytest.fixture
def plugins(tmp_path: Path) -> Iterator[Path]:
    """A folder with the third-party attack `mylab.sleeper`, importable here."""
    with third_party(tmp_path / "plugins") as folder:
        yield folder


class Now(InProcessPool):
    """The pool of this process, which dies as often as told."""

    def __init__(self, run: RunFolder, deaths: dict[Job, int] | None = None) -> None:
        super().__init__(run.root, Workers())
        self.deaths, self.closed = dict(deaths or {}), False

    def completions(self, timeout: float) -> list[Completion]:
        if self.queue and self.deaths.get(self.queue[0], 0):
            self.deaths[self.queue[0]] -= 1
            return [Completion(self.queue.popleft(), 0.0, "worker died", died=True)]
        return super().completions(timeout)

    def close(self) -> None:
        self.closed = True


def run_here(
    run: RunFolder, pool: Now | None = None, follow: bool = False, force: bool = False
) -> list[dict[str, Any]]:
    """The events of a dispatch in this process."""
    events: list[dict[str, Any]] = []
    pool = pool or Now(run)
    dispatcher = Dispatcher(
        run, load(run.config), lambda event, **facts: events.append({"event": event, **facts}), force
    )
    dispatch(dispatcher, lambda: pool, follow, alive=lambda: True)
    assert pool.closed or all(event["event"] == "round" for event in events)
    return events


def count(events: list[dict[str, Any]], event: str) -> int:
    return sum(found["event"] == event for found in events)


def test_a_round_is_cut_into_fixed_batches_in_ascending_order() -> None:
    assert batches("a", 2, [7, 1, 4, 0, 3], 2) == [Job("a", 2, (0, 1)), Job("a", 2, (3, 4)), Job("a", 2, (7,))]
    assert batches("a", 2, [], 2) == []


@pytest.mark.usefixtures("plugins")
def test_every_accepted_capture_is_attacked_by_every_attack(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    capture(run, 1)
    capture(run, 2)
    events = run_here(run)
    assert count(events, "done") == 2 * 2 * 2
    assert count(events, "failed") == 0
    assert len(results(run)) == 2 * 2 * 5
    # The draws of a user follow from (seed, label, round, user) alone.
    expected = torch.rand(1, 3, 8, 8, generator=seeds.generator(5, "attack", "b", 2, 4))
    assert torch.equal(read_reconstruction(run, "b", 2, 4).images, expected)


@pytest.mark.usefixtures("plugins")
def test_a_second_dispatch_does_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    capture(run, 1)
    run_here(run)
    times = {path: path.stat().st_mtime_ns for path in run.reconstructions.rglob("*.safetensors")}
    assert run_here(run) == [{"event": "round", "round": 1, "users": 5, "jobs": 0, "skipped": 4, "queued": 0}]
    assert times == {path: path.stat().st_mtime_ns for path in run.reconstructions.rglob("*.safetensors")}


@pytest.mark.usefixtures("plugins")
def test_a_job_with_a_user_missing_is_redone_as_a_whole(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    capture(run, 1)
    run_here(run)
    before = results(run)
    run.reconstruction("a", 1, 4).unlink()
    done = [event for event in run_here(run) if event["event"] == "done"]
    assert [(event["label"], event["users"]) for event in done] == [("a", [3, 4])]
    assert results(run) == before


@pytest.mark.usefixtures("plugins")
def test_a_changed_attack_is_refused_under_the_same_label_unless_forced(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    capture(run, 1)
    run_here(run)
    run.config.write_text(run.config.read_text().replace("seconds = 0.0", "seconds = 0.001"))
    with pytest.raises(ConfigError, match=r"attack 'a' already has .* seconds = 0.0, now it is 0.001; .* --force"):
        run_here(run)
    assert count(run_here(run, force=True), "done") == 4
    assert count(run_here(run), "done") == 0


@pytest.mark.usefixtures("plugins")
def test_force_does_every_job_anew_and_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for server_round in (1, 2):
        capture(run, server_round)
    run_here(run)
    before, times = results(run), {path: path.stat().st_mtime_ns for path in run.reconstructions.rglob("*.safetensors")}
    events = run_here(run, follow=True, force=True)  # nothing of their recipes has changed
    assert count(events, "done") == 2 * 4
    assert [event["skipped"] for event in events if event["event"] == "round"] == [0, 0]
    assert results(run) == before
    assert all(path.stat().st_mtime_ns > made for path, made in times.items())


@pytest.mark.usefixtures("plugins")
def test_results_of_another_capture_are_not_taken_for_those_of_this_one(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    capture(run, 1)
    config = load(run.config)
    attack = load_attack("a", config.attacks["a"])
    job = Job("a", 1, (0, 1, 2))
    assert not is_done(run, config, attack, job)
    Workbench(run.root).perform(job)
    assert is_done(run, config, attack, job)
    capture(run, 1, scale=2.0)
    with pytest.raises(ConfigError, match="from another capture"):
        is_done(run, config, attack, job)
    capture(run, 1)  # the same one written again
    assert is_done(run, config, attack, job)


@pytest.mark.usefixtures("plugins")
def test_a_raising_attack_fails_its_job_in_one_line_and_no_other(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", broken_round=1)
    capture(run, 1)
    capture(run, 2)
    events = run_here(run)
    failed = [event for event in events if event["event"] == "failed"]
    assert [(event["label"], event["round"], event["users"]) for event in failed] == [
        ("b", 1, [0, 1, 2]),
        ("b", 1, [3, 4]),
    ]
    assert failed[0]["reason"].startswith("RuntimeError: no image came out of this (sleeper.py, line ")
    assert count(events, "done") == 6
    assert count(events, "retry") == 0


def test_a_gpu_too_small_for_a_job_is_told_with_the_key_that_mends_it(tmp_path: Path, plugins: Path) -> None:
    sleeper = (plugins / "mylab" / "sleeper.py").read_text()
    hungry = sleeper.replace("time.sleep(settings.seconds)", 'raise torch.OutOfMemoryError("CUDA out of memory.")')
    (plugins / "mylab" / "sleeper.py").write_text(hungry)
    run = make_run(tmp_path / "run")
    capture(run, 1)
    failed = [event["reason"] for event in run_here(run) if event["event"] == "failed"]
    assert len(failed) == 4
    assert failed[0].startswith("the GPU's memory does not hold the 3 users of a job")
    assert "workers.victims_per_job" in failed[0]


@pytest.mark.parametrize(("gpus", "share", "workers"), [(1, 1, 1), (1, 0.5, 2), (2, 0.6, 2), (3, 0.1, 30), (4, 2, 2)])
def test_a_share_of_a_gpu_lies_on_one_gpu(gpus: int, share: float, workers: int) -> None:
    assert on_gpus(gpus, share) == workers


@pytest.mark.usefixtures("plugins")
def test_a_death_costs_a_retry_and_too_many_deaths_fail_the_job(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    capture(run, 1)
    once, always = Job("a", 1, (0, 1, 2)), Job("b", 1, (3, 4))
    events = run_here(run, Now(run, {once: 1, always: 9}))
    assert [event["attempt"] for event in events if event["event"] == "retry"] == [2, 2]
    failed = [event for event in events if event["event"] == "failed"]
    assert [(event["label"], event["users"]) for event in failed] == [("b", [3, 4])]
    assert count(events, "done") == 3


@pytest.mark.usefixtures("plugins")
def test_rounds_are_attacked_while_others_are_still_to_come(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    events: list[str] = []

    def emit(event: str, **facts: Any) -> None:
        events.append(event)
        if event == "idle":  # nothing to do: the federation finishes its next round
            capture(run, events.count("idle"))

    dispatch(Dispatcher(run, load(run.config), emit), lambda: Now(run), follow=True, alive=lambda: True)
    one_round = ["round", *["done"] * 4]
    assert events == ["idle", "start", *one_round, "idle", *one_round]
    assert len(results(run)) == 20


@pytest.mark.usefixtures("plugins")
def test_no_job_begins_before_the_face_space_that_is_being_made(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    capture(run, 1)
    capture(run, 2)
    events: list[str] = []

    def emit(event: str, **facts: Any) -> None:
        events.append(event)
        if event == "idle":
            assert not results(run)
            run.faces.write_bytes(eigenfaces.encode(eigenfaces.fit(torch.rand(3, 3, 8, 8))))

    dispatcher = Dispatcher(run, load(run.config), emit, await_faces=True)
    dispatch(dispatcher, lambda: Now(run), follow=True, alive=lambda: True)
    assert events[:4] == ["idle", "start", "round", "round"]
    assert len(results(run)) == 20


# From here on with real processes.


def environment(plugins: Path, trace: Path | None = None, **more: str) -> dict[str, str]:
    path = os.pathsep.join([str(plugins), str(REPOSITORY)])
    told = {"TRACE": str(trace)} if trace else {}
    return {**os.environ, "PYTHONPATH": path, "RAY_ADDRESS": "local", **told, **more}


def run_process(run: RunFolder, plugins: Path, *options: str, **more: str) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, events and stderr of a dispatcher process."""
    command = [sys.executable, "-m", "attacker.workers.dispatch", str(run.root), *options]
    ended = subprocess.run(
        command, env=environment(plugins, **more), capture_output=True, text=True, timeout=300, check=False
    )
    return ended.returncode, [json.loads(line) for line in ended.stdout.splitlines()], ended.stderr


def gone(pid: int) -> bool:
    """Whether the process ended (a zombie that nobody reaps has ended too)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.fixture
def undisturbed(tmp_path: Path, plugins: Path) -> dict[Any, Any]:
    """What one process without workers makes of the two rounds."""
    run = make_run(tmp_path / "undisturbed")
    capture(run, 1)
    capture(run, 2)
    run_here(run)
    return results(run)


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "workers"), [("local", 1), ("local", 3), ("ray", 2)])
def test_pools_and_worker_counts_give_the_same_bytes(
    tmp_path: Path, plugins: Path, undisturbed: dict[Any, Any], backend: str, workers: int
) -> None:
    run = make_run(tmp_path / "run", backend=backend, count=workers)
    capture(run, 1)
    capture(run, 2)
    code, events, errors = run_process(run, plugins)
    assert code == 0, errors
    assert events[-1] == {"event": "end", "done": 8, "failed": 0}
    assert {"event": "start", "backend": backend, "workers": workers} in events
    assert results(run) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["local", "ray"])
def test_killing_a_worker_in_the_middle_of_a_job_costs_a_retry_and_nothing_else(
    tmp_path: Path, plugins: Path, undisturbed: dict[Any, Any], backend: str
) -> None:
    run = make_run(tmp_path / "run", seconds=2.0, backend=backend)
    trace = tmp_path / "trace"
    trace.mkdir()
    capture(run, 1)
    command = [sys.executable, "-m", "attacker.workers.dispatch", str(run.root), "--follow"]
    with subprocess.Popen(command, env=environment(plugins, trace), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        begun = wait_for(lambda: list(trace.glob("1-0-*")))
        os.kill(int(begun[0].name.split("-")[2]), signal.SIGKILL)
        capture(run, 2)  # meanwhile the federation goes on
        events = [json.loads(line) for line in process.stdout]
    assert process.returncode == 0
    assert [event["users"] for event in events if event["event"] == "retry"] == [[0, 1, 2]]
    assert count(events, "done") == 8
    assert count(events, "failed") == 0
    assert results(run) == undisturbed


@pytest.mark.slow
def test_failed_jobs_are_named_on_disk_until_a_later_dispatch_mends_them(tmp_path: Path, plugins: Path) -> None:
    run = make_run(tmp_path / "run", broken_round=2)
    capture(run, 1)
    capture(run, 2)
    code, events, _ = run_process(run, plugins)
    assert code == 1
    assert events[-1] == {"event": "end", "done": 6, "failed": 2}
    note = run.reconstructions / "failed.json"
    assert [(entry["label"], entry["round"]) for entry in json.loads(note.read_text())] == [("b", 2)] * 2
    run.config.write_text(run.config.read_text().replace("broken_round = 2", "broken_round = 0"))
    code, events, errors = run_process(run, plugins, "--force")
    assert code == 0, errors
    assert not note.exists()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["local", "ray"])
def test_the_dispatcher_and_its_workers_end_when_the_parent_dies(tmp_path: Path, plugins: Path, backend: str) -> None:
    run = make_run(tmp_path / "run", seconds=600.0, backend=backend, count=1)
    trace = tmp_path / "trace"
    trace.mkdir()
    capture(run, 1)
    script = f"""
import os, subprocess, sys
command = [sys.executable, "-m", "attacker.workers.dispatch", {str(run.root)!r}, "--parent", str(os.getpid())]
child = subprocess.Popen(command)
print(child.pid, flush=True)
child.wait()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environment(plugins, trace), stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        dispatcher = int(parent.stdout.readline())
        worker = int(wait_for(lambda: list(trace.glob("1-0-*")))[0].name.split("-")[2])
        parent.kill()
    wait_for(lambda: gone(dispatcher), 30)
    wait_for(lambda: gone(worker), 30)


@pytest.mark.slow
def test_an_unreachable_ray_is_told_in_one_sentence_that_names_the_way_out(tmp_path: Path, plugins: Path) -> None:
    run = make_run(tmp_path / "run", backend="ray")
    capture(run, 1)
    code, _, errors = run_process(run, plugins, RAY_ADDRESS="127.0.0.1:1")
    assert code == 2
    assert errors.strip().splitlines()[-1].startswith("Ray cannot be reached at RAY_ADDRESS=127.0.0.1:1 (")
    assert "-o workers.backend=local" in errors
