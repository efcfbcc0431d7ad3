"""What README and docs/attacks.md say of defended runs is what was measured (docs/results)."""

import json
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
STORED = json.loads((ROOT / "docs" / "results" / "readme.json").read_text())


@pytest.mark.parametrize("run", ["demo", "open", "defended"])
def test_the_verdict_in_the_readme_is_the_stored_one(run: str) -> None:
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert STORED[run]["verdict"]["sentence"] in readme


def test_the_figures_of_knowing_are_the_stored_ones() -> None:
    page = " ".join((ROOT / "docs" / "attacks.md").read_text().split())
    rows = pd.read_csv(ROOT / "docs" / "results" / "frontier_synthetic.csv").query("cell == 'prune-keep_0.0001'")
    named, users = rows.set_index("knowledge")["named"], rows["users"].max()
    assert f"one who ignores the defense names {named['none']} of {users} users" in page
    assert f"one who knows it names {named['parameters']}." in page
