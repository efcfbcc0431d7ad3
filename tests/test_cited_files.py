"""Files and modules that docs, docstrings and comments cite are there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("fl_sim", "clients", "attacker", "experiments")
SOURCES = (*PACKAGES, "tests", "docs", "findings", ".ci")
FILES = sorted(
    str(path.relative_to(ROOT))
    for path in [*ROOT.glob("*"), *(found for folder in SOURCES for found in (ROOT / folder).rglob("*"))]
    if path.is_file() and "__pycache__" not in path.parts
)
MADE = {"reference/config.md", "reference/leakage.md"}  # by make docs
EXAMPLES = {"NAME.py", "top_half.py", "grey.py", "mine.py"}  # of the reader's own
LINK = re.compile(r"\]\((?!https?:)([^)#]+)[^)]*\)")
SCRIPT = re.compile(r"(?<![\w/.-])((?:[\w-]+/)*[\w-]+\.py)\b")
DOTTED = re.compile(rf"(?:`|python -m )((?:{'|'.join(PACKAGES)})(?:\.\w+)+)")


def lines(*suffixes: str, folders: tuple[str, ...] = ("",)) -> Iterator[tuple[str, str]]:
    """(file:line, its text) of the files with these suffixes."""
    for name in FILES:
        if name.endswith(suffixes) and name.startswith(folders):
            for number, text in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1):
                yield f"{name}:{number}", text


def exists(path: str) -> bool:
    """Whether a file is called so, or ends so."""
    return Path(path).name in EXAMPLES or any(name == path or name.endswith(f"/{path}") for name in FILES)


def resolves(dotted: str) -> bool:
    """Whether it is a package or module of ours, or a name that is defined in one."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        base = "/".join(parts[:end])
        if (ROOT / base).is_dir() and end == len(parts):
            return True
        for module in (f"{base}.py", f"{base}/__init__.py"):
            if (ROOT / module).is_file():
                return end == len(parts) or defines(module, parts[end])
    return False


def defines(module: str, name: str) -> bool:
    text = (ROOT / module).read_text(encoding="utf-8")
    return re.search(rf"^\s*(?:def|class) {name}\b|^{name}\b.*=|\bimport\b.*\b{name}\b", text, re.MULTILINE) is not None


def test_links_of_the_docs_lead_to_files() -> None:
    broken = [
        f"{place}: {target}"
        for place, text in lines(".md")
        for target in LINK.findall(text)
        if target not in MADE and not (ROOT / place.split(":")[0]).parent.joinpath(target).exists()
    ]
    assert broken == []


@pytest.mark.parametrize("folders", [("docs/", "README", "CONTRIBUTING", "SECURITY", "Makefile"), PACKAGES])
def test_cited_scripts_are_there(folders: tuple[str, ...]) -> None:
    missing = [
        f"{place}: {path}"
        for place, text in lines(".md", ".py", ".toml", "Makefile", folders=folders)
        for path in SCRIPT.findall(text)
        if not exists(path)
    ]
    assert missing == []


def test_cited_modules_are_there() -> None:
    missing = [
        f"{place}: {dotted}"
        for place, text in lines(".md", ".py", ".toml", ".yml", "Makefile")
        for dotted in DOTTED.findall(text)
        if not resolves(dotted)
    ]
    assert missing == []
