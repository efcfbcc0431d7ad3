"""The dispatcher: hands captured updates to the attack workers, while training goes on or afterwards.

    python -m attacker.workers.dispatch runs/NAME [--follow] [--await-faces] [--force] [--parent PID]

It is a process of its own, with its own Ray connection. Without --follow it attacks the rounds that
are there; with it, until all rounds of the config are. With
--await-faces no job begins before the run folder holds the face space. Jobs whose results exist are not done again;
with --force all are, once.
One JSON object a line on stdout, and in the run's log:

    {"event": "start", "backend", "workers"}                      the pool is up (absent if nothing is to do)
    {"event": "round", "round", "users", "jobs", "skipped", "queued"}      a finished round: its jobs, those done before
    {"event": "done", "label", "round", "users", "seconds", "queued"}      queued: all jobs waiting or under way
    {"event": "retry", ..., "reason", "attempt"}                  its worker died; tried again
    {"event": "failed", ..., "reason", "queued"}                  given up; also in reconstructions/failed.json
    {"event": "idle"}                                             all jobs done, waiting for the next round
    {"event": "end", "done", "failed"}

Exit code: 0 all done, 1 some jobs failed, 2 a mistake in the config (told on stderr in one sentence).
"""

import argparse
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from attacker import attacks
from attacker.attack import Attack
from attacker.capture.store import CaptureStore
from attacker.workers.jobs import Job, batches, is_done
from attacker.workers.metrics import open_metrics
from attacker.workers.pool import Pool
from fl_sim.config import Config, ConfigError, Workers, load
from fl_sim.log import Level, Log
from fl_sim.runs import RunFolder, write_atomically

POLL = 0.2  # seconds between two looks at the capture store

LEVELS: dict[str, Level] = {"retry": "warning", "failed": "error"}  # in the log; all other events are info

Emit = Callable[..., None]  # (event, **facts)


@dataclass
class Dispatcher:
    """The state of one dispatch: which rounds were seen, which jobs are open, which failed."""

    run: RunFolder
    config: Config
    emit: Emit
    force: bool = False
    await_faces: bool = False
    seen: set[int] = field(default_factory=set)  # rounds whose jobs are known
    waiting: list[Job] = field(default_factory=list)  # known, not yet handed to the pool
    under_way: set[Job] = field(default_factory=set)
    deaths: Counter[Job] = field(default_factory=Counter)
    done: int = 0
    failed: list[dict[str, Any]] = field(default_factory=list)
    index_size: int = -1  # bytes of the store's index at the last look

    def __post_init__(self) -> None:
        self.store = CaptureStore(self.run)
        self.attacks: dict[str, Attack] = {
            label: attacks.load(label, table) for label, table in self.config.attacks.items()
        }

    def look(self) -> None:
        """Find newly finished rounds and what is to do there. ConfigError for results made otherwise, unless forced."""
        if self.await_faces and not self.run.faces.exists():
            return
        index = self.run.captures / "index.jsonl"
        size = index.stat().st_size if index.exists() else 0
        if size == self.index_size:  # a look every POLL seconds must not parse a long index each time
            return
        self.index_size = size
        for server_round in sorted(set(self.store.finished_rounds()) - self.seen):
            users = self.store.users(server_round)
            victims = self.config.workers.victims_per_job
            wanted = server_round in (self.config.workers.attack_rounds or [server_round])
            labels = self.attacks if wanted else []
            jobs = [job for label in labels for job in batches(label, server_round, users, victims)]
            # Forced jobs are not asked about: a recipe does not tell that a prior was trained anew under its old name.
            # Each round is seen once, so what was forced is not taken for undone again.
            todo = [
                job for job in jobs if self.force or not is_done(self.run, self.config, self.attacks[job.label], job)
            ]
            self.seen.add(server_round)
            self.waiting += todo
            skipped = len(jobs) - len(todo)
            queued = len(self.waiting) + len(self.under_way)
            self.emit("round", round=server_round, users=len(users), jobs=len(todo), skipped=skipped, queued=queued)

    def expects_rounds(self) -> bool:
        return len(self.seen) < self.config.federation.rounds

    def step(self, pool: Pool) -> None:
        """Hand over what waits, and hear what ended."""
        for job in self.waiting:
            pool.submit(job)
        self.under_way |= set(self.waiting)
        self.waiting = []
        for completion in pool.completions(POLL):
            job, about = completion.job, _about(completion.job)
            if completion.died and (completion.node_lost or self.deaths[job] < self.config.workers.retries):
                self.deaths[job] += not completion.node_lost
                self.emit("retry", **about, reason=completion.problem, attempt=self.deaths[job] + 1)
                pool.submit(job)
                continue
            self.under_way.remove(job)
            if completion.problem is None:
                self.done += 1
                seconds = round(completion.seconds, 3)
                self.emit("done", **about, seconds=seconds, queued=len(self.under_way))
            else:
                self.failed.append({**about, "reason": completion.problem})
                self.emit("failed", **about, reason=completion.problem, queued=len(self.under_way))


