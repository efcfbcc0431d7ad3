"""The capture store: everything that the malicious server received, on disk, and what attacks made of it.

A round is written in the background, in this order: the update files, the model of the next round, then
the index lines of the round and its end mark in one append. So a round with an end mark is whole, on disk,
and can be attacked while training goes on; a run that dies in between loses only the round at hand.
Every file is written under a temporary name, fsynced and renamed. Nothing is pickled.
"""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from attacker.capture.index import Index, Row
from attacker.observation import LocalTraining, Observation, Reconstruction, pixels
from fl_sim.config import ConfigError
from fl_sim.runs import RunFolder, write_atomically
from fl_sim.tensors import DamagedFile, check, read_tensors
from fl_sim.updates import Update, to_gradient

Status = Literal["accepted", "rejected", "error"]
STATISTICS = "statistics:"  # before the names of batch-norm statistics in a capture file; no parameter has a colon


@dataclass(frozen=True)
class Capture:
    """One reply as it came in; `row()` is its line in the index."""

    user: int | None  # partition id; None if it could not be learnt
    node: int  # Flower's node id, an unsigned 64-bit number, different in every run
    status: Status
    reason: str  # why it was not accepted; empty if it was
    num_examples: int | None  # as reported; None if it is not told
    norm: float | None  # L2 norm of the gradient; None if there is none or it is not finite
    bytes: int  # of the arrays as received
    seconds: float | None  # from the request to the reply
    update: Update | None = None  # as received, gradient or weights; only of accepted ones
    label_proportions: list[float] | None = None
    statistics: Update | None = None  # batch-norm means and variances of the user's photos
    members: tuple[int, ...] = ()  # users of whose updates this is the mean, `user` first; empty: of `user` alone
    notes: tuple[str, ...] = ()  # what had to be assumed to read it

    def row(self, server_round: int) -> Row:
        members: Row = {"members": list(self.members)} if self.members else {}
        notes: Row = {"notes": list(self.notes)} if self.notes else {}
        return (
            members
            | notes
            | {
                "round": server_round,
                "user": self.user,
                "node": str(self.node),  # beyond what JSON readers take for an integer
                "status": self.status,
                "reason": self.reason,
                "num_examples": self.num_examples,
                "norm": self.norm,
                "bytes": self.bytes,
                "seconds": self.seconds,
            }
        )


