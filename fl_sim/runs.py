"""One run, one folder: where everything of a run lies, and its manifest.

runs/NAME/config.toml                                     the resolved configuration
         manifest.json                                    versions, seed, threat model, users
         captures/round-0001/{global,user-0007}.safetensors   what the server sent and received
         captures/round-0001/rewritten.safetensors  what it sent instead, where it is actively malicious
         captures/index.jsonl                             one line a reply, rejected ones too
         reconstructions/LABEL/round-0001/user-0007.safetensors
         rounds.parquet  leakage.parquet  leakage.csv  report.html

Of somebody else's federation, which has no config of ours: audit.json in its place, captures/, reconstructions/.
"""

import json
import os
import platform
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("fl-sim", "flwr", "ray", "torch", "torchvision", "diffusers", "numpy", "pandas")


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
    def rounds(self) -> Path:
        return self.root / "rounds.parquet"

    @property
    def leakage(self) -> Path:
        return self.root / "leakage.parquet"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

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


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part; survives a crash.

    Private to its owner (0600 in 0700 folders): runs hold faces and updates.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_manifest(run: RunFolder, **facts: Any) -> None:
    """Write `facts` with the versions and the machine; values must be JSON."""
    manifest = {"created": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "versions": versions(), "machine": machine(), **facts}
    write_atomically(run.manifest, json.dumps(manifest, indent=2).encode())


def read_manifest(run: RunFolder) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(run.manifest.read_text(encoding="utf-8"))
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
