"""Attack jobs in the process that asks for them, one after the other: for many small runs that share one process.

Nothing is started, and the prior is loaded once for all runs, as the cells of a sweep need it. A job that kills its
process takes the run along; the other pools outlive it.
"""

from collections import deque
from pathlib import Path

import torch

from attacker.workers.jobs import Job, Workbench, attempt
from attacker.workers.pool import Completion, settle_process
from fl_sim.config import Workers


class InProcessPool:
    """A `Pool` of this process."""

    size = 1

    def __init__(self, root: Path, workers: Workers) -> None:
        settle_process()
        self.bench = Workbench(root)
        if not workers.gpus_per_worker:
            self.bench.device = torch.device("cpu")
        self.queue: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        self.queue.append(job)

    def completions(self, timeout: float) -> list[Completion]:
        """The next job, done; there is nothing to wait for."""
        if not self.queue:
            return []
        job = self.queue.popleft()
        try:
            seconds, problem = attempt(self.bench, job)
        except SystemExit as error:  # which ends a worker of the other pools
            return [Completion(job, 0.0, f"the attack ended its process (SystemExit: {error})")]
        return [Completion(job, seconds, problem)]

    def close(self) -> None:
        self.queue.clear()
