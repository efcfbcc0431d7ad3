"""What the site adds to the pages: reference pages made of the code, and paths in place of links out of the site."""

import json
import re
from typing import Any

from mkdocs.structure.files import File, Files

from experiments.cli import listing
from experiments.evaluate.arms import ARMS
from experiments.evaluate.columns import COLUMNS

TREE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+([^)#]+)[^)]*\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """`[text](../path)` as `` text (`path`) ``, or the path alone where it is the text."""
    return TREE.sub(lambda link: f"`{link[2]}`" if link[2] in link[1] else f"{link[1]} (`{link[2]}`)", markdown)


def on_files(files: Files, config: Any) -> Files:
    """With the reference pages."""
    for name, content in {"config": _config(), "leakage": _leakage()}.items():
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    return files


def _config() -> str:
    """Every key, a table a section."""
    tables: dict[str, list[str]] = {}
    for key in map(listing.as_json, listing.listed()):
        section = key["key"].rpartition(".")[0]
        default = "needed" if key["needed"] else "" if key["default"] is None else f"`{json.dumps(key['default'])}`"
        cells = (f"`{key['key'].rpartition('.')[2]}`", _cell(key["takes"]), _cell(default), _cell(key["meaning"]))
        tables.setdefault(section, []).append(f"| {' | '.join(cells)} |")
    head = "| key | takes | default | meaning |\n|---|---|---|---|\n"
    parts = [f"## {section or 'top level'}\n\n{head}" + "\n".join(rows) for section, rows in tables.items()]
    return "# Configuration\n\nThe same in a terminal: `fl-sim config [PREFIX]`.\n\n" + "\n\n".join(parts) + "\n"


def _leakage() -> str:
    """The columns and the arms of the leakage table."""
    columns = [
        f"| `{name}` | {column.dtype} | {_cell(column.range)} | {column.direction} | {_cell(column.meaning)} |"
        for name, column in COLUMNS.items()
    ]
    arms = [f"| `{arm.name}` | {_cell(arm.caption)} | {_cell(arm.meaning)} |" for arm in ARMS]
    head = "| column | type | range | direction | meaning |\n|---|---|---|---|---|\n"
    text = "# The leakage table\n\n`leakage.parquet` and `leakage.csv`: a row for each round, user, attack and arm.\n\n"
    text += head + "\n".join(columns) + "\n\n## Arms\n\n| arm | caption | what is judged |\n|---|---|---|\n"
    return text + "\n".join(arms) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
