"""Attack workers as processes of this machine, for where Ray cannot run.

One process a worker and one pipe to each, so that a dead worker is known by its closed pipe and costs
only its own job (concurrent.futures breaks the whole pool). Only jobs and one-line outcomes cross.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch

from attacker.workers.jobs import Job, Workbench, attempt
from attacker.workers.pool import Completion, cores, settle_process, worker_count
from fl_sim.config import Workers

SPAWN = multiprocessing.get_context("spawn")  # a forked torch may deadlock, and cannot use CUDA


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    gpu: int | None
    job: Job | None = None


class LocalPool:
    """A `Pool` of spawned processes."""

    def __init__(self, root: Path, workers: Workers) -> None:
        self._root = root
        self._gpus = torch.cuda.device_count() if workers.gpus_per_worker else 0
        self.size = worker_count(workers, cores(), self._gpus)
        self._queue: deque[Job] = deque()
        self._workers: list[_Worker] = []
        for _ in range(self.size):
            self._start()

    def submit(self, job: Job) -> None:
        self._queue.append(job)

    def completions(self, timeout: float) -> list[Completion]:
        self._assign()
        by_pipe = {worker.pipe: worker for worker in self._workers}
        done = []
        for pipe in wait(list(by_pipe), timeout):
            worker = by_pipe[pipe]  # type: ignore[index]
            job = worker.job
            try:
                seconds, problem = worker.pipe.recv()
            except (EOFError, OSError):
                problem = self._bury(worker)
                if job is not None:
                    done.append(Completion(job, 0.0, problem, died=True))
                continue
            worker.job = None
            assert job is not None
            done.append(Completion(job, seconds, problem))
        self._assign()
        return done

    def close(self) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()
        self._workers = []

    def _assign(self) -> None:
        """Give queued jobs to idle workers; a dead worker is replaced only when a job waits for it."""
        while self._queue:
            idle = next((worker for worker in self._workers if worker.job is None), None)
            if idle is None:
                if len(self._workers) == self.size:
                    return
                idle = self._start()
            try:
                idle.pipe.send(self._queue[0])
            except OSError:
                self._bury(idle)
                continue
            idle.job = self._queue.popleft()

    def _start(self) -> _Worker:
        ours, theirs = SPAWN.Pipe()
        taken = [worker.gpu for worker in self._workers]
        gpu = min(range(self._gpus), key=taken.count) if self._gpus else None
        process = SPAWN.Process(target=_serve, args=(theirs, self._root, gpu), daemon=True)
        process.start()
        theirs.close()  # else the pipe would stay open after the worker's death
        worker = _Worker(process, ours, gpu)
        self._workers.append(worker)
        return worker

    def _bury(self, worker: _Worker) -> str:
        worker.pipe.close()
        worker.process.kill()
        worker.process.join()
        self._workers.remove(worker)
        code = worker.process.exitcode or 0
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"worker process {worker.process.pid} died ({how})"


def _serve(pipe: Connection, root: Path, gpu: int | None) -> None:
    """A worker's life: take a job, do it, say how it went; end with the dispatcher."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the dispatcher decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if gpu is None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    else:
        torch.cuda.set_device(gpu)
    settle_process()
    bench = Workbench(root)
    bench.warm()
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        pipe.send(attempt(bench, job))


def _end_with_parent() -> None:
    """Do not attack on for an hour when nobody is there to hear of it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
