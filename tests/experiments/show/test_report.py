"""The report says what the run holds, says what is missing, and shows no private photo of real people unasked."""

import itertools
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
import torch
from fake_run import fake_run
from hypothesis import given
from hypothesis import strategies as st

from experiments.show.report import svg, write_report
from experiments.show.report.captions import class_name, headline
from experiments.show.report.gallery import data_uri
from experiments.show.report.run_data import RunData, read
from experiments.statistics.significance import Finding
from fl_sim.runs import RunFolder

FETCHING = ("src", "href", "srcset", "poster", "data", "action", "xlink:href")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return fake_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture(scope="module")
def page(run: RunFolder) -> str:
    return page_of(run)


@pytest.fixture(scope="module")
def run_data(run: RunFolder) -> RunData:
    return read(run)


def page_of(run: RunFolder, **options: bool) -> str:
    return write_report(run, **options).read_text(encoding="utf-8")


def text_of(page: str) -> str:
    page = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page))


def test_the_page_fetches_nothing(page: str) -> None:
    found: list[str] = []

    class Addresses(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag not in {"iframe", "object", "embed"}
            found.extend(value or "" for name, value in attrs if name in FETCHING)

    Addresses().feed(page)
    assert len([address for address in found if address.startswith("data:image/png;base64,")]) > 20
    assert all(address.startswith(("data:", "#")) for address in found)
    assert "url(" not in page
    assert "@import" not in page


def test_every_image_has_an_alt_text_and_every_chart_a_title(page: str) -> None:
    assert page.count("<img ") == len(re.findall(r'<img src="[^"]+" alt="[^"]+">', page))
    charts = re.findall(
        r'<svg class="chart"[^>]*>(?:(?!<svg).)*?<title id="[^"]+">[^<]+</title><desc id="[^"]+">', page
    )
    assert len(charts) == page.count('<svg class="chart"') >= 5


def test_ids_on_the_page_are_unique(page: str) -> None:
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_the_headline_counts_the_users_that_the_strongest_attack_names(run_data: RunData) -> None:
    assert run_data.leakage is not None
    table = run_data.leakage
    first = table[(table["round"] == 1) & (table["attack"] == "user_diffusion") & (table["arm"] == "attack")]
    head = headline(run_data)
    assert head.verdict == "named"
    assert head.strongest == "user_diffusion"
    named = int((first["rank"] == 1).sum())
    assert named == 3
    assert "names all 3 users among 100 people: 29 % to 100 % (95 %)" in head.sentence
    assert "prior only 0" in head.beside
    assert head.beside.endswith("Of 2 attacks here user_diffusion names the most users.")


def test_an_attack_names_the_most_users_only_where_it_does(run_data: RunData) -> None:
    best = next(finding for finding in run_data.findings if finding.names)

    def beside(*others: Finding) -> str:
        return headline(replace(run_data, findings=[best, *others])).beside

    equal = replace(best, attack="inverting_gradients")
    fewer, any_round = replace(equal, named=0), replace(equal, server_round=None)
    assert beside(equal).endswith("user_diffusion names the most users; inverting_gradients as many.")
    assert beside(fewer).endswith("user_diffusion names the most users.")
    assert "names the most" not in beside()
    assert "names the most" not in beside(any_round)  # several rounds are another measure
    assert "names the most" not in beside(replace(equal, attack="attribute inference"))  # of no picture


def test_nothing_found_of_three_users_is_no_all_clear(tmp_path: Path) -> None:
    head = headline(read(fake_run(tmp_path / "few", leaks=False)))
    assert head.verdict == "too"
    assert head.sentence.startswith("Too few users to tell")
    assert "none of 15 would leave up to 22 %" in head.sentence


@pytest.mark.slow
def test_a_negative_result_is_said_as_such_with_what_it_leaves_open(tmp_path: Path) -> None:
    head = headline(read(fake_run(tmp_path / "safe", users=16, rounds=1, photos=2, leaks=False)))
    assert head.verdict == "nothing"
    assert "no attack tells more about the users than its controls" in head.sentence
    assert "names none of 16 users among 100 people; at most 21 % (95 %)" in head.sentence


def test_every_aggregate_is_on_the_page(run_data: RunData, page: str) -> None:
    for attack in ("user_diffusion", "inverting_gradients"):
        for arm in ("attack", "prior_only", "wrong_update", "public_mean", "own_photo", "own_mean"):
            for metric in ("facial_similarity", "rank1", "rank5", "normalised_leakage", "verified_at_far_1e3"):
                for server_round in (None, 1, 2):
                    interval = run_data.interval(attack, arm, metric, server_round)
                    assert interval is not None
                    low, high = svg.number(interval.low), svg.number(interval.high)
                    assert f"{svg.number(interval.mean)} <small>[{low}, {high}]</small>" in page


def test_draws_stand_beside_the_answer_with_what_they_are_evidence_of(tmp_path: Path) -> None:
    page = page_of(fake_run(tmp_path / "drawn", draws=4)).partition('id="gallery"')[2]
    text = text_of(page)
    for user in range(3):
        of = f"of user {user} by user_diffusion in round 1"
        assert page.count(f'alt="another of the 4 draws {of}"') == 3
        assert page.count(f'alt="where the 4 draws {of} differ: most in the ') == 1
        assert page.count(f'alt="mean face that the update determines, {of}, rank 1, similarity 0.') == 1
    assert "another of the 4 draws of user 0 by user_diffusion in round 2" not in page  # one round is enough
    assert text.count("What the 4 draws share, the update says, or the prior draws it for anybody") == 3
    assert re.search(r"(yes|no) \((right|wrong)\) \([234] of 4 draws\)", text)
    assert "similarity of any draw" in text
    assert "user_diffusion, determined" in text


def test_what_the_mean_shows_is_said_where_most_draws_show_something_else(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "drawn", users=3, rounds=1, draws=4)
    table, name = pd.read_parquet(run.leakage), "attr_glasses_inferred"
    drawn = (table["attack"] == "user_diffusion") & (table["arm"] == "attack")
    table.loc[drawn, name] = 1
    for shown, times in ((1, 0), (0, 3)):
        table.loc[table["arm"] == "determined", name] = shown
        table.to_parquet(run.leakage)
        text = text_of(page_of(run))
        assert text.count("their mean: " + ("no", "yes")[shown]) == times


def test_a_realistic_face_without_evidence_is_said_to_be_none_beside_it(tmp_path: Path) -> None:
    said = "A realistic face is no evidence: the prior draws one for any update."
    run = fake_run(tmp_path / "nobody", draws=4, leaks=False)
    text = text_of(page_of(run))
    assert text.count(said) == 3
    assert "the prior invented it" not in text
    run.leakage.unlink()
    assert text_of(page_of(run)).count(said) == 3  # not measured is no evidence either


def test_a_page_without_draws_says_nothing_of_them(page: str) -> None:
    text = text_of(page)
    assert "of 4 draws" not in text
    assert "the prior invented it" not in text
    assert "similarity of any draw" not in text


@pytest.mark.slow
def test_more_users_than_fit_are_counted(tmp_path: Path) -> None:
    page = page_of(fake_run(tmp_path / "many", users=26, rounds=1, photos=2))
    assert page.count("<article") == 24
    assert "2 more were measured" in page


@pytest.mark.slow
@pytest.mark.parametrize("gone", ["manifest.json", "rounds.parquet", "leakage.parquet", "captures", "reconstructions"])
def test_a_missing_piece_is_a_sentence_and_never_a_crash(tmp_path: Path, gone: str) -> None:
    run = fake_run(tmp_path / "part", users=2, rounds=1)
    (run.root / gone).rename(tmp_path / "gone")
    text = text_of(page_of(run))
    said = {
        "manifest.json": "The manifest is missing",
        "rounds.parquet": "No round has been evaluated yet",
        "leakage.parquet": "Leakage has not been measured",
        "captures": "None: every reply was accepted",
        "reconstructions": "No reconstruction of this user yet",
    }
    assert said[gone] in text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["manifest.json", "rounds.parquet", "leakage.parquet", "captures/index.jsonl"])
