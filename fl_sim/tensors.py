"""Safetensors files that may be damaged: read whole, or refused in a sentence that names the file and the damage.

A file SHA256SUMS beside them, as `sha256sum *.safetensors > SHA256SUMS` writes it, says what they must be: the
shipped weights have one.
"""

import hashlib
import json
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from fl_sim.config import ConfigError
from fl_sim.config_errors import in_one_line

SUMS = "SHA256SUMS"


class DamagedFile(ConfigError):
    """A file that is not what was once written there."""


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file. Raises DamagedFile, or OSError where it cannot be read."""
    check(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except OSError:
        raise
    except Exception as error:  # the header is hostile, or of a newer format: errors of many kinds
        raise _damaged(path, in_one_line(error, 200)) from error


def check(path: Path) -> None:
    """Raise DamagedFile for a file that is cut off, no safetensors file, or not the one of SHA256SUMS beside it."""
    problem = _flaw(path)
    expected = _sum(path)
    if expected is not None and (problem is not None or _sha256(path) != expected):
        problem = f"{problem or 'other bytes'}, SHA-256 {_sha256(path)[:12]}..., {SUMS} says {expected[:12]}..."
    if problem is not None:
        raise _damaged(path, problem)


def _damaged(path: Path, problem: str) -> DamagedFile:
    return DamagedFile(f"{path} is damaged ({problem}); restore it from where it came, or have it made again")


def _flaw(path: Path) -> str | None:
    """What the form of the file says: 8 bytes of header length, a JSON header, tensors up to the last offset."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            return f"{size} bytes, too few for its header"
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            whole = 8 + length + max(ends, default=0)
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
            return "no safetensors header"
    return None if whole == size else f"{size} bytes, its header says {whole}"


def _sum(path: Path) -> str | None:
    """The SHA-256 that `path` should have, if that is known."""
    sums = path.parent / SUMS
    lines = [line.split() for line in sums.read_text(encoding="utf-8").splitlines()] if sums.is_file() else []
    return {name.lstrip("*"): digest for digest, name in lines}.get(path.name)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
