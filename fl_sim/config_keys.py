"""The keys of a config: name, what each takes in words, default and meaning; for messages and `fl-sim config`."""

import re
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

NEEDED: Any = object()
"""The default of a key that has none and must be given."""

PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
BOUNDS = {"ge": "{} or more", "gt": "above {}", "le": "at most {}", "lt": "below {}"}


@dataclass(frozen=True)
class Key:
    """One key of a config."""

    name: str  # dotted
    takes: str  # in words
    default: Any  # NEEDED: none; None: not set
    meaning: str = ""  # empty for a section


def keys(cls: type, where: str = "") -> list[Key]:
    """The keys of a Section, sections among them followed by theirs, or of a dataclass of settings (no meanings)."""
    before = f"{where}." if where else ""
    hints = typing.get_type_hints(cls, include_extras=True)
    if not is_section(cls):
        return [
            Key(before + one.name, words(hints[one.name]), NEEDED if one.default is MISSING else one.default)
            for one in (fields(cls) if is_dataclass(cls) else ())
        ]
    found = []
    for name, field in cls.model_fields.items():  # type: ignore[attr-defined]
        default = NEEDED if field.default is PydanticUndefined else field.default
        meaning = " ".join((field.description or "").split())
        found.append(Key(before + name, words(hints[name]), default, meaning))
        if is_section(hints[name]):
            found += keys(hints[name], before + name)
    return found


def is_section(hint: Any) -> bool:
    """Whether this is the type of a table with keys of its own."""
    return isinstance(hint, type) and issubclass(hint, BaseModel)


def below(hint: Any, location: list[str]) -> Any:
    """The type of what stands at a place in a value of type `hint`: by keys of tables and places in lists."""
    for part in location:
        while get_origin(hint) in (Annotated, Union, UnionType):
            hint = next(one for one in get_args(hint) if one is not NoneType)
        origin, inner = get_origin(hint), get_args(hint)
        if origin in (list, dict, tuple):
            hint = inner[-1]
        elif is_section(hint) or is_dataclass(hint):
            hint = typing.get_type_hints(hint, include_extras=True).get(part, Any)
    return hint


def words(hint: Any) -> str:
    """What a key of this type takes, as a person says it."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        limits = ", ".join([words(inner[0]), *(said for one in inner[1:] for said in _limits(one))])
        return re.sub(r", (\S+) or more, at most (\S+)", r" from \1 to \2", limits)
    if origin is Literal:
        return _either([repr(one) for one in inner])
    if origin in (Union, UnionType):
        return _either([words(one) for one in inner if one is not NoneType])
    if origin is list:
        return "a list, each " + words(inner[0])
    if origin in (dict, Mapping) or hint is dict:
        return "a table"
    if is_section(hint):
        return f"a table with keys such as {next(iter(hint.model_fields))}"
    if isinstance(hint, str):
        return hint
    return PLAIN.get(hint, re.sub(r"\btyping\.", "", getattr(hint, "__name__", str(hint))))


def _limits(mark: Any) -> list[str]:
    if isinstance(mark, FieldInfo):
        return [said for one in mark.metadata for said in _limits(one)]
    if getattr(mark, "allow_inf_nan", None) is False:
        return ["finite"]
    return [form.format(getattr(mark, name)) for name, form in BOUNDS.items() if getattr(mark, name, None) is not None]


def _either(choices: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(choices[:-1]), choices[-1]]))
