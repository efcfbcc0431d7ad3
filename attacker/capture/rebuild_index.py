"""A damaged index of captures, rebuilt from the captures themselves.

Each capture file says of which round and user it is, and the model of the next round is written after all captures
of a round: so a round is whole if that model is there. Lost are only the lines of replies that were not accepted.
"""

import json
from pathlib import Path

from attacker.capture.index import FINISHED, Row
from attacker.capture.store import CaptureStore
from fl_sim.runs import RunFolder, write_atomically
from fl_sim.tensors import read_tensors
from fl_sim.updates import norm


def rebuild_index(run: RunFolder) -> str | None:
    """Rebuild the index if it is damaged or gone, and say so in one sentence; None if nothing was wrong.

    Raises DamagedFile for a capture that is damaged too.
    """
    index = run.captures / "index.jsonl"
    rows, damaged = _read(index)
    captured = _captured(run)
    marked = {row["round"] for row in rows if row["status"] == FINISHED}
    whole = sorted({number for number in captured if run.global_model(number + 1).exists()} | marked)
    if damaged == 0 and (index.exists() or not whole):
        return None
    rebuilt: list[Row] = []
    for server_round in whole:
        kept = [row for row in rows if row["round"] == server_round and row["status"] != FINISHED]
        listed = {row["user"] for row in kept if row["status"] == "accepted"}
        lost = [user for user in captured.get(server_round, []) if user not in listed]
        rebuilt += [*kept, *(_row(run, server_round, user) for user in lost)]
        rebuilt.append({"round": server_round, "status": FINISHED})
    write_atomically(index, "".join(json.dumps(row) + "\n" for row in rebuilt).encode())
    what = f"had {damaged} damaged lines" if damaged else "was missing"
    return f"{index} {what}; it was rebuilt from the captures, without replies that were not accepted"


def _read(index: Path) -> tuple[list[Row], int]:
    """The lines that can be read, and how many cannot."""
    lines = index.read_bytes().split(b"\n")[:-1] if index.exists() else []
    rows, damaged = [], 0
    for line in lines:
        try:
            row = json.loads(line)
            if not isinstance(row["round"], int) or (row["status"] != FINISHED and "user" not in row):
                raise ValueError(line)
        except (ValueError, TypeError, KeyError, RecursionError):
            damaged += 1
        else:
            rows.append(row)
    return rows, damaged


def _captured(run: RunFolder) -> dict[int, list[int]]:
    """The users of each round who have a capture file."""
    users: dict[int, list[int]] = {}
    for path in sorted(run.captures.glob("round-*/user-*.safetensors")):
        users.setdefault(int(path.parent.name.removeprefix("round-")), []).append(int(path.stem.removeprefix("user-")))
    return users


def _row(run: RunFolder, server_round: int, user: int) -> Row:
    """The index line of a capture, as far as its file tells: not from which node it came, nor how long it took.

    Its bytes are those of the numbers alone.
    """
    # A user of somebody else's federation may not have told how many photos it has: any number lets it be read.
    seen = CaptureStore(run).observation(server_round, user, num_examples=1)
    tensors, metadata = read_tensors(run.capture(server_round, user))
    row: Row = {"members": list(seen.members)} if seen.members else {}
    return row | {
        "round": server_round,
        "user": user,
        "node": "",
        "status": "accepted",
        "reason": "",
        "num_examples": json.loads(metadata["facts"])["num_examples"],
        "norm": norm(seen.gradient),
        "bytes": sum(value.numel() * value.element_size() for value in tensors.values()),
        "seconds": None,
    }
