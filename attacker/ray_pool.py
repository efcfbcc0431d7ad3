"""Attack workers as Ray actors, on a cluster of their own.

The cluster is the one that the environment variable RAY_ADDRESS names (its machines must see the run
folder under the same path), or a private one on this machine that ends with the pool. It is never
Flower's: that one has no core to spare and shuts down with the training.

A dead actor is replaced and its job reported as died, instead of Ray's own `max_restarts`: those count
over an actor's whole life, so that a long run would lose its workers one by one, and retry in silence.
"""

import logging
import os
import shutil
import socket
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

from attacker.jobs import Job, Workbench, attempt
from attacker.workers import Completion, cores, settle_process, worker_count
from fl_sim.config import ConfigError, Workers

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

OBJECT_STORE = 100_000_000  # bytes; only jobs and one-line outcomes pass through it
CONNECT = 10  # seconds to wait for a cluster that RAY_ADDRESS names
INSTEAD = "give `-o workers.backend=local` to use processes of this machine instead"
LONGEST_TEMPORARY = 30  # characters; Ray puts sockets below it, whose paths may have 107


class AttackWorker:
    """The actor: one process that keeps model and priors between jobs."""

    def __init__(self, root: str) -> None:
        settle_process()
        self._bench = Workbench(Path(root))
        self._bench.warm()

    def attempt(self, job: Job) -> tuple[float, str | None]:
        return attempt(self._bench, job)


class RayPool:
    """A `Pool` of Ray actors."""

    def __init__(self, root: Path, workers: Workers) -> None:
        self._root = str(root.resolve())
        self._ray, self._temporary = connect(workers.count or cores(), INSTEAD)
        resources = self._ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        # An actor that asks for more than the cluster has would wait for ever.
        share = min(workers.gpus_per_worker, float(gpus))
        most = int(resources.get("CPU", 1))
        if share:
            most = min(most, int(gpus / share))
        self.size = max(1, min(worker_count(workers, most, gpus), most))
        self._actor = self._ray.remote(num_cpus=1, num_gpus=share, max_restarts=0)(AttackWorker)
        self._queue: deque[Job] = deque()
        self._idle = [self._actor.remote(self._root) for _ in range(self.size)]
        self._busy: dict[Any, tuple[Any, Job]] = {}  # result reference -> actor, job

    def submit(self, job: Job) -> None:
        self._queue.append(job)

    def completions(self, timeout: float) -> list[Completion]:
        self._assign()
        if not self._busy:
            return []
        ready, _ = self._ray.wait(list(self._busy), num_returns=1, timeout=timeout)
        done = []
        for reference in ready:
            actor, job = self._busy.pop(reference)
            try:
                seconds, problem = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:  # exceptions of the attack itself come as `problem`
                self._ray.kill(actor)
                self._idle.append(self._actor.remote(self._root))
                reason = " ".join(str(error).split())[:200]
                done.append(Completion(job, 0.0, f"worker died ({type(error).__name__}: {reason})", died=True))
                continue
            self._idle.append(actor)
            done.append(Completion(job, seconds, problem))
        self._assign()
        return done

    def close(self) -> None:
        for actor in [*self._idle, *(actor for actor, _ in self._busy.values())]:
            self._ray.kill(actor)
        self._ray.shutdown()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _assign(self) -> None:
        while self._queue and self._idle:
            actor, job = self._idle.pop(), self._queue.popleft()
            self._busy[actor.attempt.remote(job)] = (actor, job)


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
        private = {
            "num_cpus": cpus,
            "object_store_memory": OBJECT_STORE,
            "include_dashboard": False,
        }
        if len(tempfile.gettempdir()) <= LONGEST_TEMPORARY:
            temporary = private["_temp_dir"] = tempfile.mkdtemp(prefix="fl-")
    try:
        if address not in {"local", "auto"}:
            _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **private)
    except Exception as error:  # of many kinds: no port, no route, wrong version, no memory
        ray.shutdown()
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        reason = " ".join(str(error).split())[:200]
        where = "on this machine" if address == "local" else f"at RAY_ADDRESS={address}"
        raise ConfigError(f"Ray cannot be reached {where} ({type(error).__name__}: {reason}); {instead}") from error
    return ray, temporary


def _knock(address: str) -> None:
    """OSError unless something listens at `host:port`; Ray itself would keep trying for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    socket.create_connection((host, int(port)), timeout=CONNECT).close()
