"""The keys of a run as text: a list to read, or a commented TOML file to fill in."""

import json
import textwrap
from typing import Any

from experiments.cli import parts
from fl_sim.config import Config, ConfigError
from fl_sim.config_errors import hint
from fl_sim.config_keys import NEEDED, Key, keys

WIDTH = 100  # of a comment in the file
TABLE = "a table of its own"  # what a Key takes that is an attack or a defense


def listed(prefix: str = "") -> list[Key]:
    """The keys of which `prefix` is the name or the beginning; "": all. ConfigError where there is none."""
    found = [key for key in keys(Config) if key.meaning]
    for kind in ("attacks", "defenses"):
        found += [key for part in parts.shipped(kind) for key in _of(part)]
    wanted = prefix.strip(".")
    matching = [key for key in found if not wanted or key.name == wanted or key.name.startswith(f"{wanted}.")]
    if not matching:
        kind, _, name = wanted.partition(".")
        part = parts.find(kind, name) if kind in parts.FOLDERS else None  # type: ignore[arg-type]
        if part is None:
            known = dict.fromkeys([*Config.model_fields, *(key.name for key in found)])
            raise ConfigError(f"no config key begins with {prefix!r}; {hint(wanted, known)}")
        matching = _of(part)
    return matching


def _of(part: parts.Part) -> list[Key]:
    where = f"{part.kind}.{part.name}"
    settings = [Key(f"{where}.{one.name}", one.takes, one.default, one.meaning) for one in part.settings]
    return [Key(where, TABLE, None, part.summary), *settings]


def entry(key: Key, width: int) -> str:
    """A key as a person reads it: its default and what it takes, and below that what it means."""
    if key.takes == TABLE:
        first = key.name
    elif key.default in (NEEDED, None):
        first = f"{key.name}   ({key.takes}; {'needed' if key.default is NEEDED else 'not set'})"
    else:
        first = f"{key.name} = {toml(key.default)}   ({key.takes})"
    head = _wrap(first, width, "", "        ")
    return "\n".join([*head, *_wrap(_sentence(key.meaning), width, "    ", "    ")])


def as_json(key: Key) -> dict[str, Any]:
    default = None if key.default is NEEDED else key.default
    return {"key": key.name, "takes": key.takes, "needed": key.default is NEEDED, "default": default} | {
        "meaning": key.meaning
    }


def template(prefix: str = "") -> str:
    """A TOML file with these keys at their defaults, each under a comment, that `fl-sim run --config` takes.

    Settings of attacks and defenses, and keys without a default, are comments altogether; so are the defenses, and the
    attacks that do not run by default, unless the prefix names one.
    """
    command = " ".join(["fl-sim config", *([prefix] if prefix else []), "--toml"])
    lines = _comment(f"Printed by {command}. Every key may be left out: what stands here is its default.")
    section = ""
    for key in sorted(listed(prefix), key=lambda one: "." in one.name):  # TOML has keys without a table first
        where, _, last = key.name.rpartition(".")
        if key.name in parts.FOLDERS:  # their tables follow
            continue
        if key.takes == TABLE:
            lines += ["", "", *_comment(key.meaning), *_table(key.name, named=prefix.strip(".") not in {"", where})]
            section = key.name
            continue
        if where != section:
            lines += ["", "", f"[{where}]"]
            section = where
        lines += ["", *_setting(key, last, live=where.partition(".")[0] not in parts.FOLDERS)]
    return "\n".join(lines) + "\n"


def _table(name: str, named: bool) -> list[str]:
    """The head of the table of an attack or a defense; a comment if it neither runs by default nor is `named`."""
    kind, _, part = name.partition(".")
    if kind == "attacks":
        return [f"{'' if named or part in Config().attacks else '# '}[attacks.{part}]"]
    return [f"{'' if named else '# '}{line}" for line in ("[[defenses]]", f"name = {toml(part)}")]


def _setting(key: Key, name: str, live: bool) -> list[str]:
    if key.default in (NEEDED, None):
        state, line = "; needed" if key.default is NEEDED else "; not set", f"# {name} ="
    else:
        state, line = "", f"{'' if live else '# '}{name} = {toml(key.default)}"
    return [*_comment(f"{_sentence(key.meaning)} ({key.takes}{state})"), line]


def _comment(text: str) -> list[str]:
    return _wrap(text, WIDTH, "# ", "# ")


def _wrap(text: str, width: int, first: str, then: str) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=then, break_on_hyphens=False)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?")) or not text else ".")


def toml(value: Any) -> str:
    """A value as TOML writes it, in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    return repr(value) if isinstance(value, float) else json.dumps(value, default=str)
