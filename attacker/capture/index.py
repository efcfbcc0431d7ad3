"""The index of captures: one JSON line a reply, a round's lines and its end mark in one append.

Each line is read once, in the order of the file, and kept by round: what a look-up takes depends on the round asked
for, not on how many came before. A file that was replaced (a resumed run, a rebuilt index) is read from its start.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fl_sim.config import ConfigError
from fl_sim.runs import write_atomically

Row = dict[str, Any]
FINISHED = "finished"  # the status of a round's end mark
LONGEST = 1 << 20  # bytes of a line, by far


class Index:
    """`path`, which another process may be appending to; one process writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._inode = 0
        self._end = 0  # bytes read
        self._lines: dict[int, list[bytes]] = {}  # of each round, without end marks; as rows: 4 times the room
        self._finished: set[int] = set()

    def finished(self) -> list[int]:
        """Rounds that have an end mark, ascending."""
        self._read()
        return sorted(self._finished)

    def rows(self, server_round: int) -> list[Row]:
        """The lines of one round, without its end mark."""
        self._read()
        return [json.loads(line) for line in self._lines.get(server_round, [])]

    def all_rows(self) -> Iterator[Row]:
        """The lines of all rounds, without end marks, round by round."""
        self._read()
        return (json.loads(line) for server_round in sorted(self._lines) for line in self._lines[server_round])

    def append(self, server_round: int, rows: list[Row]) -> None:
        """A round that is on disk: its lines and its end mark, all of them or, in a crash, the first few."""
        rows = [*rows, {"round": server_round, "status": FINISHED}]
        self.path.touch(mode=0o600)  # for its owner alone, as all files of a run
        self._drop_cut_off()
        with self.path.open("ab") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
            file.flush()
            os.fsync(file.fileno())

    def _drop_cut_off(self) -> None:
        """Take away a last line that a full disk or a crash has cut off: what follows it could not be read."""
        with self.path.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            start = file.seek(max(0, size - LONGEST))
            whole = file.read().rfind(b"\n") + 1
            if start + whole < size and (whole or not start):
                file.truncate(start + whole)

    def forget_from(self, server_round: int) -> None:
        """Drop the lines of `server_round` and later ones."""
        if not self.path.exists():
            return
        self._read()
        lines: list[bytes] = []
        for earlier in sorted(self._lines.keys() | self._finished):
            if earlier < server_round:
                lines += self._lines.get(earlier, [])
                if earlier in self._finished:
                    lines.append(json.dumps({"round": earlier, "status": FINISHED}).encode())
        write_atomically(self.path, b"".join(line + b"\n" for line in lines))

    def _read(self) -> None:
        """Take up what was appended since. ConfigError for a line that is none."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            self._inode = self._end = 0
            self._lines, self._finished = {}, set()
            return
        with file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._inode or status.st_size < self._end:
                self._inode, self._end = status.st_ino, 0
                self._lines, self._finished = {}, set()
            file.seek(self._end)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # cut off by a crash, or still being written
                self._take(line)
                self._end += len(line)

    def _take(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            server_round, status = row["round"], row["status"]
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"{self.path} is damaged ({error}); `fl-sim run` or `fl-sim attack {self.path.parent.parent}` rebuilds "
                "it, `fl-sim audit` that of somebody else's federation"
            ) from error
        if status == FINISHED:
            self._finished.add(server_round)
        else:
            self._lines.setdefault(server_round, []).append(line.rstrip(b"\n"))
