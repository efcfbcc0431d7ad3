"""The table that sums up what decides how much leaks: a line a question, each end of it a row of a stored study."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

from experiments.show.markdown import markdown_table
from experiments.studies import stored

LINES = Path(__file__).with_suffix(".toml")
OURS = "user_diffusion"


def table(folder: Path) -> str:
    """A line each, with the similarity and the users named at both ends."""
    lines = []
    for line in tomllib.loads(LINES.read_text(encoding="utf-8"))["line"]:
        ends = [f"{end['name']}: {_told(end, folder)}" for end in (line["start"], line["end"])]
        section = line["section"]
        anchor = section.lower().replace(" ", "-").replace(",", "").replace("'", "")
        lines.append([line["what"], *ends, line["people"], f"[{section}](#{anchor})"])
    return markdown_table(["what", "from", "to", "people", "section"], lines)


def _told(end: Mapping[str, str], folder: Path) -> str:
    wanted = {"label": OURS} | {key: value for key, value in end.items() if key not in ("name", "file")}
    row = stored.find(stored.read(folder / f"{end['file']}.csv"), arm="attack", **wanted)
    return ", ".join(filter(None, (f"{row['facial_similarity']:.2f}", stored.named(row))))
