"""Tables of fully connected first layers in docs/attacks.md are what the stored results say."""

import json
from pathlib import Path

from experiments.benchmarks.attack_speed import UNMIXED, unmixing_table
from experiments.studies.photos_table import KEPT, table

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_has_what_unmixing_cost_and_reached() -> None:
    rows = json.loads((DOCS / "results" / "unmixing.json").read_text())
    assert tuple(row["photos"] for row in rows) == UNMIXED
    assert unmixing_table(rows) in (DOCS / "attacks.md").read_text()


def test_the_page_has_the_table_of_the_study() -> None:
    path = DOCS / "results" / "fully_connected.csv"
    assert path.read_text().splitlines()[0].split(",") == KEPT
    assert table(path) in (DOCS / "attacks.md").read_text()
