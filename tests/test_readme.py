"""What README and docs/attacks.md say of defended runs is what they printed (docs/results/readme.json)."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STORED = json.loads((ROOT / "docs" / "results" / "readme.json").read_text())


@pytest.mark.parametrize("run", ["demo", "open", "defended"])
def test_the_verdict_in_the_readme_is_the_stored_one(run: str) -> None:
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert STORED[run]["verdict"]["sentence"] in readme


def test_the_figures_of_knowing_are_the_stored_ones() -> None:
    page = " ".join((ROOT / "docs" / "attacks.md").read_text().split())
    findings = {(one["attack"], one["arm"]): one for one in STORED["weak"]["findings"]}
    blind, knowing = (findings[label, "determined"] for label in ("user_diffusion-none", "user_diffusion"))
    assert f"one who ignores it names {blind['named']} (p = {blind['p_named']:.3f})" in page
    assert f"one who knows names {knowing['named']} (p = {knowing['p_named']:.3f};" in page
