"""Attack workers as Ray actors, on a cluster of their own.

The cluster is the one that the environment variable RAY_ADDRESS names, or a private one on this machine
that ends with the pool. Its machines see the run folder under the same path, or get and bring files by
way of a URL (`attacker.workers.remote_storage`). It is never Flower's: that one has no core to spare and shuts down
with the training.

A dead actor is replaced and its job reported as died, instead of Ray's own `max_restarts`: those count
over an actor's whole life, so that a long run would lose its workers one by one, and retry in silence.
Only actors that live get a job: a replacement for which a smaller cluster has no room waits with Ray,
until there is room again, and no job waits with it.
"""

import logging
import os
import shutil
import socket
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

from attacker.workers.jobs import Job, Workbench, attempt, one_line
from attacker.workers.pool import Completion, cores, on_gpus, settle_process
from attacker.workers.remote_storage import Staging, downloaded, upload_results
from fl_sim import import_path
from fl_sim.config import ConfigError, Workers
from fl_sim.config_errors import in_one_line
from fl_sim.socket_folder import socket_folder

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

OBJECT_STORE = 100_000_000  # bytes; only jobs and one-line outcomes pass through it
CONNECT = 10  # seconds to wait for a cluster that RAY_ADDRESS names
DESERTED = 60  # seconds that the cluster may be without a machine for any worker
STILLBORN = 3  # actors in a row that may die before they work; then no more are started
INSTEAD = "give `-o workers.backend=local` to use processes of this machine instead"


