"""What a reply says of itself, read without trusting it."""

import math
import re
import warnings
from functools import lru_cache
from io import BytesIO
from typing import TypeGuard

import numpy as np
import torch
from flwr.app import ArrayRecord, Message
from flwr.app.message.array import Array

from fl_sim.updates import Update

MOST = 2**31  # photos of a user, and users: a number in a reply that is not below it is no such number


def metric(message: Message, key: str) -> object:
    """The value of `key` in the one metric record of `message`; None if it is not there."""
    records = list(message.content.metric_records.values()) if message.has_content() else []
    return records[0].get(key) if len(records) == 1 else None


def claimed_partition(message: Message) -> int | None:
    value = metric(message, "partition-id")
    return value if isinstance(value, int) and 0 <= value < MOST else None


def seconds_since(message: Message, start: float | None) -> float | None:
    """From `start` to when the sender says it made `message`; None if either is unknown or no time at all."""
    made = message.metadata.created_at
    if start is None or not isinstance(made, int | float) or not math.isfinite(made - start):
        return None
    return made - start


def is_distribution(value: object, length: int | None = None) -> TypeGuard[list[float]]:
    """Whether `value` lists `length` (None: any number of) shares of a whole."""
    if not isinstance(value, list) or not all(isinstance(share, int | float) and 0 <= share <= 1 for share in value):
        return False
    if length is not None and len(value) != length:
        return False
    return math.isclose(sum(value), 1.0, abs_tol=1e-6)


def last_line(reason: str | None) -> str:
    """The end of an error reply's reason, which is often a whole coloured traceback."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", reason or "").strip().splitlines()
    return lines[-1].strip()[-300:] if lines else ""


def size_of(message: Message) -> int:
    if not message.has_content():
        return 0
    return sum(len(array.data) for record in message.content.array_records.values() for array in record.values())


def tensors(record: ArrayRecord) -> Update:
    """The arrays of `record` as tensors that share its memory: they must not be written to.

    Flower's own conversion copies every array, which at 1,000 users a round took more time than all other checks and
    as much memory as the replies themselves. Raises ValueError, TypeError or whatever numpy has for bytes that are no
    array; nothing is allocated for what an array claims to be.
    """
    return {name: torch.from_numpy(_view(array)) for name, array in record.items()}


def _view(array: Array) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    if array.stype != "numpy.ndarray":
        raise ValueError(f"serialisation {str(array.stype)[:40]!r}, expected 'numpy.ndarray'")
    start = 10 + int.from_bytes(array.data[8:10], "little")
    shape, by_columns, dtype = _header(array.data[:start])
    return np.ndarray(shape, dtype, array.data, start, order="F" if by_columns else "C")


@lru_cache(maxsize=1024)  # all users of a model send the same ones, which take numpy longer to parse than to use
def _header(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """Shape, column order and dtype from the start of a numpy file, of format 1.0 as Flower writes it."""
    file = BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"numpy format {version}, expected (1, 0)")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject:  # which only pickle could read
        raise ValueError("an array of Python objects")
    return shape, by_columns, dtype


with warnings.catch_warnings():  # torch warns, once a process, of memory that must not be written to
    warnings.simplefilter("ignore")
    torch.from_numpy(np.frombuffer(bytes(1), np.uint8))
