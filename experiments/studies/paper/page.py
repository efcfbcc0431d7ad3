"""The result page: for each item what the paper reports, what is had here, and what differs."""

import importlib
import json
from pathlib import Path

from experiments.show.markdown import markdown_table
from experiments.studies.paper.items import ALGORITHM, ITEMS, Item
from experiments.studies.paper.tables import NOTE
from fl_sim.runs import write_atomically

HEAD = """# The paper, item by item

"Exploring User-level Gradient Inversion with a Diffusion Prior" (Li, Lowy, Liu, Koike-Akino, Malin, Parsons, Wang;
[arXiv 2409.07291](https://arxiv.org/abs/2409.07291)). Of the paper only its abstract and captions were at hand: the
numbers quoted from it below are all that are known, and none is claimed to be matched. This page is written by
`python -m experiments.studies.paper page` from the records of the items; each names the command that made it.

What differs from the paper in every item: its faces are CelebA's, its prior is a pretrained diffusion model, its face
recogniser and its model under attack are not known here. Ours are named beside each item. Numbers are means over users
with their 95 % interval, exact for shares of users (Clopper-Pearson), bootstrap for others. Where an attack draws its
answer from a prior, the mean face that the update determines, given which it is drawn, stands beside it.

"""


def write(out: Path) -> Path:
    """Assemble `OUT.md` from the records in `out`."""
    path = out.with_suffix(".md")
    write_atomically(path, text(out).encode())
    return path


def text(out: Path) -> str:
    """The page of the records in `out`; an item without one is named with the command that makes it."""
    return "\n".join([HEAD + NOTE + "\n", *(section(item, out) for item in ITEMS.values())])


def section(item: Item, out: Path) -> str:
    """The Markdown of one item."""
    parts = [f"## {item.title}", f"**The paper.** {item.paper}"]
    file = out / f"{item.name}.json"
    if item.name == "algorithm1":
        parts += ["**Here.**", *_algorithm(out)]
    elif not file.is_file():
        parts.append(f"**Here.** Not run yet: `python -m experiments.studies.paper {item.name}`.")
    else:
        record = json.loads(file.read_text(encoding="utf-8"))
        parts.append("**Here.** " + " And: ".join(record["setup"]))
        parts += [f"![{item.title}]({out.name}/{picture})" for picture in record["pictures"]]
        parts += [markdown_table(table["columns"], table["rows"]) for table in record["tables"]]
        parts.append(f"`{record['command']}`")
    parts.append(f"**What differs.** {item.differs}")
    return "\n\n".join(parts) + "\n"


def _algorithm(out: Path) -> list[str]:
    """The steps, each with the function that does it, linked from where the page lies."""
    root = Path(__file__).parents[3]
    up = "../" * len(out.resolve().parent.relative_to(root).parts) if out.resolve().is_relative_to(root) else f"{root}/"
    lines = []
    for number, (step, module, function) in enumerate(ALGORITHM, 1):
        file = Path(str(importlib.import_module(module).__file__)).relative_to(root)
        lines.append(f"{number}. {step}: [`{function}`]({up}{file.as_posix()})")
    return ["\n".join(lines)]
