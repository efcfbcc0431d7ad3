"""The workers that do attack jobs: what every pool offers, and how many workers it has.

Three pools with one signature: `attacker.workers.ray_pool` (Ray actors, one machine or many),
`attacker.workers.local_pool` (processes of this machine) and `attacker.workers.inprocess_pool` (no
other process). A pool takes jobs at any time, reports each one once,
and says when the worker died instead of finishing; trying again is the dispatcher's business, the
same for both.
"""

import os
from dataclasses import dataclass
from typing import Protocol

import torch

from attacker.workers.jobs import Job
from fl_sim.config import Workers


@dataclass(frozen=True)
class Completion:
    """What became of one submitted job."""

    job: Job
    seconds: float  # wall time of the job; 0 if the worker died
    problem: str | None = None  # one line, if the attack raised an exception or the worker died
    died: bool = False  # the worker, not the attack: worth trying again
    node_lost: bool = False  # it died with its whole machine, which is not the job's fault


class Pool(Protocol):
    size: int  # workers

    def submit(self, job: Job) -> None:
        """Queue a job for the next free worker."""

    def completions(self, timeout: float) -> list[Completion]:
        """Jobs that ended since the last call; waits up to `timeout` seconds for the first."""

    def close(self) -> None:
        """End all workers at once, busy or not."""


def worker_count(workers: Workers, cores: int, gpus: int) -> int:
    """Worker processes: `workers.count`, or for 0 as many as the GPUs hold, or one a core without GPUs."""
    if workers.count:
        return workers.count
    if gpus and workers.gpus_per_worker:
        return max(1, on_gpus(gpus, workers.gpus_per_worker))
    return max(1, cores)


def on_gpus(gpus: int, share: float) -> int:
    """Workers that `gpus` GPUs hold if each takes `share` of one; no share is split between two of them."""
    return gpus * int(1 / share) if share <= 1 else int(gpus / share)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def settle_process() -> None:
    """Once in each worker process: one thread (oversubscription is ruinous, and the thread count rounds
    floats differently), and the same convolution algorithm every time."""
    torch.set_num_threads(1)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