def test_a_damaged_file_is_a_sentence_and_never_a_crash(tmp_path: Path, name: str) -> None:
    run = fake_run(tmp_path / "hurt", users=2, rounds=1)
    (run.root / name).write_bytes(b"not what it should be\n")
    assert "cannot be read" in page_of(run) or name == "manifest.json"


def test_a_run_that_has_only_its_config(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "new")
    run.root.mkdir()
    run.config.write_text('name = "new"\n[dataset]\nusers = 2\nphotos = 2\nimage_size = 32\n')
    assert "Leakage has not been measured" in page_of(run)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no config\.toml"):
        write_report(RunFolder(tmp_path))


def test_numbers_that_are_null_are_dashes(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "null", users=2, rounds=1)
    table = pd.read_parquet(run.leakage)
    failed = (table["arm"] == "attack") & (table["user"] == 0)
    keys = {"run", "seed", "round", "user", "attack", "arm", "knowledge", "group_size", "delta"}
    numbers = [column for column in table if column not in keys]
    table = table.astype({"rank": "Int64"})
    table[numbers] = table[numbers].mask(failed)
    table.to_parquet(run.leakage)
    rounds = pd.read_parquet(run.rounds)
    rounds["accuracy"] = math.nan
    rounds.to_parquet(run.rounds)
    page = page_of(run)
    assert "nan" not in text_of(page).lower().replace("holds nan or inf", "")
    assert not re.search(r'="[^"]*\bnan\b', page)
    assert f"{svg.DASH}" in page


