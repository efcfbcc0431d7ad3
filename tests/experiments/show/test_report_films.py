"""How a picture came about: the report holds the frames that attacks kept, and an enlarged picture steps through."""

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import PROGRAM, Browser
from fake_run import fake_run
from PIL import Image

from attacker.observation import Reconstruction
from experiments.show.report import write_report
from experiments.show.report.films import film

FRAMES = 5
OPEN = "document.querySelector('.attack[data-attack={}] .pictures .face').click()"
STEPS = "document.querySelector('dialog input')"
SHOWN = "document.querySelector('dialog figure:last-child img')"
CAPTION = "document.querySelector('dialog figure:last-child figcaption').textContent"


def made(frames: int, determined: bool, size: int = 16) -> Reconstruction:
    """Smooth frames, each brighter than the one before."""
    end = torch.full((3, size, size), 0.9)
    way = torch.linspace(0.1, 0.9, frames)[:, None, None, None].expand(frames, 3, size, size)
    return Reconstruction(
        end[None], torch.ones(1), 0.0, 0.0, determined=end if determined else None, frames=way if frames else None
    )


@pytest.mark.parametrize("determined", [True, False])
@pytest.mark.parametrize("frames", [1, 2, 6])
def test_a_film_holds_the_frames_that_the_page_does_not_show_itself(frames: int, determined: bool) -> None:
    found = film(made(frames, determined), "of user 0", 1)
    left = frames if determined else frames - 1
    if not left:
        assert found is None
        return
    assert found is not None
    strip = np.array(Image.open(io.BytesIO(base64.b64decode(found.source.partition(",")[2])))) / 255
    assert strip.shape == (16, 16 * left, 3)
    centres = strip[8, 8::16].mean(1)
    wanted = torch.linspace(0.1, 0.9, frames)[:left].numpy()
    assert float(np.abs(centres - wanted).max()) < 0.02
    percent = [int(one) for one in found.after.split()]
    assert len(percent) == left
    assert percent == sorted(set(percent))
    assert 0 <= percent[0] <= percent[-1] <= 100
    assert (percent[-1] == 100) == determined
    assert found.what == ("mean face of user 0" if determined else "picture of user 0")


def test_without_frames_there_is_no_film() -> None:
    assert film(made(0, True), "of user 0", 1) is None


def test_a_run_that_kept_none_has_a_page_without_a_word_of_them(tmp_path: Path) -> None:
    page = write_report(fake_run(tmp_path / "none", users=1, rounds=1)).read_text(encoding="utf-8")
    assert 'class="film' not in page
    assert "frames of their inversions" not in page


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs") / "demo"
    return write_report(fake_run(root, users=2, rounds=2, draws=4, frames=FRAMES))


def test_every_picture_of_an_iterating_attack_has_its_film(report: Path) -> None:
    found = re.findall('<img class="film" [^>]*data-after="([0-9 ]+)"', report.read_text(encoding="utf-8"))
    assert sorted(found) == sorted(["0 25 50 75 100"] * 4 + ["0 25 50 75"] * 4)  # users x rounds, of both attacks


@pytest.fixture(params=[(1280, False), (390, True)], ids=str)
def browser(request: pytest.FixtureRequest, report: Path) -> Iterator[Browser]:
    if PROGRAM is None:
        pytest.skip("no Chromium here")
    width, dark = request.param
    with Browser(width, 844, dark) as opened:
        opened.open(report)
        yield opened
        assert opened.problems == []


def move(browser: Browser, place: int) -> None:
    browser.evaluate(f"{STEPS}.value = {place}; {STEPS}.dispatchEvent(new Event('input', {{bubbles: true}}))")


def press(browser: Browser, key: str) -> None:
    for kind in ("keyDown", "keyUp"):
        code = {"ArrowLeft": 37, "ArrowRight": 39}[key]
        browser.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)


@pytest.mark.slow
@pytest.mark.parametrize(("attack", "places"), [("user_diffusion", FRAMES), ("inverting_gradients", FRAMES - 1)])
def test_an_enlarged_picture_steps_through_its_frames(browser: Browser, attack: str, places: int) -> None:
    browser.evaluate(OPEN.format(attack))
    answer = browser.evaluate(f"{SHOWN}.src")
    assert browser.evaluate(f"[{STEPS}.max, {STEPS}.value]") == [str(places)] * 2
    assert answer.startswith("data:image/png")
    move(browser, 0)
    assert "after 0 % of the steps" in browser.evaluate(CAPTION)
    assert browser.evaluate(f"{SHOWN}.decode().then(() => {SHOWN}.naturalWidth)") == 32 * places
    box = browser.evaluate(f"(b => [b.width, b.height])({SHOWN}.getBoundingClientRect())")
    assert box[0] == pytest.approx(box[1])
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert browser.evaluate("(d => d.scrollWidth <= d.clientWidth)(document.querySelector('dialog'))")
    move(browser, places)
    assert browser.evaluate(f"{SHOWN}.src") == answer
    assert browser.evaluate(CAPTION).startswith("reconstruction of user 0")


@pytest.mark.slow
def test_the_keyboard_moves_frames_on_the_slider_and_faces_elsewhere(browser: Browser) -> None:
    browser.evaluate(OPEN.format("user_diffusion"))
    count = browser.evaluate("document.querySelector('dialog .count').textContent")
    browser.evaluate(f"{STEPS}.focus()")
    press(browser, "ArrowLeft")
    assert browser.evaluate(f"{STEPS}.value") == str(FRAMES - 1)
    assert "after 100 % of the steps" in browser.evaluate(CAPTION)
    assert browser.evaluate("document.querySelector('dialog .count').textContent") == count
    assert browser.evaluate(f"{STEPS}.getAttribute('aria-valuetext')") == "after 100 % of the steps"
    browser.evaluate("document.querySelector('dialog button').focus()")
    press(browser, "ArrowRight")
    assert browser.evaluate("document.querySelector('dialog .count').textContent") != count


@pytest.mark.slow
def test_where_there_are_no_frames_there_is_no_slider_and_hidden_people_stay_hidden(browser: Browser) -> None:
    browser.evaluate("document.querySelector('.person .face').click()")
    assert browser.evaluate("document.querySelector('dialog .slide').hidden")
    browser.evaluate("document.querySelector('dialog').close()")
    browser.evaluate("document.querySelector('.attack[data-control] .face').click()")
    assert browser.evaluate("document.querySelector('dialog .slide').hidden")
    browser.evaluate("document.querySelector('dialog').close()")
    browser.evaluate(OPEN.format("user_diffusion"))
    browser.evaluate("document.querySelector('.conceal').click()")
    move(browser, 1)
    assert browser.evaluate(f"getComputedStyle({SHOWN}).objectPosition") == "-9999px 0px"
    browser.evaluate("document.querySelector('.conceal').click()")


@pytest.mark.slow
def test_without_the_script_the_frames_are_on_the_page(report: Path, tmp_path: Path) -> None:
    if PROGRAM is None:
        pytest.skip("no Chromium here")
    page = tmp_path / "plain.html"
    page.write_text(re.sub(r"<script>.*?</script>", "", report.read_text(encoding="utf-8"), flags=re.S))
    with Browser(390, 844) as opened:
        opened.open(page)
        assert opened.evaluate("[...document.querySelectorAll('.film')].filter(f => f.offsetWidth > 60).length") == 8
        assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
