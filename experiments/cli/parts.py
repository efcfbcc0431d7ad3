"""Attacks and defenses with the keys that each takes, and models, read off their files: nothing is imported or run.

So a misspelt name is refused, and a key explained, before torch is imported, which takes seconds. The meaning of a
setting is the comment behind it.
"""

import ast
import io
import sys
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from fl_sim.config_keys import NEEDED, Key, words

ROOT = Path(__file__).parents[2]
FOLDERS = {"attacks": ROOT / "attacker" / "attacks", "defenses": ROOT / "clients" / "defenses"}
TYPES = {"bool": bool, "int": int, "float": float, "str": str, "list": list, "dict": dict, "tuple": tuple}
VOCABULARY: dict[str, Any] = {**TYPES, "Annotated": Annotated, "Literal": Literal, "Field": Field, "Path": Path}

Kind = Literal["attacks", "defenses"]

KNOWLEDGE = Key(
    "knowledge",
    "'none', 'mechanism', 'parameters', or a list of them",
    None,
    "What the attacker knows of the users' defenses; not set: one attacks who knows all, and one who knows nothing",
)
PRESET = Key("preset", "text", None, "A published recipe of the attack, where it has one: paper")
OF_ATTACKS = (PRESET, KNOWLEDGE)
"""What the table of every attack takes beside its settings (`attacker.attacks.load`)."""


@dataclass(frozen=True)
class Part:
    """An attack or a defense."""

    kind: Kind
    name: str
    summary: str  # the first sentence of its file
    settings: tuple[Key, ...]  # without the name before them


def names(kind: Kind) -> list[str]:
    """Those that are shipped: the files of the folder that have settings."""
    return sorted(
        path.stem for path in FOLDERS[kind].glob("[a-z]*.py") if "\nclass Settings" in path.read_text("utf-8")
    )


def shipped(kind: Kind) -> list[Part]:
    return [part for name in names(kind) if (part := read(kind, FOLDERS[kind] / f"{name}.py", name)) is not None]


def models() -> list[str]:
    """The keys of `fl_sim.models.MODELS`."""
    tree = ast.parse((ROOT / "fl_sim" / "models.py").read_text("utf-8"))
    (table,) = (
        one.value
        for one in tree.body
        if isinstance(one, ast.AnnAssign) and ast.unparse(one.target) == "MODELS" and isinstance(one.value, ast.Dict)
    )
    return [ast.literal_eval(key) for key in table.keys if key is not None]


def find(kind: Kind, name: str) -> Part | None:
    """The shipped one of that name, or the module `package.module`; None where its file or settings are not found."""
    path = FOLDERS[kind] / f"{name}.py" if name in names(kind) else module_file(name)
    return None if path is None else read(kind, path, name)


def module_file(name: str) -> Path | None:
    """The file on Python's path that `import name` would run; None if there is none."""
    if not all(word.isidentifier() for word in name.split(".")):
        return None
    below = Path(*name.split("."))
    places = [Path(entry) / below for entry in sys.path]
    files = [file for place in places for file in (place / "__init__.py", place.with_suffix(".py"))]
    return next((file for file in files if file.is_file()), None)


@lru_cache
def read(kind: Kind, path: Path, name: str) -> Part | None:
    """What the file says of itself; None if it is no Python or has no class Settings."""
    try:
        text = path.read_text("utf-8")
        tree = ast.parse(text)
    except (OSError, ValueError, SyntaxError):
        return None
    settings = next((one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == "Settings"), None)
    if settings is None:
        return None
    comments = _comments(text)
    fields = [one for one in settings.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)]
    found = [_key(field, comments, tree) for field in fields] + (list(OF_ATTACKS) if kind == "attacks" else [])
    summary = " ".join((ast.get_docstring(tree) or "").partition("\n\n")[0].split())
    return Part(kind, name, summary, tuple(found))


def _key(field: ast.AnnAssign, comments: dict[int, str], tree: ast.Module) -> Key:
    assert isinstance(field.target, ast.Name)
    lines = range(field.lineno, (field.end_lineno or field.lineno) + 1)
    meaning = " ".join(comments[line] for line in lines if line in comments)
    default = NEEDED if field.value is None else _value(field.value)
    return Key(field.target.id, words(_type(field.annotation, tree, 2)), default, meaning)


def _comments(text: str) -> dict[int, str]:
    """By line, what stands behind a `#` there."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {one.start[0]: one.string.lstrip("# ") for one in tokens if one.type == tokenize.COMMENT}


def _value(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def _type(annotation: ast.expr, tree: ast.Module, depth: int) -> Any:
    """The type that an annotation names, by way of `Name = ...` and `from module import Name`; else its text."""
    text = ast.unparse(annotation)
    unknown = {one.id for one in ast.walk(annotation) if isinstance(one, ast.Name)} - set(VOCABULARY)
    named = {name: _alias(name, tree, depth) for name in unknown} if depth else {}
    if any(isinstance(named.get(name), str | None) for name in unknown):
        return text
    try:
        return _evaluated(annotation, {**VOCABULARY, **named})
    except (TypeError, KeyError, ValueError):  # no type as one writes them here
        return text


def _evaluated(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """What an annotation means: names, constants, `a | b`, `a[b, c]`, and `Field(ge=0)`. Only VOCABULARY is called."""
    match node:
        case ast.Name():
            return names[node.id]
        case ast.Constant():
            return node.value
        case ast.UnaryOp(op=ast.USub()):
            return -_evaluated(node.operand, names)
        case ast.BinOp(op=ast.BitOr()):
            return _evaluated(node.left, names) | _evaluated(node.right, names)
        case ast.Tuple():
            return tuple(_evaluated(part, names) for part in node.elts)
        case ast.Subscript():
            return _evaluated(node.value, names)[_evaluated(node.slice, names)]
        case ast.Call():
            named = {keyword.arg: _evaluated(keyword.value, names) for keyword in node.keywords if keyword.arg}
            return _evaluated(node.func, names)(**named)
    return ast.unparse(node)


def _alias(name: str, tree: ast.Module, depth: int) -> Any:
    for one in tree.body:
        if isinstance(one, ast.Assign) and any(isinstance(to, ast.Name) and to.id == name for to in one.targets):
            return _type(one.value, tree, depth - 1)
        if isinstance(one, ast.ImportFrom) and any((also.asname or also.name) == name for also in one.names):
            path = module_file(one.module or "")
            return None if path is None else _alias(name, ast.parse(path.read_text("utf-8")), depth - 1)
    return None
