"""The documents with their tables printed anew between marks, and the pictures that can be drawn of stored results.

A table of a document stands between `<!-- table: NAME -->` and `<!-- /table -->`.
"""

import io
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from attacker.attacks.user_diffusion import Settings
from experiments.plan.study import open_study
from experiments.studies import finishes_plot, plot
from experiments.studies.figures.tables import TABLES, Table
from experiments.studies.paper import page
from experiments.studies.paper.make import draw_schedule

MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(\n<!-- /table -->)", re.DOTALL)
SOURCES = "figures.toml"  # in docs/results: files, command, cost and origin of each figure
ALIKE = 0.5  # of 255, on average: two drawings of the same points differ by less, where fonts are drawn otherwise

Picture = Callable[[Path], bytes]


def _finishes(folder: Path) -> bytes:
    return finishes_plot.draw(json.loads((folder / "finishes_synthetic.json").read_text(encoding="utf-8"))["rows"])


def _ablation(people: str) -> Picture:
    return lambda folder: plot.draw(open_study("ablation")[1], pd.read_csv(folder / f"ablation_{people}.csv"))


PICTURES: dict[str, Picture] = {
    "finishes_synthetic.png": _finishes,
    "ablation.png": _ablation("synthetic"),
    "ablation_real.png": _ablation("real"),
    "paper/figure5.png": lambda folder: draw_schedule(Settings()),
}
"""By path in docs; each from the folder of stored results."""


def pages(root: Path) -> list[Path]:
    """README.md and the documents."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def changes(root: Path) -> Iterator[tuple[Path, bytes]]:
    """The files of the documents under `root` that their stored results would change, and what they then hold."""
    folder = root / "docs" / "results"
    tables: dict[str, Table] = {**TABLES, "sources": lambda folder: sources(root)}
    for path in pages(root):
        text = path.read_text(encoding="utf-8")
        new = page.text(root / "docs" / "paper") if path.name == "paper.md" else filled(text, tables, folder)
        if new != text:
            yield path, new.encode()
    for name, draw in PICTURES.items():
        path, drawn = root / "docs" / name, draw(folder)
        if not path.is_file() or not alike(path.read_bytes(), drawn):
            yield path, drawn


def filled(text: str, tables: dict[str, Table], folder: Path) -> str:
    """`text` with each table between its marks printed of `folder`. KeyError for a name that is no table's."""
    return MARKED.sub(lambda mark: f"{mark[1]}\n{tables[mark[2]](folder)}\n{mark[3]}", text)


def names(text: str) -> list[str]:
    """The tables of a document."""
    return [mark[2] for mark in MARKED.finditer(text)]


def alike(one: bytes, other: bytes) -> bool:
    """Whether two PNGs show the same."""
    first, second = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=float) for data in (one, other))
    return first.shape == second.shape and float(np.abs(first - second).mean()) < ALIKE


def described(root: Path) -> dict[str, dict[str, Any]]:
    """What docs/results/figures.toml says of each figure, by its name."""
    return tomllib.loads((root / "docs" / "results" / SOURCES).read_text(encoding="utf-8"))


def sources(root: Path) -> str:
    """An entry a figure: page, stored result, what that takes to measure, where it is from, and the command."""
    placed = {name: path for path in pages(root) for name in names(path.read_text(encoding="utf-8"))}
    entries = []
    for name, facts in described(root).items():
        page = placed[name].name if name in placed else facts["page"]
        link = f"[{name}]({'../' if page == 'README.md' else ''}{page})"
        files = ", ".join(f"[{file}](results/{file})" for file in facts.get("files", ())) or facts["stored"]
        entries.append(f"- {link}: {files}. {facts['takes']}; {facts['origin']}:\n  `{facts['command']}`")
    return "\n".join(entries)
