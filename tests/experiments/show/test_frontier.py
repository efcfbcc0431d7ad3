"""The frontier of a sweep: the strongest attacker counts, and the words say what the table holds."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from browser import PROGRAM, Browser
from fake_sweep import LEAKS, fake_sweep
from typer.testing import CliRunner

from attacker.capture.store import write_reconstruction
from attacker.observation import Reconstruction
from experiments.cli.app import app
from experiments.show.frontier import pictures, rows, write_frontier
from experiments.show.frontier.answers import answers
from experiments.show.frontier.points import Point, adapting, less_than, points, series, undefended
from experiments.show.report import svg
from experiments.show.report.gallery import data_uri
from experiments.statistics.audited_epsilon import audited_epsilon
from fl_sim.config import ConfigError
from fl_sim.runs import RunFolder


@pytest.fixture(scope="module")
def found() -> list[Point]:
    return points(fake_sweep())


def test_a_defense_is_as_good_as_it_is_against_the_strongest_attacker(found: list[Point]) -> None:
    for one, (levels, accuracy, _) in zip(found, LEAKS.values(), strict=True):
        assert one.accuracy == accuracy
        assert one.strongest.leakage.mean == pytest.approx(max(levels) / 0.9, abs=0.05)
        for known, level in zip(("none", "mechanism", "parameters"), levels, strict=True):
            at = one.knowing(known)
            assert at is not None
            assert at.leakage.mean == pytest.approx(level / 0.9, abs=0.05)
            assert at.leakage.mean <= one.strongest.leakage.mean


def test_leakage_does_not_depend_on_the_order_of_rows_and_seeds_are_more_people(found: list[Point]) -> None:
    table = fake_sweep()
    mixed = {one.name: one for one in points(table.sample(frac=1, random_state=1))}
    for one in found:
        assert mixed[one.name].strongest.leakage == one.strongest.leakage
    twice = points(fake_sweep(seeds=2))
    assert [one.users for one in twice] == [20] * len(LEAKS)
    assert [len(one.cells) for one in twice] == [2] * len(LEAKS)


def test_chance_is_what_guessing_gives(found: list[Point]) -> None:
    assert [one.at_chance for one in found] == [False, False, False, False, True]
    table = fake_sweep(users=16)
    assert points(table)[-1].status == "nothing"
    last = (table["strength"] == "std 1.0") & (table["arm"] == "attack") & (table["label"] == "attack")
    table.loc[last & (table["user"] == 0), "rank"] = 1  # one of 16 among 100 people: chance names one in every seven
    assert points(table)[-1].at_chance
    table.loc[last & table["user"].isin((1, 2)), "rank"] = 1
    assert points(table)[-1].status == "named"


def test_too_few_users_recommend_no_defense_and_likeness_is_no_all_clear() -> None:
    few = points(fake_sweep(users=10))
    assert few[-1].status == "too few users"
    assert answers(few).headline.startswith(
        "Too few users to recommend a defense: under noise std 1.0 the attacks name"
    )
    table = fake_sweep(users=16)
    table.loc[(table["strength"] == "std 1.0") & (table["arm"] == "wrong_update"), "facial_similarity"] -= 0.2
    alike = points(table)
    assert alike[-1].status == "alike"
    assert "the pictures still resemble them" in answers(alike).headline


def test_who_was_not_attacked_in_a_round_or_gave_no_picture_does_not_count_as_hidden() -> None:
    table = fake_sweep(users=40)
    last = table["strength"] == "std 1.0"
    drawn = table[~last | (table["user"] < 10)]  # ten of forty a round
    more = drawn[last.reindex(drawn.index)].assign(round=2, user=lambda rows: rows["user"] + 10)
    assert points(pd.concat([drawn, more]))[-1].status == "too few users"
    named = drawn.copy()
    named.loc[last & (named["arm"] == "attack") & named["user"].isin((0, 1)), "rank"] = 1
    assert points(pd.concat([named, more]))[-1].status == "named"  # two of ten, not of twenty
    failed = table.copy()
    failed.loc[last & (table["arm"] == "attack") & (table["user"] > 9), ["rank", "facial_similarity"]] = None
    assert points(failed)[-1].status == "too few users"
    assert points(table.assign(capture=0, group_size=40))[-1].status == "too few users"


def test_all_images_together_are_read_too() -> None:
    table = fake_sweep(users=16)
    own = table[(table["strength"] == "std 1.0") & (table["arm"] == "attack")]
    together = own.assign(arm="all_images")
    together.loc[together["user"] < 3, "rank"] = 1
    assert points(pd.concat([table, together]))[-1].status == "named"


def test_a_defense_that_no_attack_knows_is_not_recommended() -> None:
    found = points(fake_sweep(users=16).assign(known_to_nobody="noise"))
    assert found[-1].status == "unknown defense"
    assert answers(found).headline.startswith("No verdict on noise std 1.0: no attack here knows noise")


def test_what_the_report_gives_no_verdict_on_the_frontier_does_not_recommend() -> None:
    """One verdict for both: pictures that explain nothing, a judge that names nobody, attributes that are read."""
    table = fake_sweep(users=16)
    poor = points(table.assign(matching_loss=0.4))
    assert poor[-1].status == "unexplained"
    assert "the pictures do not explain the updates" in answers(poor).headline
    blind = table.copy()
    blind.loc[(blind["strength"] == "std 1.0") & (blind["arm"] == "own_photo"), "rank"] = 50
    assert points(blind)[-1].status == "blind judge"
    assert "does not name users by real photos" in answers(points(blind)).headline
    read = table.assign(attr_hat_true=1, attr_hat_inferred=0)
    read.loc[(read["strength"] == "std 1.0") & (read["arm"] == "attack"), "attr_hat_inferred"] = 1
    assert points(read)[-1].status == "attributes"
    assert "attributes are still read off the pictures" in answers(points(read)).headline


def test_the_proved_epsilon_is_corrected_for_the_attackers_and_breaks_a_promise_that_is_too_small() -> None:
    table = fake_sweep(users=16)
    weak = points(table)[3]  # noise std 0.1, which names everybody
    assert weak.epsilon_audited == audited_epsilon(16, 16, 100, 1e-5, gaussian=True, tried=3)
    assert not weak.breaks_promise
    table.loc[table["strength"] == "std 0.1", "epsilon"] = 0.5
    assert points(table)[3].breaks_promise
    assert answers(points(table)).headline.startswith("noise std 0.1 does not keep its promise")


def test_pairs_are_of_the_same_people_and_knowing_is_worth_what_it_adds(found: list[Point]) -> None:
    bare = undefended(found)
    assert bare is not None
    noise = found[-1]
    compared = less_than(noise.strongest, bare.strongest)
    assert compared.p == 2**-10  # of ten users every one leaks less
    assert compared.difference.mean == pytest.approx(0.8, abs=0.05)
    assert less_than(bare.strongest, noise.strongest).p == 1.0
    blind = adapting(found[2])
    assert blind is not None
    assert blind.difference.mean == pytest.approx(0.6, abs=0.05)


def test_the_words_answer_the_three_questions() -> None:
    found = points(fake_sweep(users=16))
    said = answers(found)
    chance, cost, sure = (text for _, text in said.paragraphs)
    assert "noise std 1.0: it names none of 16 users, at most 21 % (95 %); accuracy 0.20, 0.90 without" in said.headline
    assert "noise at std 1.0 (none of 16 users, at most 21 % (95 %))" in chance
    assert "At none of the strengths tried: blind" in chance
    assert "noise std 1.0 (0.20)" in cost
    assert [row[0] for row in said.looks_strong] == ["blind keep 0.01"]  # a gain that is small, or chance, is not told
    assert "16 users" in sure
    nothing = answers([one for one in found if one.defense != "noise"])
    assert nothing.headline.startswith("No defense tried")


def test_rows_are_json(found: list[Point]) -> None:
    made = rows(found)
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert made[2]["strongest"]["knowledge"] == "parameters"


def test_markers_tell_all_defenses_apart() -> None:
    from experiments.show.frontier.charts import look

    looks = [(shape % svg.SERIES, kind) for shape, kind in map(look, range(svg.SERIES**2))]
    assert len(set(looks)) == svg.SERIES**2


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweeps") / "made"
    folder.mkdir()
    fake_sweep().to_parquet(folder / "sweep.parquet")
    (folder / "sweep.toml").write_text('title = "Made up"\n')
    for cell in fake_sweep()["cell"].unique():
        (folder / cell).mkdir()
        (folder / cell / "config.toml").write_text("[dataset]\nusers = 10\nphotos = 2\nimage_size = 32\n")
    return write_frontier(folder)[0]


def test_the_page_holds_every_point_and_leads_to_its_run(page: Path, found: list[Point]) -> None:
    text = page.read_text()
    for one in found:
        assert f'href="{one.cells[0]}/report.html"' in text
    assert all(name in text for name in series(found))
    assert "no reconstruction" in text  # the pictures were tidied up
    assert "http" not in text.replace("http-equiv", "")
    assert "A realistic face is no evidence" in text


def test_every_strip_shows_the_same_people_by_the_captures_that_hold_their_updates(tmp_path: Path) -> None:
    """Under shuffling a capture's number is not its user's. One that failed leaves its place; damage ends nothing."""
    table = fake_sweep().query("user >= 3").reset_index(drop=True)  # users 0 to 2 took no part
    table["capture"] = 20 - table["user"]
    measured = points(table)
    bare, other = measured[0], measured[3]
    shown = pictures.users(table, bare)
    assert shown == [3, 4, 5, 6]
    for point in (bare, other):
        for user in shown:
            made = Reconstruction(torch.full((1, 3, 8, 8), user / 10), torch.ones(1), 0.1, 1.0)
            write_reconstruction(RunFolder(tmp_path / point.cells[0]), point.strongest.label, 1, 20 - user, made, {})
    strip = pictures.reconstructions(tmp_path, table, bare, shown)
    assert [one.source for one in strip] == [data_uri(torch.full((3, 8, 8), user / 10)) for user in shown]
    root = RunFolder(tmp_path / other.cells[0])
    root.reconstruction(other.strongest.label, 1, 20 - 3).unlink()
    root.reconstruction(other.strongest.label, 1, 20 - 4).write_bytes(b"damaged")
    strip = pictures.reconstructions(tmp_path, table, other, shown)
    assert [bool(one.source) for one in strip] == [False, False, True, True]
    assert strip[0].alt == f"user 3 through {other.name}: no reconstruction"


def test_the_terminal_ends_with_the_sentence_of_the_page(page: Path, found: list[Point]) -> None:
    said = CliRunner().invoke(app, ["frontier", str(page.parent)]).stdout.strip().splitlines()
    assert said[-1] == answers(found).headline


def test_a_folder_that_is_no_sweep_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no sweep.parquet"):
        write_frontier(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(PROGRAM is None, reason="no Chromium here; install Debian's chromium package to run this")
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser_nothing_fails_and_nothing_leaves_the_page(page: Path, width: int) -> None:
    with Browser(width) as browser:
        browser.open(page)
        assert browser.problems == []
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
