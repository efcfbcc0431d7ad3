"""The dispatcher as `fl-sim run` sees it: a process beside training, or none, and what it said of its jobs."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Thread
from typing import Any

from fl_sim import import_path
from fl_sim.config import Config, ConfigError
from fl_sim.federation.sampling import users_per_round
from fl_sim.log import Log
from fl_sim.runs import RunFolder, failed_job

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total); the stages are `rounds`, `queued`, `attacks` and `leakage`.

`queued` are attack jobs whose captures lie on disk, waiting or under way: their number rises and falls."""


def planned_jobs(config: Config) -> int:
    """Attack jobs of the whole run, if every update of every attacked round is accepted."""
    if config.workers.backend == "none":
        return 0
    captures = users_per_round(config) // max(config.protocol.secure_aggregation, 1)
    batches = -(-captures // config.workers.victims_per_job)
    rounds = len(set(config.workers.attack_rounds)) or config.federation.rounds
    return len(config.attacks) * batches * rounds


class Dispatch:
    """What is said of the attack jobs of a run."""

    def __init__(self, folder: RunFolder, config: Config, progress: Progress) -> None:
        self.problems: list[str] = []
        self.folder = folder
        self.total = planned_jobs(config)
        self.done = 0
        self._progress = progress

    def wait(self) -> None:
        """Return when all jobs are done, or given up."""
        raise NotImplementedError

    @property
    def at_work(self) -> bool:
        """Whether jobs are done while this process is free."""
        return False

    def end(self) -> None:
        """Give up all jobs at once."""

    def _hear(self, event: Mapping[str, Any]) -> None:
        """An event as `attacker.workers.dispatch` lists them."""
        if event["event"] == "round":
            self.done += event["skipped"]
        elif event["event"] == "done":
            self.done += 1
        elif event["event"] == "failed":
            self.problems.append(failed_job(event))
        if "queued" in event:
            self._progress("queued", event["queued"], self.total)
        self._progress("attacks", self.done, self.total)


class InProcess(Dispatch):
    """The dispatcher in this process, at work when it is waited for."""

    def __init__(self, folder: RunFolder, config: Config, progress: Progress, force: bool) -> None:
        super().__init__(folder, config, progress)
        self._config, self._force = config, force

    def wait(self) -> None:
        from attacker.workers import dispatch  # and so torch

        def emit(event: str, **facts: Any) -> None:
            self._hear({"event": event, **facts})

        try:
            log = Log(self.folder, "dispatcher")
            dispatch.carry_out(self.folder, self._config, dispatch.logged(log, emit), self._force)
        except ConfigError as error:
            self.problems.append(str(error))


class Beside(Dispatch):
    """The dispatcher as a process of its own."""

    def __init__(
        self,
        folder: RunFolder,
        config: Config,
        progress: Progress,
        follow: bool,
        force: bool,
        await_faces: bool,
    ) -> None:
        super().__init__(folder, config, progress)
        self.log = folder.root / "attack.log"
        # -P: Python would look into the current folder first, where a user's folders may have the names of ours.
        command = [sys.executable, "-P", "-m", "attacker.workers.dispatch", str(folder.root)]
        command += ["--parent", str(os.getpid())]
        command += ["--follow"] if follow else []
        command += ["--force"] if force else []
        command += ["--await-faces"] if await_faces else []
        self.log.touch(mode=0o600)
        with self.log.open("w", encoding="utf-8") as log:
            environment = {**os.environ, "PYTHONPATH": import_path.as_variable()}
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._hear(json.loads(line))

    def wait(self) -> None:
        code = self.process.wait()
        self._reader.join()
        if code and not self.problems:
            lines = self.log.read_text(encoding="utf-8").splitlines()
            self.problems.append(
                f"the attack dispatcher ended with exit code {code}: {lines[-1] if lines else 'it said nothing'} "
                f"(all of it in {self.log}); the captures are kept, try again with fl-sim attack"
            )
            Log(self.folder, "run")("problem", "error", reason=self.problems[0])

    @property
    def at_work(self) -> bool:
        return self.process.poll() is None

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()


@contextmanager
def dispatcher(
    folder: RunFolder,
    config: Config,
    progress: Progress,
    follow: bool,
    force: bool = False,
    await_faces: bool = False,
) -> Iterator[Dispatch | None]:
    """The dispatcher at work beside the block or, in this process, after it: waited for, ended if the block fails.

    `await_faces`: somebody is making the face space of the run, which no attack must begin without.
    """
    if config.workers.backend == "none" or not config.attacks:
        yield None
        return
    dispatch: Dispatch
    if config.workers.backend == "inprocess":
        dispatch = InProcess(folder, config, progress, force)
    else:
        dispatch = Beside(folder, config, progress, follow, force, await_faces)
    try:
        yield dispatch
        dispatch.wait()
    except BaseException:
        dispatch.end()
        raise
