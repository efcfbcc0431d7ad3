"""The state of a run, read off its folder while it is at work, or after.

What was trained comes from `rounds.parquet`, what happens now from the log; so it may be read from any process, and any
machine that sees the folder. A run that an older version made has no log: its jobs are then not known.
"""

import json
import math
import os
import socket
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import pandas as pd

from fl_sim.config import ConfigError, load
from fl_sim.runs import RunFolder

Line = dict[str, Any]
LATEST = 8  # lines of the log that are kept to be shown


@dataclass(frozen=True)
class State:
    """What a run has done and what is left; times in seconds. None: not known (yet)."""

    run: str
    state: Literal["running", "finished", "failed", "stopped"]
    reason: str  # why it failed; else empty
    rounds: int
    rounds_done: int
    seconds_per_round: float | None  # median
    accepted: int | None  # users in the latest round
    rejected: int | None
    accuracy: float | None  # on held-out photos after it
    loss: float | None
    backend: str | None
    workers: int | None
    jobs: int  # planned, or in the log
    done: int  # jobs that have their result, those of an earlier start too
    failed: int
    retried: int
    queued: int  # waiting or under way
    under_way: list[Line]  # label, round, users and `seconds` since its start
    seconds_per_job: dict[str, float]  # mean, by label
    left: float | None  # of training and attacks; what the measuring of the leakage takes is not known before
    measuring: bool  # training and attacks are over, the report is not written
    silence: float | None  # since the log's last line
    log: list[Line]  # the latest lines

    @property
    def failure(self) -> str:
        """Why it failed, or where that is said."""
        return self.reason or "some jobs, which reconstructions/failed.json names"


