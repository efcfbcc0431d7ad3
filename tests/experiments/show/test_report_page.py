"""The page answers first: threat model and faces, then leakage, users, and tables, closed; and anybody can read it."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from fake_run import fake_run

from experiments.show.answer import answer
from experiments.show.report import write_report
from experiments.show.report.gallery import gallery
from experiments.show.report.hero import CAVEAT, FACES, hero, threat_line
from experiments.show.report.private_photos import private_photos
from experiments.show.report.run_data import read
from fl_sim.runs import RunFolder, read_manifest, write_manifest

VOID = {"meta", "link", "img", "input", "br", "wbr", "path", "line", "rect", "circle"}


class Elements(HTMLParser):
    """All elements of a page in order, each with its attributes, its text and the names of what it lies in."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str], list[str]]] = []
        self._open: list[tuple[str, list[str]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        text: list[str] = []
        self.found.append((tag, dict(attrs), text, [name for name, _ in self._open]))
        if tag not in VOID:
            self._open.append((tag, text))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            while self._open and self._open.pop()[0] != tag:
                pass

    def handle_data(self, data: str) -> None:
        for _, text in self._open:
            text.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return fake_run(tmp_path_factory.mktemp("runs") / "demo", users=3, rounds=2, draws=4)


@pytest.fixture(scope="module")
def page(run: RunFolder) -> str:
    return write_report(run).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def elements(page: str) -> Elements:
    return Elements(page)


def test_faces_come_first_and_tables_last(page: str) -> None:
    places = [page.index(f'"{name}"') for name in ("threat", "rounds", "gallery", "attributes", "numbers")]
    assert places == sorted(places)
    assert page.index("<h1") < page.index("<img") < page.index('id="rounds"')


def test_every_table_of_numbers_is_closed_until_it_is_asked_for(elements: Elements) -> None:
    tables = [(attrs, within) for tag, attrs, _, within in elements.found if tag == "table"]
    numbers = [within for attrs, within in tables if attrs.get("class") in {"plain", "numbers"}]
    assert len(numbers) >= 6
    assert all("details" in within for within in numbers)
    assert not any("open" in attrs for tag, attrs, _, _ in elements.found if tag == "details")


def test_the_contents_bar_leads_to_what_is_there(elements: Elements) -> None:
    ids = {attrs["id"] for _, attrs, _, _ in elements.found if "id" in attrs}
    links = [attrs["href"] or "" for tag, attrs, _, within in elements.found if tag == "a" and "nav" in within]
    assert len(links) >= 5
    inside = [attrs["href"] or "" for tag, attrs, _, _ in elements.found if tag == "a"]
    assert {link[1:] for link in inside if link.startswith("#")} <= ids


def test_anybody_can_read_it(elements: Elements) -> None:
    """What assistive technology needs: alt texts, names of controls, headings in order, no tab order of our own."""
    level = 0
    for tag, attrs, text, within in elements.found:
        if tag == "img":
            assert attrs.get("alt")
        if tag == "button" or (tag == "a" and "href" in attrs):
            assert "".join(text).strip()
        if tag in {"select", "input"}:
            assert "label" in within
        assert int(attrs.get("tabindex") or 0) <= 0
        if attrs.get("tabindex") == "0":
            assert attrs.get("role")
            assert attrs.get("aria-label")
        if re.fullmatch("h[1-6]", tag):
            assert int(tag[1]) <= level + 1
            level = int(tag[1])
    assert level


def test_the_script_fetches_nothing_and_the_page_does_not_need_it(page: str) -> None:
    script = page.partition("<script>")[2]
    assert script.count("<script") == 0
    assert not re.search(r"fetch\(|XMLHttpRequest|import\b|https?:|eval|innerHTML", script)
    controls = re.findall(r"<(?:form|button)[^>]*", page.partition("<dialog")[0])
    assert [one for one in controls if "hidden" not in one] == ['<button type="reset"']  # of a form that is hidden


def test_the_strip_shows_what_the_headline_counts(run: RunFolder) -> None:
    material = read(run)
    shown = hero(material, gallery(material, private_photos(material, False)))
    assert len(shown.faces) == 3
    assert all(face.named == (face.label == "named") for face in shown.faces)
    assert sum(face.named for face in shown.faces) == max(one.named for one in material.findings if one.server_round)
    assert shown.caveat == ""
    assert "All 3 users" in shown.caption
    assert all(face.photo is not None for face in shown.faces)


def test_pictures_that_are_no_evidence_are_said_to_be_none_and_name_nobody(tmp_path: Path) -> None:
    material = read(fake_run(tmp_path / "safe", rounds=1, leaks=False))
    shown = hero(material, gallery(material, private_photos(material, False)))
    assert shown.caveat == CAVEAT
    assert not any(face.named or face.label == "named" for face in shown.faces)
    assert all(re.fullmatch(r"rank \d+", face.label) for face in shown.faces)


@pytest.mark.slow
def test_many_users_are_shown_from_the_best_to_the_worst_recognised(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "many", users=11, rounds=1, photos=2)
    table = pd.read_parquet(run.leakage)
    own = (table["arm"] == "attack") & (table["attack"] == "user_diffusion")
    table.loc[table["arm"] != "attack", "rank"] = 50
    table.loc[own, "rank"] = table.loc[own, "user"].map(lambda user: 1 if user < 9 else 10 * user)
    table.to_parquet(run.leakage)
    material = read(run)
    shown = hero(material, gallery(material, private_photos(material, False)))
    assert len(shown.faces) == FACES
    assert [face.label for face in shown.faces[-2:]] == ["not named, rank 90", "not named, rank 100"]
    assert all(face.named for face in shown.faces[:-2])
    assert "8 of 11 users" in shown.caption


@pytest.mark.slow
def test_of_attacks_that_name_as_many_the_one_that_knows_the_defense_is_shown(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "known", rounds=1)
    run.config.write_text('defenses = [{name = "clip", max_norm = 1.0}]\n' + run.config.read_text())
    table = pd.read_parquet(run.leakage)
    table.loc[table["arm"] == "attack", "rank"] = 1
    table.loc[table["attack"] == "inverting_gradients", "knowledge"] = "parameters"
    table.to_parquet(run.leakage)
    material = read(run)
    assert (
        "inverting_gradients, which knows the defense, draws"
        in hero(material, gallery(material, private_photos(material, False))).caption
    )
    assert "knows the defense (clip)" in threat_line(material)


@pytest.mark.slow
def test_private_photos_of_real_people_are_not_on_the_first_screen(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "real", users=2, rounds=1)
    run.config.write_text(run.config.read_text().replace("[dataset]", '[dataset]\nname = "tiny_faces:open_tiny"'))
    material = read(run)
    shown = hero(material, gallery(material, private_photos(material, False)))
    assert len(shown.faces) == 2
    assert all(face.photo is None for face in shown.faces)


def test_the_threat_model_in_a_line(run: RunFolder) -> None:
    line = threat_line(read(run))
    assert line == (
        "Honest but curious server, sees every update, no defense; untrained model; 3 users, synthetic faces."
    )
    stated = read_manifest(run)
    try:
        write_manifest(
            run, seed=0, threat_model={"users_behind_an_update": 4}, data={"photographs": True, "photos": [4, 9]}
        )
        line = threat_line(read(run))
        assert "sees only sums of 4 users" in line
        assert "photographs" in line
    finally:
        write_manifest(run, seed=0, threat_model=stated["threat_model"])


def test_of_pictures_that_name_as_many_the_most_realistic_are_shown(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "drawn", users=3, rounds=1, draws=4)
    table = pd.read_parquet(run.leakage)
    own = (table["attack"] == "user_diffusion") & table["arm"].isin(["attack", "determined"])
    for real, arm in (("attack", "determined"), ("determined", "attack")):
        table.loc[table["arm"].isin(["attack", "determined", "all_images"]), "face_probability"] = 0.1
        table.loc[own, "rank"] = 1
        table.loc[own, "facial_similarity"] = table["arm"].map({real: 0.5, arm: 0.9})
        table.loc[own & (table["arm"] == real), "face_probability"] = 0.9
        table.to_parquet(run.leakage)
        data = read(run)
        shown = hero(data, gallery(data, private_photos(data, False)))
        assert all(face.named for face in shown.faces)
        assert ("finds as the mean face" in shown.caption) == (real == "determined")


def test_the_strip_is_of_the_headline_s_round_where_others_name_as_many(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "rounds", users=3, rounds=2, draws=4)
    table = pd.read_parquet(run.leakage)
    own = (table["attack"] == "user_diffusion") & table["arm"].isin(["attack", "all_images"])
    table.loc[own, "rank"] = 1
    for told in (1, 2):
        table.loc[own, "facial_similarity"] = table["round"].map({told: 0.95, 3 - told: 0.9})
        table.loc[own, "face_probability"] = table["round"].map({told: 0.5, 3 - told: 0.99})
        table.loc[own & (table["arm"] == "all_images"), ["facial_similarity", "face_probability"]] = [0.9, 0.99]
        table.to_parquet(run.leakage)
        data = read(run)
        assert data.judged.strongest.server_round == told
        assert f"of round {told}." in hero(data, gallery(data, private_photos(data, False))).caption


def test_users_without_an_answer_are_told_on_the_page_and_in_the_terminal(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "silent", users=3, rounds=1)
    table = pd.read_parquet(run.leakage)
    gone = (table["attack"] == "user_diffusion") & (table["arm"] == "attack") & (table["user"] == 1)
    table.loc[gone, ["rank", "facial_similarity"]] = None
    table.to_parquet(run.leakage)
    data = read(run)
    assert "user_diffusion: no answer for 1 of 3 users in round 1; they count as not named." in data.missing
    assert " ".join(answer(data).text.split()).count("no answer for 1 of 3 users in round 1") == 1


def test_where_nothing_is_told_the_strip_is_of_the_headline_s_attack(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "quiet", users=3, rounds=1, leaks=False)
    table = pd.read_parquet(run.leakage)
    table.loc[table["arm"] == "attack", "rank"] = 50
    for real in ("user_diffusion", "inverting_gradients"):
        table.loc[table["arm"] == "attack", "face_probability"] = 0.5
        table.loc[(table["arm"] == "attack") & (table["attack"] == real), "face_probability"] = 0.99
        table.to_parquet(run.leakage)
        data = read(run)
        assert not data.judged.strongest.names
        assert data.judged.strongest.attack in hero(data, gallery(data, private_photos(data, False))).caption
