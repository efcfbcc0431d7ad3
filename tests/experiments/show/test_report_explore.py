"""What the reader does with the report, in a real browser: the first screen, filters, rounds, faces, tables, links."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from browser import PROGRAM, Browser
from fake_run import fake_run

from experiments.show.report import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium here; install Debian's chromium package to run this"),
]
AXE = os.environ.get("AXE", "")  # path of axe.min.js, from the package axe-core
SHOWN = "[...document.querySelectorAll('.users > article')].filter(a => !a.hidden).map(a => Number(a.dataset.user))"
PICTURES = (
    "[...document.querySelectorAll('.users .attack[data-attack] .pictures .picture')]"
    ".filter(p => !p.closest('[hidden]')).map(p => Number(p.dataset.round))"
)
OPEN_ALL = "document.querySelectorAll('details').forEach(part => part.open = true)"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = fake_run(tmp_path_factory.mktemp("runs") / "demo", users=4, rounds=3, draws=4, frames=3)
    table = pd.read_parquet(run.leakage)
    table.loc[table["attack"] == "inverting_gradients", "knowledge"] = "parameters"
    table.to_parquet(run.leakage)
    return write_report(run)


@pytest.fixture
def browser(report: Path) -> Iterator[Browser]:
    with Browser() as opened:
        opened.open(report)
        yield opened
        assert opened.problems == []


def choose(browser: Browser, name: str, value: str) -> None:
    browser.evaluate(
        f"(() => {{ const field = document.querySelector('.tools').elements.{name}; field.value = '{value}';"
        " field.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def press(browser: Browser, key: str) -> None:
    text = "\r" if key == "Enter" else ""
    browser.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, text=text)
    browser.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)


@pytest.mark.parametrize(("width", "screens"), [(1280, 1.0), (390, 1.5)])
def test_the_first_faces_are_on_the_first_screen(report: Path, width: int, screens: float) -> None:
    with Browser(width, 844) as opened:
        opened.open(report)
        assert opened.evaluate("document.querySelector('.hero li:first-child b').getBoundingClientRect().bottom") < (
            844 * screens
        )


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_with_everything_open_nothing_leaves_the_page(report: Path, width: int, dark: bool) -> None:
    with Browser(width, 844, dark) as opened:
        opened.open(report)
        opened.evaluate(OPEN_ALL)
        assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
        wide = "[...document.querySelectorAll('table, pre')].filter(e => e.scrollWidth > innerWidth && "
        assert opened.evaluate(f"{wide} !e.closest('.scroll')).length") == 0


def test_users_are_filtered_and_sorted_by_what_is_on_the_page(browser: Browser, report: Path) -> None:
    assert browser.evaluate(SHOWN) == [0, 1, 2, 3]
    choose(browser, "attack", "inverting_gradients")
    named = browser.evaluate(
        "[...document.querySelectorAll('.users > article')].filter(a => [...a.querySelectorAll("
        "'[data-attack=inverting_gradients] .pictures .hit')].length).map(a => Number(a.dataset.user))"
    )
    choose(browser, "show", "named")
    assert browser.evaluate(SHOWN) == named
    choose(browser, "show", "other")
    assert sorted([*browser.evaluate(SHOWN), *named]) == [0, 1, 2, 3]
    choose(browser, "show", "all")
    choose(browser, "sort", "alike")
    best = (
        "[...document.querySelectorAll('.users > article')].map(a => Math.max(...[...a.querySelectorAll("
        "'[data-attack=inverting_gradients] .pictures b + span')]"
        ".map(s => Number(s.textContent.replace('\u2212', '-')))))"
    )
    values = browser.evaluate(best)
    assert values == sorted(values, reverse=True)
    assert "4 of 4 users" in browser.evaluate("document.querySelector('.tools p').textContent")


def test_an_attribute_picks_its_users(browser: Browser) -> None:
    offered = browser.evaluate("[...document.querySelector('.tools').elements.trait.options].map(o => o.value)")
    assert len(offered) > 5
    counts = []
    for value in (one for one in offered if one.startswith("glasses")):
        choose(browser, "trait", value)
        counts.append(len(browser.evaluate(SHOWN)))
    assert sum(counts) == 4


def test_an_attack_is_picked_by_its_name_and_by_what_it_knows(browser: Browser) -> None:
    left = (
        "[...new Set([...document.querySelectorAll('.users [data-attack]')].filter(e => !e.closest('[hidden]'))"
        ".map(e => e.dataset.attack))].sort()"
    )
    assert browser.evaluate(left) == ["inverting_gradients", "user_diffusion"]
    choose(browser, "knows", "parameters")
    assert browser.evaluate(left) == ["inverting_gradients"]
    choose(browser, "knows", "none")
    assert browser.evaluate(left) == ["user_diffusion"]


def test_the_slider_shows_one_round_and_the_reset_all(browser: Browser) -> None:
    assert set(browser.evaluate(PICTURES)) == {1, 2, 3}
    choose(browser, "round", "2")
    assert set(browser.evaluate(PICTURES)) == {2}
    assert browser.evaluate("document.querySelector('.tools').elements.at.value") == "2"
    browser.evaluate("document.querySelector('.tools button[type=reset]').click()")
    browser.evaluate("new Promise(done => setTimeout(done, 20))")
    assert set(browser.evaluate(PICTURES)) == {1, 2, 3}


def test_a_face_is_enlarged_by_keyboard_beside_its_person(browser: Browser) -> None:
    browser.evaluate("document.querySelector('.users .strips .face').focus()")
    press(browser, "Enter")
    assert browser.evaluate("document.querySelector('dialog').open")
    alts = browser.evaluate("[...document.querySelectorAll('dialog img')].map(i => i.alt)")
    assert alts[0].startswith("mean of the 4 private photos of user 0")
    assert alts[1].startswith("reconstruction of user 0")
    assert browser.evaluate("document.querySelector('dialog img').getBoundingClientRect().width") > 250
    press(browser, "ArrowRight")
    assert browser.evaluate("document.querySelectorAll('dialog img')[1].alt") != alts[1]
    browser.evaluate("document.querySelector('dialog').close()")
    assert browser.evaluate("document.activeElement.className") == "face"


def test_one_stop_a_user_for_the_keyboard_and_arrows_between_faces(browser: Browser) -> None:
    stops = "[...document.querySelectorAll('article')].map(a => a.querySelectorAll('.face[tabindex=\"0\"]').length)"
    assert browser.evaluate(stops) == [1, 1, 1, 1]
    browser.evaluate("document.querySelector('.face').focus()")
    press(browser, "ArrowRight")
    assert browser.evaluate("[...document.querySelectorAll('.face')].indexOf(document.activeElement)") == 1
    assert browser.evaluate(stops) == [1, 1, 1, 1]


def test_people_can_be_hidden(browser: Browser) -> None:
    browser.evaluate("document.querySelector('.conceal').click()")
    hidden = "[...document.images].every(i => getComputedStyle(i).objectPosition === '-9999px 0px')"
    assert browser.evaluate(hidden)
    assert browser.evaluate("document.querySelector('.conceal').getAttribute('aria-pressed')") == "true"
    browser.evaluate("document.querySelector('.conceal').click()")
    assert not browser.evaluate(hidden)


def test_a_link_to_a_user_arrives_whatever_is_filtered(browser: Browser) -> None:
    choose(browser, "show", "other")
    gone = "[...document.querySelectorAll('.users > article')].filter(a => a.hidden).map(a => a.dataset.user)"
    user = (browser.evaluate(gone) or ["3"])[0]
    browser.evaluate(f"location.hash = 'user-{user}'")
    browser.evaluate("new Promise(done => setTimeout(done, 1200))")
    top = browser.evaluate(f"document.getElementById('user-{user}').getBoundingClientRect().top")
    bar = browser.evaluate("document.querySelector('.contents').getBoundingClientRect().bottom")
    assert bar <= top < 900


def test_a_link_into_a_closed_part_opens_it(browser: Browser) -> None:
    browser.evaluate("location.hash = 'reading'")
    browser.evaluate("new Promise(done => setTimeout(done, 50))")
    assert browser.evaluate("document.getElementById('reading').open")


def test_numbers_are_sorted_by_a_heading(browser: Browser) -> None:
    browser.evaluate(OPEN_ALL)
    column = (
        "[...document.querySelector('.numbers').tBodies[0].rows].filter(r => !r.classList.contains('block'))"
        ".map(r => parseFloat(r.cells[1].textContent.replace('\u2212', '-')))"
    )
    before = browser.evaluate(column)
    heading = "document.querySelectorAll('.numbers thead th')[1]"
    browser.evaluate(f"{heading}.querySelector('button').click()")
    assert browser.evaluate(column) == sorted(before)
    assert browser.evaluate(f"{heading}.getAttribute('aria-sort')") == "ascending"
    browser.evaluate(f"{heading}.querySelector('button').click()")
    assert browser.evaluate(column) == sorted(before, reverse=True)


def test_without_the_script_everything_is_there(report: Path, tmp_path: Path) -> None:
    page = tmp_path / "plain.html"
    page.write_text(re.sub(r"<script>.*?</script>", "", report.read_text(encoding="utf-8"), flags=re.S))
    with Browser() as opened:
        opened.open(page)
        assert opened.evaluate("document.querySelectorAll('.users > article').length") == 4
        assert opened.evaluate("getComputedStyle(document.querySelector('.tools')).display") == "none"
        assert opened.evaluate("getComputedStyle(document.querySelector('.conceal')).display") == "none"
        assert opened.evaluate("document.querySelector('.face')") is None
        assert set(opened.evaluate(PICTURES)) == {1, 2, 3}


@pytest.mark.skipif(not AXE, reason="AXE names no axe.min.js; `npm pack axe-core` has one")
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
def test_axe_finds_nothing(report: Path, width: int, dark: bool) -> None:
    with Browser(width, 844, dark) as opened:
        opened.open(report)
        opened.evaluate(f"{Path(AXE).read_text()}; {OPEN_ALL}")
        found = opened.evaluate("axe.run(document).then(r => r.violations.map(v => [v.id, v.impact, v.nodes[0].html]))")
        assert found == []
