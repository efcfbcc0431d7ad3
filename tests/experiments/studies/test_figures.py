"""Every figure of the documents is what its stored result says, and what is said of where it is from holds."""

import re
from pathlib import Path

import pandas as pd
import pytest

from experiments.studies import stored
from experiments.studies.figures.pages import MARKED, changes, described, filled, names, pages
from experiments.studies.figures.tables import TABLES

OF_ALL_USERS = {
    *stored.KEYS,
    "dataset.photos",
    "accuracy",
    "epsilon",
    "mechanism",
    "gallery",
    "readings",
    "knowledge",
    "similarity",
    "named",
}


def test_printing_the_figures_anew_changes_nothing(repository: Path) -> None:
    assert [path.name for path, _ in changes(repository)] == [], "run make figures"


def test_every_table_is_in_a_document_and_its_origin_is_told(repository: Path) -> None:
    placed = {name for path in pages(repository) for name in names(path.read_text(encoding="utf-8"))}
    assert placed == {*TABLES, "sources"}
    assert set(TABLES) <= set(described(repository))


def test_every_stored_file_belongs_to_a_figure(repository: Path) -> None:
    folder = repository / "docs" / "results"
    used = {file for facts in described(repository).values() for file in facts.get("files", ())}
    assert used == {path.name for path in folder.iterdir()} - {"figures.toml"}


def test_stored_results_are_figures_of_users_together(repository: Path) -> None:
    for path in (repository / "docs" / "results").glob("*.csv"):
        columns = set(pd.read_csv(path, nrows=0))
        if {"arm", "knowledge"} & columns:
            figures = {re.sub("_(low|high)$", "", name) for name in columns - OF_ALL_USERS}
            known = {*stored.FIGURES, *stored.REALISM, "psnr"}
            assert all(name in known or name.startswith("attr_") for name in figures), path


def test_no_table_with_numbers_stands_outside_its_marks(repository: Path) -> None:
    interval = re.compile(r"\d\.\d\d \[-?\d\.\d\d, ")
    for path in pages(repository):
        if path.name != "paper.md":  # written whole
            outside = MARKED.sub("", path.read_text(encoding="utf-8"))
            assert not interval.search(outside), path


def test_a_study_is_stored_and_told(tmp_path: Path) -> None:
    rows = [
        {"cell": 8, "attack": "a", "label": "a", "arm": "attack", "users": 6, "facial_similarity": 0.5, "rank1": 0.5,
         "facial_similarity_low": 0.4, "facial_similarity_high": 0.6, "seconds": 3.0},
        {"cell": 8, "attack": "a", "label": "a", "arm": "own_photo", "users": 6, "facial_similarity": 0.9, "rank1": 1.0,
         "facial_similarity_low": 0.8, "facial_similarity_high": 1.0, "seconds": 3.0},
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "study.csv", index=False)
    kept = stored.stored(tmp_path)
    assert "seconds" not in kept
    kept.to_csv(tmp_path / "kept.csv", index=False)
    grid = stored.by(stored.read(tmp_path / "kept.csv"), lambda row: row["cell"])
    assert grid == {"8": {"a": "0.50 [0.40, 0.60], 3 of 6", "a real photo": "0.90 [0.80, 1.00], 6 of 6"}}
    with pytest.raises(LookupError, match="2 rows have"):
        stored.find(stored.read(tmp_path / "kept.csv"), cell="8")


def test_a_table_replaces_what_stood_between_its_marks(tmp_path: Path) -> None:
    text = "a\n<!-- table: one -->\n\nold\n\n<!-- /table -->\nb\n"
    assert filled(text, {"one": lambda folder: "new"}, tmp_path) == text.replace("old", "new")
