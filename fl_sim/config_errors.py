"""What is said of a mistake in a config: one sentence that names the key, what was given and what it takes."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from fl_sim.config_keys import below, keys, words


class ConfigError(ValueError):
    """A mistake in the configuration, told in one sentence."""


UNKNOWN = {"extra_forbidden", "unexpected_keyword_argument"}
MISSING = {"missing", "missing_argument"}
LIKE = 0.75  # likeness from which a key may be meant: of the last words, in [0, 1], and a tenth of that of the sections


def sentence(error: ValidationError, cls: type, where: str = "") -> str:
    """The first mistake of `error`, met as a table was read as a `cls`; `where` stands before its keys."""
    # A mistyped key may also be missing under its right name: say the former.
    first = min(error.errors(include_url=False), key=lambda one: one["type"] not in UNKNOWN)
    location = [str(part) for part in first["loc"] if part != "[key]"]
    key, given = ".".join(filter(None, [where, *location])), first["input"]
    if first["type"] in UNKNOWN:
        return f"unknown config key {short(key)!r}; {hint(key, [one.name for one in keys(cls, where)])}"
    more = f" (and {error.error_count() - 1} more mistakes)" if error.error_count() > 1 else ""
    if first["type"] in MISSING:
        return f"config key {short(key)!r} is missing; give {words(below(cls, location))}{more}"
    if first["type"] == "value_error":
        said = first["msg"].removeprefix("Value error, ")
        if not location:  # of the whole table, whose own check says which setting it is
            return f"{where or 'config'}: {short(said)}{more}"
        return f"config key {short(key)!r} {said}, got {short(repr(given))}{more}"
    return f"config key {short(key)!r} is {short(repr(given))}; give {words(below(cls, location))}{more}"


def truth_values(given: Mapping[str, Any], value: object) -> Iterator[list[str]]:
    """Where `given` has true or false and `value`, read of it, a number, as pydantic reads them."""
    for key, raw in given.items():
        made = getattr(value, key, None)
        if isinstance(raw, Mapping):
            yield from ([key, *rest] for rest in truth_values(raw, made))
        elif isinstance(raw, list) and isinstance(made, Sequence):
            yield from ([key, str(at)] for at, pair in enumerate(zip(raw, made, strict=True)) if _turned(*pair))
        elif _turned(raw, made):
            yield [key]


def _turned(raw: object, made: object) -> bool:
    return isinstance(raw, bool) and isinstance(made, int | float) and not isinstance(made, bool)


def no_number(location: list[str], cls: type, where: str) -> str:
    """The sentence for true or false where a number belongs."""
    key = ".".join(filter(None, [where, *location]))
    return f"config key {key!r} is true or false; give {words(below(cls, location))}"


def hint(key: str, known: Iterable[str]) -> str:
    """What a mistyped dotted key may have meant, searched in all that are `known`, else what there is beside it."""
    names = list(known)
    if (near := nearest(key, names)) is not None:
        return f"did you mean {near!r}?"
    section = key.rpartition(".")[0]
    beside = [name.rpartition(".")[2] for name in names if name.rpartition(".")[0] == section]
    if section and beside:
        return f"{section} takes {', '.join(beside)}"
    return f"allowed: {', '.join(name for name in names if '.' not in name)}"


def unknown(what: str, name: object, known: Iterable[str], own: str) -> str:
    """The sentence for a name that no `what` has: what may have been meant, else all there are, and `own` ones."""
    names = list(known)
    near = nearest(str(name), names)
    advice = f"did you mean {near!r}?" if near is not None else f"choose one of {', '.join(names)} or {own}"
    return f"unknown {what} {short(name)!r}; {advice}"


def nearest(key: str, known: Iterable[str]) -> str | None:
    """The known dotted key most like `key`, which may be misspelt, or stand in the wrong section; None if none is."""
    section, _, last = key.rpartition(".")

    def likeness(name: str) -> float:
        where, _, word = name.rpartition(".")
        part = last in word.split("_") or last.removesuffix("s") in word.split("_")
        return max(_ratio(last, word), 0.8 * part) + 0.1 * _ratio(section, where)

    best = max(known, key=likeness, default=None)
    return best if best is not None and likeness(best) >= LIKE else None


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def short(text: object) -> str:
    """In one line, and short enough for a sentence."""
    line = in_one_line(text)
    return line if len(line) <= 200 else f"{line[:200]}..."


def in_one_line(text: object, most: int | None = None) -> str:
    """`text` without its line breaks; no more than so many characters of it."""
    return " ".join(str(text).split())[:most]
