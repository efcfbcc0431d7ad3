"""The report in a real browser: pictures decode, nothing is fetched, nothing is logged, nothing overflows."""

import shutil
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
# Text of charts and labels that leaves the page or its neighbours' space would be cut off or unreadable.
OVERLAPS = """(() => {
  const found = [];
  for (const chart of document.querySelectorAll('svg.chart')) {
    const boxes = [...chart.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
    for (const [i, [name, a]] of boxes.entries()) {
      if (a.left < 0 || a.right > innerWidth) found.push(name + ' leaves the page');
      for (const [other, b] of boxes.slice(i + 1))
        if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
            Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4) found.push(name + ' covers ' + other);
    }
  }
  return found;
})()"""
CUT = """[...document.querySelectorAll('.drawn > *, .draws img, .said, .traits, .traits p > *')].filter(e => {
  const own = e.getBoundingClientRect(), room = e.closest('.attack, .person').getBoundingClientRect();
  return own.right > Math.min(room.right, innerWidth) + 0.5 || own.width < 5;
}).map(e => e.outerHTML.slice(0, 80))"""
UNDECODED = (
    "(async () => { await Promise.all([...document.images].map(i => i.decode().catch(() => 0)));"
    " return [...document.images].filter(i => !(i.naturalWidth > 0)).map(i => i.alt); })()"
)
CONTRAST = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(fake_run(tmp_path_factory.mktemp("runs") / "demo", rounds=3, draws=4))


@pytest.fixture(scope="module", params=[(1280, False), (1280, True), (390, False), (390, True)], ids=str)
def browser(request: pytest.FixtureRequest, report: Path) -> Iterator[Browser]:
    width, dark = request.param
    with Browser(width, 900, dark) as opened:
        opened.open(report)
        yield opened


def test_every_picture_decodes(browser: Browser) -> None:
    assert browser.evaluate("document.images.length") > 20
    assert browser.evaluate(UNDECODED) == []


def test_nothing_is_logged_and_nothing_fetched(browser: Browser, report: Path) -> None:
    browser.evaluate(UNDECODED)
    assert browser.problems == []
    assert {address for address in browser.requests if not address.startswith("data:")} == {report.resolve().as_uri()}


def test_the_page_never_scrolls_sideways(browser: Browser) -> None:
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_no_draw_and_no_attribute_is_cut_off(browser: Browser) -> None:
    assert browser.evaluate("document.querySelectorAll('.draws img').length") == 9
    assert browser.evaluate(CUT) == []


def test_many_attacks_with_draws_fit_a_phone(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "many", users=2, rounds=1, photos=14, draws=14)
    table = pd.read_parquet(run.leakage)
    more = [table]
    for label in ("user_diffusion-none", "guided_sampling-longer", "another"):
        shutil.copytree(run.reconstructions / "user_diffusion", run.reconstructions / label)
        more.append(table[table["attack"] == "user_diffusion"].assign(attack=label))
    pd.concat(more, ignore_index=True).to_parquet(run.leakage)
    with Browser(390, 900) as opened:
        opened.open(write_report(run))
        assert opened.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [390, 390]
        assert opened.evaluate(CUT) == []


def test_texts_of_charts_do_not_cover_each_other(browser: Browser) -> None:
    assert browser.evaluate(OVERLAPS) == []


def test_dark_mode_is_dark(browser: Browser, request: pytest.FixtureRequest) -> None:
    dark = request.node.callspec.params["browser"][1]
    paper, ink = (sum(int(v) for v in colour[4:-1].split(",")) for colour in browser.evaluate(CONTRAST))
    assert (paper < 120 and ink > 600) if dark else (paper > 700 and ink < 120)


def test_the_browser_would_notice(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        '<script>console.error("here"); missing()</script><img src="data:image/png;base64,AAAA" alt="torn">'
        '<img src="file:///nowhere.png" alt="gone"><div style="width:4000px">wide</div>'
    )
    with Browser() as opened:
        opened.open(page)
        assert opened.evaluate(UNDECODED) == ["torn", "gone"]
        assert len(opened.problems) >= 2
        assert "file:///nowhere.png" in opened.requests
        assert not opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
