"""The README's table of real faces is what the stored results say."""

from pathlib import Path

from experiments.studies.task_table import KEPT, table

ROOT = Path(__file__).parents[2]
FILES = {state: ROOT / "docs" / "results" / f"task_real_{state}.csv" for state in ("untrained", "trained")}


def test_the_readme_has_the_table_of_the_stored_results() -> None:
    assert table(FILES) in (ROOT / "README.md").read_text()


def test_the_stored_results_are_figures_of_users_together_alone() -> None:
    for path in FILES.values():
        assert path.read_text().splitlines()[0].split(",") == KEPT
