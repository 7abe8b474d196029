"""The page in a real browser, where this machine has one: nothing is asked of the network, nothing is cut off."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rows import ARTICLES, run

from udaciheadline.records import Estimate
from udaciheadline.report import page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FOUND = next(filter(None, map(shutil.which, BROWSERS)), None)
TELEPHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
TEXTS_OUTSIDE = """() => [...document.querySelectorAll("svg")].flatMap(svg => {
    const whole = svg.getBoundingClientRect();
    return [...svg.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()])
        .filter(([_, box]) => box.left < whole.left - 1 || box.right > whole.right + 1
                           || box.top < whole.top - 1 || box.bottom > whole.bottom + 1)
        .map(([text]) => text);
})"""
NAMES_THAT_OVERLAP = """() => ["latency-quality", "rate-memory"].flatMap(name => {
    const svg = document.getElementById(name).parentElement.querySelector("svg");
    const boxes = [...svg.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()]);
    return boxes.flatMap(([a, x], i) => boxes.slice(i + 1)
        .filter(([_, y]) => x.left < y.right - 1 && y.left < x.right - 1
                         && x.top < y.bottom - 3 && y.top < x.bottom - 3)
        .map(([b]) => a + " / " + b));
})"""

pytestmark = pytest.mark.skipif(FOUND is None, reason="there is no Chromium or Chrome on this machine")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        sandbox = [] if os.geteuid() else ["--no-sandbox"]  # which Chromium refuses to root
        started = playwright.chromium.launch(executable_path=FOUND, args=sandbox)
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page.write(run(), tmp_path_factory.mktemp("report"), ARTICLES)[0]


@pytest.fixture(params=[TELEPHONE, DESK], ids=["telephone", "desk"])
def opened(request: pytest.FixtureRequest, browser: Any, report: Path) -> Iterator[Any]:
    """The page without JavaScript of its own; what it says and asks for is in `said` and `asked`."""
    view = browser.new_page(viewport=request.param, color_scheme="dark")
    view.said, view.asked = [], []
    view.on("console", lambda message: view.said.append(message.text))
    view.on("pageerror", lambda error: view.said.append(str(error)))
    view.on("request", lambda asked: view.asked.append(asked.url))
    view.goto(report.as_uri())
    yield view
    view.close()


def test_it_asks_for_nothing_but_itself_and_complains_of_nothing(opened: Any, report: Path) -> None:
    assert opened.asked == [report.as_uri()]
    assert opened.said == []


def test_nothing_is_wider_than_the_screen(opened: Any) -> None:
    assert opened.evaluate("document.documentElement.scrollWidth") <= opened.viewport_size["width"]


def test_every_picture_shows_its_text_whole(opened: Any) -> None:
    assert opened.locator("svg").count() > 0
    for i in range(opened.locator("svg").count()):
        assert opened.locator("svg").nth(i).locator("text").count() > 0
    assert opened.evaluate(TEXTS_OUTSIDE) == []
    assert opened.evaluate(NAMES_THAT_OVERLAP) == []


def test_the_long_numbers_of_small_differences_are_whole_too(browser: Any, tmp_path: Path) -> None:
    reference, _, pruned, *_ = run()
    assert pruned.scores
    tiny = Estimate(-0.00123, -0.00456, 0.00234)
    scores = replace(pruned.scores, nll_difference=tiny, rouge_difference=dict.fromkeys(pruned.scores.rouge, tiny))
    path, _ = page.write((reference, replace(pruned, scores=scores)), tmp_path)
    view = browser.new_page(viewport=TELEPHONE)
    view.goto(path.as_uri())
    assert view.evaluate(TEXTS_OUTSIDE) == []
    view.close()


def test_a_picture_is_an_image_with_a_name_to_those_who_hear_the_page(opened: Any) -> None:
    for title in ("Latency against quality loss", "Speed against kv-cache"):
        assert opened.get_by_role("img", name=title).count() == 1


def test_ink_is_light_on_a_dark_page_and_dark_on_a_light_one(opened: Any) -> None:
    def ink_and_paper() -> tuple[int, int]:
        colours = [
            opened.locator("svg text").first.evaluate("e => getComputedStyle(e).fill"),
            opened.locator("body").evaluate("e => getComputedStyle(e).backgroundColor"),
        ]
        ink, paper = (sum(int(part) for part in colour[4:-1].split(",")) for colour in colours)
        return ink, paper

    ink, paper = ink_and_paper()
    assert ink > paper + 300
    opened.emulate_media(color_scheme="light")
    ink, paper = ink_and_paper()
    assert paper > ink + 300


def test_numbers_can_be_unfolded_and_are_printed_unfolded(opened: Any) -> None:
    cell = opened.locator("details td").first
    assert not cell.is_visible()
    opened.emulate_media(media="print")
    assert cell.is_visible()
