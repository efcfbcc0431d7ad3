"""Attacks on a Ray cluster of several machines: one dies in the middle, files travel by a URL, GPUs are shared.

The machines are raylets on this one. The head does no work, as in docker-compose.yml.
"""

import functools
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dispatching import capture, make_run, results, third_party

import attacker
from attacker.workers import ray_pool
from attacker.workers.dispatch import Dispatcher, dispatch
from attacker.workers.jobs import Workbench
from attacker.workers.ray_pool import RayPool
from attacker.workers.remote_storage import Staging
from fl_sim.config import ConfigError, load
from fl_sim.runs import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
OBJECT_STORE = 80_000_000  # bytes, a machine


@dataclass
class Machines:
    """Two raylets beside the head's: `lean` with one core, `rich` with two and a GPU that is only declared."""

    cluster: Any
    lean: Any
    rich: Any
    trace: Path  # of each job a file ROUND-USER-PID


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    from ray._private.utils import get_ray_address_file
    from ray.cluster_utils import Cluster

    # Ray's Cluster writes its address there, whatever temp_dir it is given, but does not make the folder.
    Path(get_ray_address_file(None)).parent.mkdir(parents=True, exist_ok=True)
    folder, short = tmp_path_factory.mktemp("cluster"), tempfile.mkdtemp(prefix="fl-")  # sockets need short paths
    trace = folder / "trace"
    trace.mkdir()
    with pytest.MonkeyPatch.context() as patch, third_party(folder / "plugins") as plugins:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(plugins), str(Path(attacker.__file__).parents[1])]))
        patch.setenv("TRACE", str(trace))
        patch.setenv("OMP_NUM_THREADS", "1")
        cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "object_store_memory": OBJECT_STORE,
                "include_dashboard": False,
                "temp_dir": short,
            },
        )
        lean = cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE)
        rich = cluster.add_node(num_cpus=2, num_gpus=1, object_store_memory=OBJECT_STORE)
        patch.setenv("RAY_ADDRESS", cluster.address)
        yield Machines(cluster, lean, rich, trace)
        cluster.shutdown()
    shutil.rmtree(short, ignore_errors=True)


@pytest.fixture
def trace(machines: Machines) -> Path:
    for path in machines.trace.iterdir():
        path.unlink()
    return machines.trace


def attacked(
    run: RunFolder,
    pool: Callable[[], RayPool] | None = None,
    look: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """The events of a dispatch; `look` is called again and again."""
    events: list[dict[str, Any]] = []
    config = load(run.config)

    def emit(event: str, **facts: Any) -> None:
        events.append({"event": event, **facts})

    def alive() -> bool:
        look()
        return True

    dispatch(Dispatcher(run, config, emit), pool or (lambda: RayPool(run.root, config.workers)), False, alive)
    return events


def captured(root: Path, **options: Any) -> RunFolder:
    run = make_run(root, backend="ray", **options)
    capture(run, 1)
    capture(run, 2)
    return run


@pytest.fixture
def undisturbed(tmp_path: Path, machines: Machines) -> dict[Any, Any]:
    """What one process makes of the two rounds."""
    run = captured(tmp_path / "undisturbed")
    config = load(run.config)
    bench = Workbench(run.root)
    dispatcher = Dispatcher(run, config, lambda event, **facts: None)
    dispatcher.look()
    for job in dispatcher.waiting:
        bench.perform(job)
    return results(run)


def raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def processes(node: Any) -> list[int]:
    """The raylet's and those that it started."""
    children = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if parent(int(path.name)) == raylet(node):
                children.append(int(path.name))
        except OSError:  # ended meanwhile
            continue
    return [raylet(node), *children]


def lose(node: Any) -> None:
    """The whole machine at once."""
    for pid in processes(node):
        os.kill(pid, signal.SIGKILL)


def at_work(node: Any, trace: Path) -> bool:
    """Whether a worker of the machine is at a job, or was."""
    return not {int(path.name.split("-")[2]) for path in trace.iterdir()}.isdisjoint(processes(node))


def test_files_travel_by_a_url_to_two_workers_that_share_a_gpu(
    tmp_path: Path,
    machines: Machines,
    undisturbed: dict[Any, Any],
    trace: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run folder is nowhere for the workers."""
    share = tmp_path / "share"
    run = captured(
        tmp_path / "run", seconds=1.0, count=0, workers=f'gpus_per_worker = 0.5\n        storage = "{share.as_uri()}"'
    )
    monkeypatch.setattr(ray_pool, "Staging", lambda root, storage: Staging(run.root, storage))
    nowhere = functools.partial(RayPool, Path("/nowhere/run"), load(run.config).workers)
    events = attacked(run, nowhere)
    assert [event["workers"] for event in events if event["event"] == "start"] == [2]
    assert len({path.name.split("-")[2] for path in trace.iterdir()}) == 2
    assert [event["event"] for event in events].count("done") == 8
    assert results(run) == undisturbed
    assert run.log.read_text().count('"started"') == 8  # the log names the jobs under way
    assert list(share.iterdir()) == []


@pytest.mark.usefixtures("machines")
def test_workers_that_cannot_start_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_pool, "STILLBORN", 1)
    run = captured(tmp_path / "run", count=1, workers='storage = "memory://of-each-process-its-own"')
    with pytest.raises(ConfigError, match=r"attack workers die as they start \(FileNotFoundError: .*config.toml"):
        attacked(run)


def test_machines_that_die_in_the_middle_cost_no_job_and_no_retry_and_one_that_joins_goes_on(
    tmp_path: Path, machines: Machines, undisturbed: dict[Any, Any], trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster promises replacements to a dead machine at first; that they die with it counts against nobody."""
    monkeypatch.setattr(ray_pool, "STILLBORN", 1)
    run = captured(tmp_path / "run", seconds=2.0, count=0, retries=0, workers="gpus_per_worker = 0")
    steps: list[Any] = []

    def look() -> None:
        if not steps and at_work(machines.lean, trace):
            steps.append(lose(machines.lean))
        elif len(steps) == 1 and len(results(run)) > 5:  # of 20: the others have gone on without it
            steps.append(lose(machines.rich))
            steps.append(machines.cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE))

    events = attacked(run, look=look)
    assert len(steps) == 3
    assert [event["workers"] for event in events if event["event"] == "start"] == [3]
    assert len([event for event in events if event["event"] == "retry"]) >= 2
    assert [event["event"] for event in events].count("done") == 8
    assert results(run) == undisturbed


def test_a_cluster_without_a_machine_for_any_worker_is_told(
    tmp_path: Path, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_pool, "DESERTED", 1)
    run = captured(tmp_path / "run", count=1, workers="gpus_per_worker = 0")
    for node in machines.cluster.worker_nodes:
        os.kill(raylet(node), signal.SIGTERM)  # it leaves in order, where it has not died before
    with pytest.raises(ConfigError, match=r"no machine of the Ray cluster has a core .* fl-sim attack"):
        attacked(run)
