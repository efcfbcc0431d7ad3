"""A sweep is stored in the form that the tables of docs/frontier.md are printed of."""

from pathlib import Path

import pandas as pd
from fake_sweep import fake_sweep

from experiments.show.frontier.__main__ import COLUMNS, markdown, stored


def test_a_sweep_is_stored_as_a_row_a_cell_and_knowledge(tmp_path: Path) -> None:
    rows = stored(fake_sweep(users=16))
    assert list(rows) == COLUMNS
    assert len(rows) == 5 * 3
    rows.to_csv(tmp_path / "rows.csv", index=False)
    table = markdown(pd.read_csv(tmp_path / "rows.csv"))
    assert "| 16 of 16 [79 %, 100 %] | 1e+03 |" in table
    assert "| 0 of 16 [0 %, 21 %] | 10 | 0.0 |" in table


def test_users_are_named_by_the_reading_that_names_most() -> None:
    """A mean face may name users whom the photo drawn given it does not: a table of answers alone hid that."""
    sweep = fake_sweep(users=16)
    behind = sweep[sweep["arm"] == "attack"].assign(arm="determined", rank=1)
    rows = stored(pd.concat([sweep, behind.astype({"rank": "Int64"})], ignore_index=True))
    assert (rows["named"] == 16).all()
    assert (rows["readings"] == 2).all()
