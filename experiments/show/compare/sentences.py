"""A comparison in words: what may be concluded, and what must be known beside it."""

import math
from collections.abc import Mapping
from typing import Any

from experiments.show.compare.changes import Pair
from experiments.show.report.svg import DASH, MINUS
from experiments.statistics.interval import Interval
from experiments.statistics.pairs import users_needed
from experiments.statistics.verdict import counted


def conclusion(pair: Pair) -> str:
    """What may be concluded, and from which numbers."""
    return f"{claim(pair)} {numbers(pair)}"


def claim(pair: Pair) -> str:
    """In one sentence; never that nothing leaks, and never that two runs leak alike."""
    a, b, best = pair.baseline.name, pair.other.name, pair.strongest
    if pair.kind in ("less", "more"):
        return f"{b} leaks {pair.kind} than {a}."
    if pair.kind == "mixed":
        return f"{b} and {a} differ, and not in one direction."
    if pair.kind == "no difference":
        return f"No difference between {b} and {a} is shown, which does not show that they leak alike."
    if pair.kind == "too few users":
        smallest = min(1.0, best.likeness.smallest_p * best.tests)
        return (
            f"Too few users to tell whether {b} leaks less than {a}: of {best.likeness.users} users even the clearest "
            f"outcome has p {smallest:.2g}; it takes {users_needed(best.tests)}."
        )
    if pair.independent:
        return f"No conclusion: {pair.lower.name} scores lower, but {'; and '.join(pair.weaknesses)}."
    size = max(pair.baseline.group_size, pair.other.group_size)
    return f"No conclusion: the server sees sums of {size} users, who are not independent, so nothing is tested."


def numbers(pair: Pair) -> str:
    """The changes that a claim rests on."""
    tested = pair.strongest
    before, after = tested.before.count, tested.after.count
    tests = (tested.likeness.p, tested.share.p)
    likeness, share = (f" ({p_value(p)})" if p is not None else "" for p in tests)
    return (
        f"By the strongest attack of each, similarity changes by {signed(tested.likeness.difference)}{likeness}, "
        f"and {after[0]} of {after[1]} users are identified in place of {before[0]} of {before[1]}{share}."
    )


def caveats(pair: Pair) -> list[str]:
    """What else must be known to read the numbers."""
    found = [f"{side.name}: {side.verdict.privacy()}" for side in (pair.baseline, pair.other) if side.verdict.privacy()]
    theirs, ours = pair.baseline.attacks, pair.other.attacks
    for label in theirs:
        if label in ours and theirs[label] != ours[label]:
            keys = [key for key in {**theirs[label], **ours[label]} if theirs[label].get(key) != ours[label].get(key)]
            told = ", ".join(f"{key} {_set(theirs[label], key)} and {_set(ours[label], key)}" for key in keys)
            found.append(f"{label} has other settings in {pair.baseline.name} than in {pair.other.name}: {told}.")
    for side in (pair.baseline, pair.other):
        silent = len(side.users) - side.strongest.count[1]
        if silent:
            found.append(
                f"{side.strongest.attack} left no picture of {counted(silent, len(side.users))} of {side.name}; they "
                "are in no test."
            )
    return found


def _set(settings: Mapping[str, Any], key: str) -> str:
    return repr(settings[key]) if key in settings else "the default"


def p_value(p: float | None) -> str:
    return DASH if p is None else "p < 0.001" if p < 0.001 else f"p {p:.2g}"


def signed(found: Interval) -> str:
    """A difference and its interval, as `-0.85 [-0.91, -0.79]`, with proper minus signs."""
    return _spelled(found, "+.2f")


def spelled(found: Interval) -> str:
    """A figure and its interval, as `0.85 [0.79, 0.91]`."""
    return _spelled(found, ".2f")


def _spelled(found: Interval, form: str) -> str:
    if not found.known:
        return DASH
    ends = f" [{found.low:{form}}, {found.high:{form}}]" if math.isfinite(found.high - found.low) else ""
    return f"{found.mean:{form}}{ends}".replace("-", MINUS)