@dataclass
class Watch:
    """Follows one run: each `look` reads what was appended to the log since the one before."""

    run: RunFolder
    offset: int = 0  # bytes of the log that were read
    at_work: dict[str, Line] = field(default_factory=dict)  # by source: its `begin`, while it has not ended
    reason: str = ""
    planned: int = 0
    known: int = 0  # jobs in the rounds that the dispatcher has seen
    before: int = 0  # of them those that had their result when it started
    counts: Counter[str] = field(default_factory=Counter)  # done, failed, retry
    seconds: dict[str, list[float]] = field(default_factory=dict)  # by label: jobs, and their seconds together
    under_way: dict[tuple[str, int, int], Line] = field(default_factory=dict)
    pool: Line = field(default_factory=dict)
    attacked: bool = False  # the dispatcher has ended
    latest: deque[Line] = field(default_factory=lambda: deque(maxlen=LATEST))

    def look(self) -> State:
        """The state as it is now. Raises ConfigError for what is no run, or one whose rounds cannot be read."""
        config, table = load(self.run.config), self._rounds()
        for line in self._appended():
            self._take(line)
        last = {str(name): _number(value) for name, value in table.iloc[-1].items()} if len(table) else {}
        per_round = _number(table["seconds"].median()) if "seconds" in table else None
        settled = self.before + self.counts["done"] + self.counts["failed"]
        jobs = self.known if self.attacked else max(self.planned, self.known)
        now = datetime.now(UTC)
        state = self._state()
        rounds_left = config.federation.rounds - len(table)
        return State(
            run=config.name,
            state=state,
            reason=self.reason if state == "failed" else "",
            rounds=config.federation.rounds,
            rounds_done=len(table),
            seconds_per_round=per_round,
            accepted=_whole(last.get("accepted")),
            rejected=_whole(last.get("rejected")),
            accuracy=last.get("accuracy"),
            loss=last.get("loss"),
            backend=self.pool.get("backend"),
            workers=self.pool.get("workers"),
            jobs=jobs,
            done=self.before + self.counts["done"],
            failed=self.counts["failed"],
            retried=self.counts["retry"],
            queued=self.known - settled,
            under_way=[_job(line) | {"seconds": _since(line, now)} for line in self.under_way.values()],
            seconds_per_job={label: total / count for label, (count, total) in self.seconds.items()},
            left=self._left(rounds_left, per_round, jobs - settled) if state == "running" else None,
            measuring=state == "running" and rounds_left <= 0 and (self.attacked or not jobs),
            silence=_since(self.latest[-1], now) if self.latest else None,
            log=list(self.latest),
        )

    def _rounds(self) -> pd.DataFrame:
        if not self.run.rounds.exists():
            return pd.DataFrame()
        try:
            with self.run.rounds.open("rb") as file:  # by its path it is opened twice: it may be replaced meanwhile
                return pd.read_parquet(file)
        except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
            raise ConfigError(f"{self.run.rounds} is damaged ({error}); remove it and give fl-sim run again") from error

    def _appended(self) -> list[Line]:
        """The whole lines that were appended since the last call; what is no line of ours is left out."""
        try:
            with self.run.log.open("rb") as file:
                file.seek(self.offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self.offset += len(whole)
        lines = []
        for text in whole.splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and {"time", "source", "event", "level"} <= line.keys():
                lines.append(line)
        return lines

    def _take(self, line: Line) -> None:
        self.latest.append(line)
        source, event = line["source"], line["event"]
        if event == "begin":
            if source == "run":  # a run that is taken up again, or attacked again
                self._forget_jobs()
                self.planned, self.reason = line["jobs"], ""
                self.at_work.clear()
            self.at_work[source] = line
        elif event in {"end", "stopped", "error"} and source != "dispatcher":
            self.at_work.pop(source, None)
        if event in {"error", "problem"}:
            self.reason = line["reason"]
        if event == "problem":  # the dispatcher died
            self.attacked = True
        if source == "worker":
            self.under_way[_key(line)] = line
        elif source == "dispatcher":
            self._dispatched(line)

    def _dispatched(self, line: Line) -> None:
        event = line["event"]
        if event == "round":
            if self.attacked:  # a dispatcher that was started by hand
                self._forget_jobs()
            self.known += line["jobs"] + line["skipped"]
            self.before += line["skipped"]
        elif event == "start":
            self.pool = line
        elif event in {"done", "failed", "retry"}:
            self.counts[event] += 1
            self.under_way.pop(_key(line), None)
            if event == "done":
                jobs, seconds = self.seconds.get(line["label"], [0, 0.0])
                self.seconds[line["label"]] = [jobs + 1, seconds + line["seconds"]]
        elif event in {"end", "error"}:
            self.attacked = True

    def _forget_jobs(self) -> None:
        self.known, self.before, self.attacked = 0, 0, False
        self.counts.clear()
        self.seconds.clear()
        self.under_way.clear()

    def _state(self) -> Literal["running", "finished", "failed", "stopped"]:
        if any(_alive(line) for line in self.at_work.values()):
            return "running"
        if self.reason or self.run.failed.exists():
            return "failed"
        return "finished" if self.run.report.exists() else "stopped"  # it is written last of all

    def _left(self, rounds: int, per_round: float | None, jobs: int) -> float | None:
        """Seconds until training and attacks are over; they go on side by side."""
        jobs = 0 if self.attacked else jobs
        done = sum(count for count, _ in self.seconds.values())
        if (rounds and per_round is None) or (jobs and not done):
            return None
        training = rounds * (per_round or 0.0)
        per_job = sum(total for _, total in self.seconds.values()) / done if done else 0.0
        return max(training, jobs * per_job / int(self.pool.get("workers", 1)))


def _key(line: Line) -> tuple[str, int, int]:
    return line["label"], line["round"], line["users"][0]


def _job(line: Line) -> Line:
    return {name: line[name] for name in ("label", "round", "users")}


def _number(value: Any) -> float | None:
    """A figure of a table; None for one that is not there."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _since(line: Line, now: datetime) -> float:
    return max(0.0, (now - datetime.fromisoformat(line["time"])).total_seconds())


def _alive(line: Line) -> bool:
    """Whether the process that wrote `line` may be at work: of another machine's nothing is known but what it wrote."""
    if line["host"] != socket.gethostname():
        return True
    try:
        os.kill(line["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True
