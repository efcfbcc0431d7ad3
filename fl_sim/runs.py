"""One run, one folder: where everything of a run lies, and its manifest.

runs/NAME/config.toml                                     the resolved configuration
         manifest.json                                    versions, seed, threat model, users
         captures/round-0001/{global,user-0007}.safetensors   what the server sent and received
         captures/round-0001/rewritten.safetensors  what it sent instead, where it is actively malicious
         captures/index.jsonl                             one line a reply, rejected ones too
         reconstructions/LABEL/round-0001/user-0007.safetensors
         rounds.parquet  leakage.parquet  leakage.csv  report.html  answer.json
         log.jsonl                                        what happened when, a line an event

Of somebody else's federation, which has no config of ours: audit.json in its place, and no rounds.parquet.
"""

import fcntl
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fl_sim.config import ConfigError

PACKAGES = ("fl-sim", "flwr", "ray", "torch", "torchvision", "diffusers", "numpy", "pandas")
AFTERWARDS = ("attacks", "workers", "leakage")
"""Sections of the config that may differ when captures are attacked again; all else made the captures what they are."""


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run; nothing is created until it is written."""

    root: Path

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def config(self) -> Path:
        return self.root / "config.toml"

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def audit(self) -> Path:
        """What somebody else's federation trains."""
        return self.root / "audit.json"

    @property
    def captures(self) -> Path:
        return self.root / "captures"

    @property
    def faces(self) -> Path:
        """What the attacker knows of faces in general."""
        return self.root / "faces.safetensors"

    @property
    def reconstructions(self) -> Path:
        return self.root / "reconstructions"

    @property
    def failed(self) -> Path:
        """The attack jobs that the dispatcher gave up (`failed_job`); absent where there are none."""
        return self.reconstructions / "failed.json"

    @property
    def rounds(self) -> Path:
        return self.root / "rounds.parquet"

    @property
    def leakage(self) -> Path:
        return self.root / "leakage.parquet"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def answer(self) -> Path:
        """What was last said of the run (experiments.show.answer)."""
        return self.root / "answer.json"

    @property
    def log(self) -> Path:
        return self.root / "log.jsonl"

    def capture(self, server_round: int, user: int) -> Path:
        return self.captures / f"round-{server_round:04d}" / f"user-{user:04d}.safetensors"

    def global_model(self, server_round: int) -> Path:
        """The global model at the start of that round, which an honest server sends."""
        return self.captures / f"round-{server_round:04d}" / "global.safetensors"

    def rewritten_model(self, server_round: int) -> Path:
        """The model that an actively malicious server sent in that round instead."""
        return self.captures / f"round-{server_round:04d}" / "rewritten.safetensors"

    def reconstruction(self, label: str, server_round: int, user: int) -> Path:
        return self.reconstructions / label / f"round-{server_round:04d}" / f"user-{user:04d}.safetensors"


def private_folder(folder: Path) -> None:
    """Make `folder`, and what is missing above it, for its owner alone; what exists stays as it is."""
    for path in [*reversed(folder.parents), folder]:
        if not path.exists():  # mkdir's `parents` would leave those above open to all
            path.mkdir(mode=0o700, exist_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part; survives a crash.

    Private to its owner (0600 in 0700 folders): runs hold faces and updates.
    """
    private_folder(path.parent)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk does not say for which file
        raise


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process, which makes it if need be; ConfigError where another process holds it.

    The kernel lets go when the process ends, however it ends: no lock is ever left behind.
    """
    private_folder(folder)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(handle, "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"{folder} is in use by process {file.read() or 'unknown'}; wait until that one ends, "
                "or give this run another name (-o name=...)"
            ) from error
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield


def write_manifest(run: RunFolder, **facts: Any) -> None:
    """Write `facts` with the versions and the machine; values must be JSON."""
    manifest = {"created": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "versions": versions(), "machine": machine(), **facts}
    write_atomically(run.manifest, json.dumps(manifest, indent=2).encode())


def config_of(run: RunFolder) -> Path:
    """The file of its config. ConfigError where the folder holds no run."""
    if not run.config.is_file():
        raise ConfigError(f"{run.root} is no run folder (it has no config.toml); give one such as runs/quickstart")
    return run.config


def refuse_unfinished(run: RunFolder, advice: str) -> None:
    """ConfigError, with what to do, where the folder holds no run, or one that is not finished."""
    config_of(run)
    if not run.report.is_file():  # it is written last
        raise ConfigError(f"{run.root} is not finished; {advice}")


def failed_job(job: Mapping[str, Any]) -> str:
    """What is said of a job that was given up: its attack, round and users, and why."""
    users = ", ".join(map(str, job["users"]))
    return f"attack {job['label']!r}, round {job['round']}, users {users}: {job['reason']}"


def other_config(run: RunFolder, change: str) -> ConfigError:
    """What is said where a folder holds a run of another config; `change` is the first key that differs, in words."""
    return ConfigError(
        f"{run.root} holds a run with another config: {change}; give another name (-o name=...), "
        "or fl-sim attack to attack its captures otherwise"
    )


def other_captures(change: str) -> ConfigError:
    """What is said where captures are attacked under a config by which they would be other captures."""
    return ConfigError(f"{change}; attacks on finished captures may change only {', '.join(AFTERWARDS)}")


def read_manifest(run: RunFolder) -> dict[str, Any]:
    """What `write_manifest` wrote. ConfigError where it is damaged, OSError where it is missing."""
    try:
        manifest = json.loads(run.manifest.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        manifest = error
    if not isinstance(manifest, dict):
        raise ConfigError(
            f"{run.manifest} is no manifest ({manifest!r:.80}); remove it and give the command again, "
            "which writes it anew"
        )
    return manifest


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def machine() -> str:
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
