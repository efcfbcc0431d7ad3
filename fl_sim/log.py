"""The log of a run: `log.jsonl`, one JSON object a line, appended by every process that works on the run.

    {"time": "2026-01-31T12:00:00.123Z", "level": "info", "source": "server", "event": "round", "round": 1, ...}

The events and their facts are listed in docs/observability.md. They are counts, times, ids and reasons, never a photo,
an update or an attribute of anybody. A line is one write in append mode, so lines of several processes do not mix; on a
network file system they may, and a reader skips what is no line.
"""

import json
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from fl_sim.config_errors import in_one_line
from fl_sim.runs import RunFolder

Level = Literal["info", "warning", "error"]
Source = Literal["run", "server", "dispatcher", "worker"]


@dataclass(frozen=True)
class Log:
    """The log of `run` for one of the processes that write to it."""

    run: RunFolder
    source: Source

    def __call__(self, event: str, level: Level = "info", **facts: Any) -> None:
        """Append a line; `facts` are JSON, where a number that is not finite becomes null.

        A log that cannot be written stops nothing: where the disk is full, the results themselves will say so.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"time": now, "level": level, "source": self.source, "event": event}
        line |= {name: _finite(value) for name, value in facts.items()}
        with suppress(OSError):
            handle = os.open(self.run.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(handle, (json.dumps(line, allow_nan=False) + "\n").encode())
            finally:
                os.close(handle)

    @contextmanager
    def around(self, **facts: Any) -> Iterator[None]:
        """Log `begin` with `facts`, then how the block ended: `end`, `stopped` or `error`.

        `pid` and `host` let a reader on the same machine see that a process was killed, which can say nothing more.
        """
        self("begin", **facts, pid=os.getpid(), host=socket.gethostname())
        try:
            yield
        except Exception as error:
            self("error", "error", reason=f"{type(error).__name__}: {in_one_line(error, 300)}")
            raise
        except BaseException:  # Ctrl-C, or told to end
            self("stopped", "warning")
            raise
        self("end")


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
