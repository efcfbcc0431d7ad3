"""Runs of the same users side by side: what is concluded, what is refused, and the page in a real browser."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from browser import PROGRAM, Browser
from command_line import fl_sim, sentence
from fake_run import fake_run
from rich.console import Console

from experiments.show.compare import compare, page, terminal
from fl_sim.config import ConfigError, dump, load
from fl_sim.runs import RunFolder, write_manifest


def finished(root: Path, users: int = 10, leaks: bool = True, **made: int) -> RunFolder:
    run = fake_run(root, users=users, leaks=leaks, **made)
    table = pd.read_parquet(run.leakage)
    table.assign(capture=table["user"]).to_parquet(run.leakage)
    run.report.touch()  # which says that it is finished
    return run


def change(run: RunFolder, *overrides: str) -> None:
    run.config.write_text(dump(load(run.config, overrides)))


def edit(run: RunFolder, change) -> None:
    change(pd.read_parquet(run.leakage)).to_parquet(run.leakage)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that leaks and one that does not."""
    folder = tmp_path_factory.mktemp("made")
    finished(folder / "open")
    finished(folder / "defended", leaks=False)
    return folder


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> tuple[RunFolder, RunFolder]:
    """Copies of them, to change."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return RunFolder(tmp_path / "open"), RunFolder(tmp_path / "defended")


def roots(*runs: RunFolder) -> list[Path]:
    return [run.root for run in runs]


def test_what_leaks_less_is_said_to(runs: tuple[RunFolder, RunFolder]) -> None:
    bare, defended = runs
    compared = compare(roots(bare, defended))
    assert compared.pairs[0].kind == "less"
    assert compared.conclusions[0].startswith("defended leaks less than open.")
    assert compare(roots(defended, bare)).pairs[0].kind == "more"
    table = compared.table().set_index("run")
    assert table.loc["open", "identified"] > table.loc["defended", "identified"]
    assert table.loc["defended", "difference"] < 0
    assert table.loc["defended", "p_similarity"] < 0.05
    assert len(compared.by_user()) == 2 * 10
    assert repr(compared) == "\n".join([*compared.conclusions, *compared.notes])
    assert compared.conclusions[0] in compared._repr_html_()


def test_no_difference_is_never_called_the_same(runs: tuple[RunFolder, RunFolder], tmp_path: Path) -> None:
    shutil.copytree(runs[0].root, tmp_path / "b")
    compared = compare([runs[0].root, tmp_path / "b"])
    assert compared.pairs[0].kind == "no difference"
    assert "does not show that they leak alike" in compared.conclusions[0]


def test_few_users_are_too_few(runs: tuple[RunFolder, RunFolder]) -> None:
    for run in runs:
        edit(run, lambda table: table[table["user"] < 6])
    compared = compare(roots(*runs))
    assert compared.pairs[0].kind == "too few users"
    assert "Too few users to tell" in compared.conclusions[0]
    assert "it takes 7" in compared.conclusions[0]


def test_low_scores_of_attacks_that_do_not_know_the_defense_are_no_conclusion(
    runs: tuple[RunFolder, RunFolder],
) -> None:
    bare, defended = runs
    write_manifest(defended, threat_model={"not_adapted_to": {"user_diffusion": ["prune"]}})
    compared = compare(roots(bare, defended))
    assert compared.pairs[0].kind == "no conclusion"
    assert "no attack of defended knows the defense prune" in compared.conclusions[0]


def test_low_scores_without_the_strongest_attack_are_no_conclusion(runs: tuple[RunFolder, RunFolder]) -> None:
    bare, defended = runs
    edit(defended, lambda table: table[table["attack"] != "user_diffusion"])
    compared = compare(roots(bare, defended))
    assert compared.pairs[0].kind == "no conclusion"
    assert "not attacked by user_diffusion" in compared.conclusions[0]


def test_sums_of_users_are_not_tested(runs: tuple[RunFolder, RunFolder]) -> None:
    bare, defended = runs
    edit(defended, lambda table: table.assign(group_size=2))
    compared = compare(roots(bare, defended))
    assert compared.pairs[0].kind == "no conclusion"
    assert compared.table()["p_similarity"].isna().all()
    assert "(p" not in compared.conclusions[0]


def test_pictures_that_are_missing_are_told_and_in_no_test(runs: tuple[RunFolder, RunFolder]) -> None:
    bare, defended = runs
    lost = ["facial_similarity", "rank"]

    def lose(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[table["user"] < 3, lost] = float("nan")
        return table

    edit(defended, lose)
    compared = compare(roots(bare, defended))
    assert compared.pairs[0].strongest.likeness.users == 7
    assert any("no picture of 3 of 10 users of defended" in note for note in compared.notes)


def test_only_rounds_that_both_attacked_are_compared(runs: tuple[RunFolder, RunFolder]) -> None:
    bare, longer = runs
    edit(bare, lambda table: table[table["round"] == 1])
    compared = compare(roots(bare, longer))
    assert compared.rounds == [1]
    assert any("without round 2" in note for note in compared.notes)
    edit(longer, lambda table: table[table["round"] > 1])
    with pytest.raises(ConfigError, match="no user was attacked in the same round"):
        compare(roots(bare, longer))


def test_other_people_and_other_judges_are_refused_and_named(runs: tuple[RunFolder, RunFolder]) -> None:
    bare, defended = runs
    change(defended, "seed=1", "dataset.task=glasses")
    with pytest.raises(ConfigError, match=r"seed is 1, not 0; dataset\.task is 'glasses', not 'auto'"):
        compare(roots(bare, defended))
    change(defended, "seed=0", "dataset.task=auto", "leakage.gallery_size=50")
    with pytest.raises(ConfigError, match=r"leakage\.gallery_size is 50, not 100"):
        compare(roots(bare, defended))


def test_what_is_no_finished_run_is_refused(runs: tuple[RunFolder, RunFolder], tmp_path: Path) -> None:
    bare, defended = runs
    for given, told in (
        ([bare.root], "give two or more"),
        ([bare.root, bare.root], "given twice"),
        ([bare.root, tmp_path], "no run folder"),
    ):
        with pytest.raises(ConfigError, match=told):
            compare(given)
    defended.report.unlink()
    with pytest.raises(ConfigError, match="not finished"):
        compare(roots(bare, defended))


def test_the_table_fits_80_columns(runs: tuple[RunFolder, RunFolder]) -> None:
    console = Console(width=80, record=True, file=None, force_terminal=False)
    with console.capture() as told:
        console.print(terminal.tables(compare(roots(*runs))))
    assert max(map(len, told.get().splitlines())) <= 80
    assert "defended" in told.get()
    assert "user_diffusion" in told.get()


def test_three_runs_in_a_command(runs: tuple[RunFolder, RunFolder], tmp_path: Path) -> None:
    third = RunFolder(tmp_path / "third")
    shutil.copytree(runs[1].root, third.root)
    code, told = fl_sim("compare", *roots(*runs, third), "--out", tmp_path / "beside.html", "--json")
    assert code == 0, told
    assert "leaks less" in (tmp_path / "beside.html").read_text()
    assert (tmp_path / "beside.html").stat().st_mode & 0o077 == 0
    facts = compare(roots(*runs, third)).facts()
    assert [run["run"] for run in json.loads(json.dumps(facts))["runs"]] == ["open", "defended", "third"]
    assert facts["runs"][2]["kind"] == "less"


def test_a_mistake_is_one_sentence(runs: tuple[RunFolder, RunFolder]) -> None:
    change(runs[1], "dataset.users=9")
    code, told = fl_sim("compare", *roots(*runs))
    assert code == 2
    assert "dataset.users is 9, not 10" in sentence(told)
    assert not (runs[1].root / "compare.html").exists()


def test_photos_of_real_people_stay_out_unless_asked_for(
    runs: tuple[RunFolder, RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in runs:
        change(run, "dataset.name=folder")
    opened = []
    monkeypatch.setattr(page, "open_dataset", lambda *given: opened.append(given))
    text = page.write(compare(roots(*runs)), tmp_path / "compare.html").read_text()
    assert opened == []
    assert "a private photo of user" not in text
    assert "--with-private-photos" in text


@pytest.mark.slow
@pytest.mark.skipif(PROGRAM is None, reason="no Chromium here; install Debian's chromium package to run this")
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_the_page_is_whole_fetches_nothing_and_never_scrolls_sideways(
    runs: tuple[RunFolder, RunFolder], tmp_path: Path, width: int, dark: bool
) -> None:
    written = page.write(compare(roots(*runs)), tmp_path / "compare.html")
    with Browser(width, 900, dark) as browser:
        browser.open(written)
        assert browser.evaluate("document.images.length") == 3 * 10
        assert browser.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert browser.problems == []
        fetched = {address for address in browser.requests if not address.startswith("data:")}
        assert fetched == {written.resolve().as_uri()}
