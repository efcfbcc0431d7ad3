"""What differs between the attacks of a run that is there and those that are asked for, in words."""

from collections.abc import Mapping
from typing import Any

WEAKER = ("-mechanism", "-none")  # ends of the labels of attackers who know less, which a run adds by itself
Attacks = Mapping[str, Mapping[str, Any]]  # tables of settings by label


def other_attacks(before: Attacks, now: Attacks) -> str | None:
    """The first attack that differs, whatever attackers know, which a run settles by itself; None if none does."""
    for label in {**before, **now}:
        changed = other_settings(before, now, label)
        if changed is not None:
            return changed
        if label not in before:
            return f"attacks.{label} was not there"
        if label not in now and not any(label.endswith(end) and label.removesuffix(end) in now for end in WEAKER):
            return f"attacks.{label} was there, now it is not"
    return None


def other_settings(before: Attacks, now: Attacks, label: str) -> str | None:
    """The first setting that differs of an attack that is in both; None if none does, or it is not."""
    if label not in before or label not in now:
        return None
    old, new = ({"name": label, **attacks[label]} for attacks in (before, now))
    for key in {**old, **new}:
        if key != "knowledge" and old.get(key) != new.get(key):
            was, is_now = (repr(table[key]) if key in table else "not set" for table in (old, new))
            return f"attacks.{label}.{key} was {was}, now it is {is_now}"
    return None