def test_a_damaged_reconstruction_leaves_its_place_empty(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "torn", users=2, rounds=1)
    run.reconstruction("user_diffusion", 1, 0).write_bytes(b"torn")
    page = page_of(run)
    assert "reconstruction of user 1 by user_diffusion" in page
    assert "reconstruction of user 0 by user_diffusion" not in page


@pytest.mark.slow
def test_private_photos_of_real_people_are_shown_only_on_demand(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "real", users=2, rounds=1)
    run.config.write_text(run.config.read_text().replace("[dataset]", '[dataset]\nname = "tiny_faces:open_tiny"'))
    hidden, shown = page_of(run), page_of(run, with_private_photos=True)
    assert "private photo 1 of user 0" not in hidden
    assert "The private photos are not shown" in hidden
    assert "Keep this page as you keep the photos" in hidden
    assert "private photo 1 of user 0" in shown


def test_words_of_the_run_are_escaped(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "odd", users=2, rounds=1)
    run.config.write_text(run.config.read_text().replace('name = "odd"', 'name = "<b>odd</b>"'))
    assert "<b>odd" not in page_of(run)


def test_the_same_run_gives_the_same_page(run: RunFolder, page: str) -> None:
    assert page_of(run) == page


def test_a_picture_outlives_its_encoding() -> None:
    import base64
    import io

    from PIL import Image

    photo = torch.rand(3, 9, 7, generator=torch.Generator().manual_seed(0))
    decoded = Image.open(io.BytesIO(base64.b64decode(data_uri(photo).split(",")[1])))
    values = torch.tensor(list(decoded.get_flattened_data())).reshape(9, 7, 3).permute(2, 0, 1)
    assert torch.allclose(values / 255, photo, atol=0.5 / 255 + 1e-6)
    assert data_uri(torch.full((3, 2, 2), math.nan))


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3), st.integers(1, 8))
def test_ticks_are_round_and_inside(low: float, width: float, about: int) -> None:
    marks = svg.ticks(low, low + width, about)
    assert all(low - 1e-6 <= mark <= low + width + 1e-6 for mark in marks)
    assert len(marks) <= about + 1


@given(st.lists(st.floats(-1, 1), max_size=20))
def test_a_scale_covers_its_values(values: list[float]) -> None:
    scale = svg.covering(values)
    assert all(scale.low - 1e-9 <= value <= scale.high + 1e-9 for value in values)


@given(st.lists(st.floats(0, 250), max_size=8))
def test_labels_keep_their_distance_and_order(heights: list[float]) -> None:
    placed = svg.spread(heights, 15, 4, 248)
    ordered = [y for _, y in sorted(zip(heights, placed, strict=True))]
    assert all(4 <= y <= 248 for y in placed)
    assert all(after - before >= 15 - 1e-6 for before, after in itertools.pairwise(ordered))


def test_class_names() -> None:
    assert class_name("glasses", 1, 1, True) == "yes"
    assert class_name("hair_color", 2, 4, True) == "blond"
    assert class_name("hair_color", 2, 4, False) == "2"
    assert class_name("glasses", math.nan, 1, True) == svg.DASH


def test_the_prior_alone_counts_as_a_control(run_data: RunData) -> None:
    assert run_data.attacks == ["user_diffusion", "inverting_gradients"]
    assert run_data.priors == {"prior_only"}
    only = replace(run_data, leakage=run_data.leakage.assign(attack="prior_only"))  # type: ignore[union-attr]
    assert only.attacks == ["prior_only"]