class CaptureStore:
    """The captures of one run. Writing is for one process; reading is for any number at any time."""

    def __init__(self, run: RunFolder, keep: Collection[int] | None = None) -> None:
        """`keep`: rounds whose updates and models are written to stay; None: all."""
        self.run = run
        self._keep = keep
        self._index = Index(run.captures / "index.jsonl")
        self._writer: ThreadPoolExecutor | None = None
        self._pending: list[Future[None]] = []

    # Write side

    def save_model(self, server_round: int, parameters: Mapping[str, Tensor]) -> None:
        """Queue the global model at the start of `server_round`."""
        self._queue(self._write_model, self.run.global_model(server_round), dict(parameters))

    def save_rewritten(self, server_round: int, parameters: Mapping[str, Tensor]) -> None:
        """Queue the model that the server sends in `server_round` in the place of the global one."""
        self._queue(self._write_model, self.run.rewritten_model(server_round), dict(parameters))

    def save_round(
        self,
        server_round: int,
        captures: Sequence[Capture],
        update: Literal["gradient", "weights"],
        learning_rate: float,
        next_parameters: Mapping[str, Tensor],
        local: LocalTraining | None = None,
    ) -> None:
        """Queue a round: its captures, the model of the round after it, its index lines and end mark.

        `local` is what the attacker knows of the users' local steps. Waits for what was queued before, so at
        most one round is held in memory.
        """
        self.wait()
        facts = {
            "update": update,
            "learning_rate": learning_rate,
            "local": None if local is None else dataclasses.asdict(local),
        }
        self._queue(self._write_round, server_round, list(captures), facts, dict(next_parameters))

    def wait(self) -> None:
        """Return when all that was queued is on disk; raises the OSError of a write that failed."""
        pending, self._pending = self._pending, []
        for future in pending:
            future.result()
        if self._writer is not None:
            self._writer.shutdown()
            self._writer = None

    def forget_from(self, server_round: int) -> None:
        """Drop the replies of `server_round` and later ones; they are about to be captured again."""
        for part in self.run.captures.glob("*/.*"):  # of a write that a crash cut off
            part.unlink()
        for folder in self.run.captures.glob("round-*"):
            for capture in folder.glob("user-*") if int(folder.name.removeprefix("round-")) >= server_round else ():
                capture.unlink()
        self._index.forget_from(server_round)

    def _queue(self, call: Any, *arguments: Any) -> None:
        if self._writer is None:
            self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="captures")
        self._pending.append(self._writer.submit(call, *arguments))

    def _write_model(self, path: Path, parameters: Update) -> None:
        write_atomically(path, _encode(parameters))

    def _write_round(self, server_round: int, captures: list[Capture], facts: Row, next_parameters: Update) -> None:
        for capture in captures if self._kept(server_round) else ():
            if capture.update is not None and capture.user is not None:
                about = {
                    "round": server_round,
                    "user": capture.user,
                    "num_examples": capture.num_examples,
                    "label_proportions": capture.label_proportions,
                    **facts,
                }
                if capture.members:
                    about["members"] = list(capture.members)
                beside = {f"{STATISTICS}{name}": value for name, value in (capture.statistics or {}).items()}
                data = _encode({**capture.update, **beside}, about)
                write_atomically(self.run.capture(server_round, capture.user), data)
        self._write_model(self.run.global_model(server_round + 1), next_parameters)
        self._index.append(server_round, [capture.row(server_round) for capture in captures])
        if server_round > 1 and not self._kept(server_round - 1):  # a resumed run starts from this round or the next
            self.run.global_model(server_round - 1).unlink(missing_ok=True)

    def _kept(self, server_round: int) -> bool:
        return self._keep is None or server_round in self._keep

    # Read side

    def finished_rounds(self) -> list[int]:
        """Rounds whose replies are all on disk, ascending."""
        return self._index.finished()

    def users(self, server_round: int) -> list[int]:
        """Users whose update of a finished round was accepted, ascending."""
        return sorted(row["user"] for row in self.replies(server_round) if row["status"] == "accepted")

    def members(self, server_round: int) -> dict[int, list[int]]:
        """Whose updates each accepted capture of a finished round holds, by the user under whom it is kept, ascending.

        That user alone, unless updates were aggregated before the server saw them.
        """
        rows = [row for row in self.replies(server_round) if row["status"] == "accepted"]
        return dict(sorted((row["user"], row.get("members") or [row["user"]]) for row in rows))

    def earlier_rounds(self, server_round: int, user: int, count: int) -> list[int]:
        """The `count` latest finished rounds before `server_round` with an update of `user`, or of the same sum."""
        members = self.members(server_round).get(user) if count else None
        before = (one for one in range(server_round - 1, 0, -1) if self.run.capture(one, user).exists())
        return list(islice((one for one in before if self.members(one).get(user) == members), count))

    def replies(self, server_round: int) -> list[Row]:
        """The index lines of a round, by user."""
        return self._index.rows(server_round)

    def rejected(self) -> list[Row]:
        """The index lines of all replies that were not accepted: rejected ones and errors."""
        return [row for row in self._index.all_rows() if row["status"] in {"rejected", "error"}]

    def parameters(self, server_round: int) -> Update:
        """The global model at the start of `server_round`, with its buffers; FileNotFoundError if there is none."""
        return _decode(self.run.global_model(server_round))[0]

    def sent_model(self, server_round: int) -> Path:
        """The file of the model that users got in `server_round`: the rewritten one if there is one."""
        rewritten = self.run.rewritten_model(server_round)
        return rewritten if rewritten.exists() else self.run.global_model(server_round)

    def observation(self, server_round: int, user: int, num_examples: int | None = None) -> Observation:
        """What the attacker knows of `user` in `server_round`. FileNotFoundError if nothing was captured.

        `num_examples`: photos behind the update, of a user who did not tell, or told of one, which may be a weight;
        ConfigError where neither is given.
        """
        parameters = _decode(self.sent_model(server_round))[0]
        tensors, facts = _decode(self.run.capture(server_round, user))
        update = {name: value for name, value in tensors.items() if not name.startswith(STATISTICS)}
        beside = {name.removeprefix(STATISTICS): tensors[name] for name in tensors if name not in update}
        if facts["update"] == "weights":
            update = to_gradient(parameters, update, facts["learning_rate"])
        examples = facts["num_examples"]
        if examples in (None, 1):
            examples = num_examples or examples
        if examples is None:
            raise ConfigError(f"user {user} did not tell of how many photos its update is; give --num-examples")
        proportions, local = facts["label_proportions"], facts.get("local")  # absent from runs of older versions
        return Observation(
            server_round=server_round,
            user=user,
            parameters=parameters,
            gradient=update,
            num_examples=examples,
            label_proportions=None if proportions is None else torch.tensor(proportions),
            local=None if local is None else LocalTraining(**local),
            statistics=beside or None,
            members=tuple(facts.get("members", ())),
        )