class AttackWorker:
    """The actor: one process that keeps model and priors between jobs."""

    def __init__(self, root: str, url: str, names: list[str]) -> None:
        """`url`: from where files of the run folder `root` are downloaded, at first `names`; empty: `root` is here."""
        settle_process()
        self._root, self._url = root, url
        self._bench = Workbench(Path(root))
        if url:
            with downloaded(url, names) as self._bench.run:
                self._bench.warm()
        else:
            self._bench.warm()

    def node(self) -> str:
        """Where it lives, once it does."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def attempt(self, job: Job, names: list[str]) -> tuple[float, str | None]:
        """`names`: what to download for the job."""
        if not self._url:
            return attempt(self._bench, job)
        try:
            with downloaded(self._url, names) as run:
                self._bench.run = run
                seconds, problem = attempt(self._bench, job)
                if problem is not None:
                    return seconds, problem.replace(str(run.root), self._root)  # files that the user can find
                upload_results(self._url, run, job)
                return seconds, None
        except Exception as error:  # the storage's; of many kinds, as its drivers are
            return 0.0, one_line(error)


class RayPool:
    """A `Pool` of Ray actors."""

    def __init__(self, root: Path, workers: Workers) -> None:
        self._root = root.resolve()
        self._staging = Staging(self._root, workers.storage) if workers.storage else None
        self._common = self._staging.stage_common() if self._staging else []
        self._ray, self._temporary = connect(workers.count or cores(), INSTEAD)
        gpus = int(self._ray.cluster_resources().get("GPU", 0))
        # An actor that asks for more than the cluster has would wait for ever.
        self._share = min(workers.gpus_per_worker, float(gpus))
        most = sum(self._room(node) for node in self._ray.nodes())
        self.size = max(1, min(workers.count or most, most))
        self._actor = self._ray.remote(num_cpus=1, num_gpus=self._share, max_restarts=0)(AttackWorker)
        self._queue: deque[Job] = deque()
        self._starting: dict[Any, tuple[Any, set[str]]] = {}  # reference to its node -> actor, nodes that it may get
        self._idle: list[tuple[Any, str]] = []  # actor, its node
        self._busy: dict[Any, tuple[Any, str, Job]] = {}  # result reference -> actor, its node, job
        self._stillborn = 0
        self._deserted = 0.0  # since when no machine has room for a worker; 0: one has
        for _ in range(self.size):
            self._start()

    def submit(self, job: Job) -> None:
        self._queue.append(job)

    def completions(self, timeout: float) -> list[Completion]:
        done = self._assign()
        if done or not (self._queue or self._busy):
            return done
        self._look_for_room()
        ready, _ = self._ray.wait([*self._busy, *self._starting], num_returns=1, timeout=timeout)
        for reference in ready:
            if reference in self._starting:
                self._welcome(reference)
            else:
                done.append(self._conclude(reference))
        return done + self._assign()

    def close(self) -> None:
        for actor, *_ in [*self._starting.values(), *self._idle, *self._busy.values()]:
            self._ray.kill(actor)
        self._ray.shutdown()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
        if self._staging is not None:
            self._staging.close()

    def _assign(self) -> list[Completion]:
        """Give queued jobs to idle actors; those that fail already, because their files cannot be staged."""
        failed = []
        while self._queue and self._idle:
            job = self._queue.popleft()
            try:
                names = self._staging.stage(job) if self._staging else []
            except Exception as error:  # the storage's, or a capture is gone
                failed.append(Completion(job, 0.0, one_line(error)))
                continue
            actor, node = self._idle.pop()
            self._busy[actor.attempt.remote(job, names)] = (actor, node, job)
        return failed

    def _start(self) -> None:
        actor = self._actor.remote(str(self._root), self._staging.url if self._staging else "", self._common)
        self._starting[actor.node.remote()] = (actor, self._alive())

    def _welcome(self, reference: Any) -> None:
        """An actor has started, or has died of it. ConfigError if all do."""
        actor, nodes = self._starting.pop(reference)
        try:
            self._idle.append((actor, self._ray.get(reference)))
            self._stillborn = 0
        except self._ray.exceptions.RayError as error:
            self._ray.kill(actor)
            self._stillborn += nodes <= self._alive()  # it may have been promised to a machine that was dead already
            if self._stillborn < STILLBORN:
                self._start()
            elif not (self._starting or self._idle or self._busy):
                reason = str(error).strip().splitlines()[-1][:200]  # of a traceback
                raise ConfigError(f"attack workers die as they start ({reason}); fix that, or {INSTEAD}") from error

    def _conclude(self, reference: Any) -> Completion:
        actor, node, job = self._busy.pop(reference)
        try:
            seconds, problem = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:  # exceptions of the attack itself come as `problem`
            self._ray.kill(actor)
            self._start()
            lost = self._lost(node, error)
            return Completion(job, 0.0, f"worker died ({_reason(error)})", died=True, node_lost=lost)
        self._idle.append((actor, node))
        if self._staging is not None and problem is None:
            try:
                self._staging.download_results(job)
            except Exception as error:  # the storage's
                problem = one_line(error)
        return Completion(job, seconds, problem)

    def _lost(self, node: str, error: Exception) -> bool:
        """Whether the worker died with its machine.

        The cluster takes ten seconds to notice that, in which the actor is called unavailable: knock there.
        """
        if node not in self._alive():
            return True
        if not isinstance(error, self._ray.exceptions.ActorUnavailableError):
            return False
        machine = next(machine for machine in self._ray.nodes() if machine["NodeID"] == node)
        try:
            _knock(f"{machine['NodeManagerAddress']}:{machine['NodeManagerPort']}")
        except OSError:
            return True
        return False

    def _alive(self) -> set[str]:
        """Machines of which the cluster believes that they live."""
        return {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}

    def _room(self, node: dict[str, Any]) -> int:
        """Workers that a machine of the cluster holds."""
        resources = node["Resources"] if node["Alive"] else {}
        cpus = int(resources.get("CPU", 0))
        return min(cpus, on_gpus(int(resources.get("GPU", 0)), self._share)) if self._share else cpus

    def _look_for_room(self) -> None:
        """ConfigError if there is no worker, and for a minute there has been no machine that could hold one."""
        if self._idle or self._busy or any(self._room(node) for node in self._ray.nodes()):
            self._deserted = 0.0
            return
        self._deserted = self._deserted or time.monotonic()
        if time.monotonic() - self._deserted > DESERTED:
            needs = f"{self._share:g} GPU and a core" if self._share else "a core"
            raise ConfigError(
                f"no machine of the Ray cluster has {needs} for an attack worker; let one join "
                f"(ray start --address=...) and give fl-sim attack, which does what is left, or {INSTEAD}"
            )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {in_one_line(error, 200)}"


def connect(cpus: int, instead: str) -> tuple[Any, str | None]:
    """The ray module, connected, and the temporary folder of a private cluster (None: somebody else's).

    A private cluster has `cpus` CPUs. ConfigError, which says what to do `instead`, if there is no Ray to be had.
    """
    address = os.environ.get("RAY_ADDRESS") or "local"
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise ConfigError(f"the package ray is not installed; install it, or {instead}") from error
    private: dict[str, Any] = {}
    temporary = None
    if address == "local":
        temporary = tempfile.mkdtemp(prefix="fl-", dir=socket_folder())
        private = {
            "num_cpus": cpus,
            "object_store_memory": OBJECT_STORE,
            "include_dashboard": False,
            "_temp_dir": temporary,
        }
    try:
        if address not in {"local", "auto"}:
            _knock(address)
        job = import_path.ray_job()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, job_config=job, **private)
    except Exception as error:  # of many kinds: no port, no route, wrong version, no memory
        ray.shutdown()
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        where = "on this machine" if address == "local" else f"at RAY_ADDRESS={address}"
        raise ConfigError(f"Ray cannot be reached {where} ({_reason(error)}); {instead}") from error
    return ray, temporary


def _knock(address: str) -> None:
    """OSError unless something listens at `host:port`; Ray itself would keep trying for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    socket.create_connection((host, int(port)), timeout=CONNECT).close()