def dispatch(dispatcher: Dispatcher, open_workers: Callable[[], Pool], follow: bool, alive: Callable[[], bool]) -> None:
    """Run until all is done (and, with `follow`, all rounds were seen), or `alive` says that nobody waits."""
    dispatcher.look()
    pool: Pool | None = None
    idle = False
    try:
        while alive():
            more = follow and dispatcher.expects_rounds()
            if not (dispatcher.waiting or dispatcher.under_way):
                if not more:
                    return
                if not idle:
                    dispatcher.emit("idle")
                idle = True
            else:
                idle = False
            if pool is None:  # not before it is clear that there is work: Ray takes seconds to start
                pool = open_workers()
                dispatcher.emit("start", backend=dispatcher.config.workers.backend, workers=pool.size)
            if idle:
                time.sleep(POLL)
            dispatcher.step(pool)
            if more:
                dispatcher.look()
    finally:
        if pool is not None:
            pool.close()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m attacker.workers.dispatch", description="Attack the captures of a run."
    )
    parser.add_argument("run", type=Path, help="the run folder")
    parser.add_argument("--follow", action="store_true", help="wait for the rounds that are still to come")
    parser.add_argument("--await-faces", action="store_true", help="wait for faces.safetensors before any job")
    parser.add_argument("--force", action="store_true", help="attack all anew and replace results that there are")
    parser.add_argument("--parent", type=int, help="end when this process, the one that started us, is gone")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminate)
    os.environ["OMP_NUM_THREADS"] = "1"  # for the workers, before they import torch
    run = RunFolder(given.run)
    log = Log(run, "dispatcher")
    stdout = _private_stdout()
    try:
        config = load(run.config)
        count = open_metrics(config.workers.metrics_port, config.attacks)

        def emit(event: str, **facts: Any) -> None:
            print(json.dumps({"event": event, **facts}), file=stdout, flush=True)
            count(event, **facts)

        dispatcher = carry_out(
            run,
            config,
            logged(log, emit),
            given.force,
            given.follow,
            given.await_faces,
            alive=lambda: given.parent is None or os.getppid() == given.parent,
        )
    except ConfigError as error:
        print(error, file=sys.stderr)
        log("error", "error", reason=str(error))
        return 2
    except (BrokenPipeError, KeyboardInterrupt):
        return 130  # nobody listens any more
    return 1 if dispatcher.failed or dispatcher.under_way else 0


def carry_out(
    run: RunFolder,
    config: Config,
    emit: Emit,
    force: bool = False,
    follow: bool = False,
    await_faces: bool = False,
    alive: Callable[[], bool] = lambda: True,
) -> Dispatcher:
    """Attack what is captured in `run` as `config` says, and note there what failed; the dispatcher at its end.

    Raises ConfigError for a run without attack workers, and for results that were made otherwise.
    """
    if config.workers.backend == "none":
        raise ConfigError("workers.backend is 'none', so this run has no attack; set it to ray, local or inprocess")
    dispatcher = Dispatcher(run, config, emit, force, await_faces)
    dispatch(dispatcher, lambda: open_pool(run.root, config.workers), follow, alive)
    _note_failures(run, dispatcher.failed)
    emit("end", done=dispatcher.done, failed=len(dispatcher.failed))
    return dispatcher


def logged(log: Log, emit: Emit) -> Emit:
    """`emit`, of which the run's log is told, too."""

    def both(event: str, **facts: Any) -> None:
        log(event, LEVELS.get(event, "info"), **facts)
        emit(event, **facts)

    return both


def open_pool(root: Path, workers: Workers) -> Pool:
    """The pool of `workers.backend` for the run folder `root`; its workers start loading at once.

    Raises ConfigError if Ray is asked for and cannot be had.
    """
    if workers.backend == "ray":
        from attacker.workers.ray_pool import RayPool

        return RayPool(root, workers)
    if workers.backend == "inprocess":
        from attacker.workers.inprocess_pool import InProcessPool

        return InProcessPool(root, workers)
    from attacker.workers.local_pool import LocalPool

    return LocalPool(root, workers)


def _about(job: Job) -> dict[str, Any]:
    return {"label": job.label, "round": job.server_round, "users": list(job.users)}


def _private_stdout() -> TextIO:
    """Stdout for events alone: what attacks and libraries print goes to stderr from here on."""
    stream = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return stream


def _note_failures(run: RunFolder, failed: list[dict[str, Any]]) -> None:
    """Leave beside the results why some are missing; a later dispatch that does them removes the note."""
    if failed:
        write_atomically(run.failed, json.dumps(failed, indent=2).encode())
    else:
        run.failed.unlink(missing_ok=True)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # unwinds, so that the workers are ended


if __name__ == "__main__":
    sys.exit(main())