def _encode(tensors: Update, facts: Mapping[str, Any] = MappingProxyType({})) -> bytes:
    """A safetensors file: the same bytes for the same content, so that a digest tells whether it changed.

    safetensors writes metadata entries in random order, hence one entry; and it forgets the order of
    the tensors, hence their names in it.
    """
    return save(tensors, {"facts": json.dumps({**facts, "names": list(tensors)})})


def _decode(path: Path) -> tuple[Update, Row]:
    tensors, metadata = read_tensors(path)
    try:
        facts: Row = json.loads(metadata["facts"])
        return {name: tensors[name] for name in facts["names"]}, facts
    except (KeyError, ValueError) as error:
        raise DamagedFile(f"{path} is no capture ({error!r}); capture the round again under another name") from error


def write_reconstruction(
    run: RunFolder, label: str, server_round: int, user: int, reconstruction: Reconstruction, attack: Mapping[str, Any]
) -> None:
    """Save what the attack `label`, configured by the table `attack`, made of one user's update."""
    metadata = {
        "matching_loss": repr(reconstruction.matching_loss),
        "seconds": repr(reconstruction.seconds),
        "attack": json.dumps(dict(attack), sort_keys=True),
    }
    parts = {name: getattr(reconstruction, name) for name in ("images", "weights", "draws", "determined")}
    if reconstruction.frames is not None:
        parts["frames"] = pixels(reconstruction.frames)  # 8 bits are what is shown
    # Copies, since the answer may be a view of the draws, which safetensors refuses.
    tensors = {name: part.cpu().contiguous().clone() for name, part in parts.items() if part is not None}
    write_atomically(run.reconstruction(label, server_round, user), save(tensors, metadata))


def read_reconstruction(run: RunFolder, label: str, server_round: int, user: int) -> Reconstruction:
    """The saved reconstruction. FileNotFoundError if that attack was not run on that capture."""
    path = run.reconstruction(label, server_round, user)
    tensors, metadata = read_tensors(path)
    try:
        return Reconstruction(
            images=tensors["images"],
            weights=tensors["weights"],
            matching_loss=float(metadata["matching_loss"]),
            seconds=float(metadata["seconds"]),
            draws=tensors.get("draws"),
            determined=tensors.get("determined"),
            frames=tensors["frames"] / 255 if "frames" in tensors else None,
        )
    except (KeyError, ValueError) as error:
        raise DamagedFile(f"{path} is no reconstruction ({error!r}); remove it and give fl-sim attack again") from error


def read_attack_table(run: RunFolder, label: str, server_round: int, user: int) -> dict[str, Any] | None:
    """The table of the attack that made a saved reconstruction; None if there is no such reconstruction."""
    path = run.reconstruction(label, server_round, user)
    if not path.exists():
        return None
    check(path)
    with safe_open(path, framework="pt") as file:
        table: dict[str, Any] = json.loads((file.metadata() or {}).get("attack", "{}"))
    return table
