"""What a reply says of itself, read without trusting it."""

import math
import re
from typing import TypeGuard

from flwr.app import Message


def metric(message: Message, key: str) -> object:
    """The value of `key` in the one metric record of `message`; None if it is not there."""
    records = list(message.content.metric_records.values()) if message.has_content() else []
    return records[0].get(key) if len(records) == 1 else None


def claimed_partition(message: Message) -> int | None:
    value = metric(message, "partition-id")
    return value if isinstance(value, int) and value >= 0 else None


def is_distribution(value: object) -> TypeGuard[list[float]]:
    if not isinstance(value, list) or not all(isinstance(share, int | float) and 0 <= share <= 1 for share in value):
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
