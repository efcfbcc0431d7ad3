"""The tables of docs/frontier.md are those of the stored results, and a sweep yields rows of that form."""

from pathlib import Path

import pandas as pd
import pytest
from fake_sweep import fake_sweep

from experiments.show.frontier.__main__ import COLUMNS, markdown, stored

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", ["frontier_synthetic", "frontier_real"])
def test_the_table_in_the_docs_is_the_stored_one(name: str) -> None:
    assert markdown(pd.read_csv(DOCS / "results" / f"{name}.csv")) in (DOCS / "frontier.md").read_text()


def test_a_sweep_is_stored_as_a_row_a_cell_and_knowledge(tmp_path: Path) -> None:
    rows = stored(fake_sweep(users=16))
    assert list(rows) == COLUMNS
    assert len(rows) == 5 * 3
    rows.to_csv(tmp_path / "rows.csv", index=False)
    table = markdown(pd.read_csv(tmp_path / "rows.csv"))
    assert "| 16 of 16 [79 %, 100 %] | 1e+03 |" in table
    assert "| 0 of 16 [0 %, 21 %] | 10 | 0.0 |" in table
