from pathlib import Path

import pandas as pd
from fake_run import fake_run
from rich.console import Console

from experiments.evaluate.realism import SWD
from experiments.statistics.aggregate import aggregate
from experiments.statistics.significance import findings
from experiments.statistics.summary import leakage_tables


def test_the_table_fits_a_terminal_and_shows_what_is_missing_as_missing(tmp_path: Path) -> None:
    table = pd.read_parquet(fake_run(tmp_path / "run", rounds=1).leakage)
    table.loc[table["arm"] == "prior_only", ["facial_similarity", "rank"]] = None
    table["epsilon_audited"] = 1.5
    console = Console(width=80)
    with console.capture() as captured:
        console.print(leakage_tables(aggregate(table), findings(table)))
    text = captured.get()
    assert "inverting_gradients" in text
    assert "3 of 3 [29, 100 %]" in text
    assert "all its images together" in text
    assert "proves epsilon >= 1.5 at delta 1e-05; none is promised" in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_what_the_update_determines_stands_beside_what_was_drawn(tmp_path: Path) -> None:
    table = pd.read_parquet(fake_run(tmp_path / "run", rounds=1, draws=4).leakage)
    console = Console(width=80)
    with console.capture() as captured:
        console.print(leakage_tables(aggregate(table), findings(table)))
    text = captured.get()
    figures = aggregate(table)["overall"]["user_diffusion"]
    said = " ".join(text.split())
    assert f"the mean face that the update determines {figures['determined']['facial_similarity'].mean:.2f}" in said
    assert f"any one of its draws {figures['attack']['draws_similarity'].mean:.2f} (all rounds)" in said
    assert said.count("the mean face that the update determines") == 1  # the other attack draws nothing
    assert "user_diffusion, determined" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_longest_label_of_an_attacker_who_knows_less_cuts_no_figure(tmp_path: Path) -> None:
    table = pd.read_parquet(fake_run(tmp_path / "run", rounds=1, draws=4).leakage)
    longest = table["attack"].replace("user_diffusion", "user_diffusion-mechanism")
    table = table.assign(attack=longest, **dict.fromkeys(SWD, 1234.0))
    console = Console(width=80)
    with console.capture() as captured:
        console.print(leakage_tables(aggregate(table), findings(table)))
    text = captured.get()
    assert "patch distance," in text
    assert "1234  1234  1234" in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
