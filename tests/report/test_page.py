"""The report as files: what a reader finds in them, and what they need (nothing)."""

import errno
import os
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import NoReturn

import pytest
from rows import ARTICLES, RECORD, SKIPPED, run

from udaciheadline.evidence.verdict import parse_budget
from udaciheadline.records import Article, Record, UsageError
from udaciheadline.report import page

FIGURES = {
    "latency-quality",
    "rate-memory",
    "speed-ups",
    "latencies",
    "quality",
    "limits",
    "timeline-pipeline-parallel",
}


class Elements(HTMLParser):
    """What an HTML file is made of: every element's name and attributes, and the text in each kind of element."""

    VOID = ("meta", "link", "br", "img", "input", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self.open: list[str] = []
        self.mismatched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.mismatched.append(tag)

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((tuple(self.open), data.strip()))

    def inside(self, tag: str) -> list[str]:
        return [text for path, text in self.texts if tag in path]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The two files of a run with every kind of row."""
    paths = page.write(run(), tmp_path_factory.mktemp("report"), ARTICLES)
    return paths[0].read_text("utf-8"), paths[1].read_text("utf-8")


@pytest.fixture(scope="module")
def elements(written: tuple[str, str]) -> Elements:
    return Elements(written[0])


def markdown(records: tuple[Record, ...], articles: tuple[Article, ...] | None = ARTICLES, **budget: str) -> str:
    asked = parse_budget(budget.get("limits", ""), budget.get("goal", "interactive"))
    return page.markdown(page.build(records, articles, asked))


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_names_nothing_outside_of_it_and_has_no_script(elements: Elements, written: tuple[str, str]) -> None:
    for tag, attributes in elements.elements:
        assert tag not in ("script", "link", "img", "iframe", "object")
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert attributes.get(name, "#").startswith("#")
        assert not any(name.startswith("on") for name in attributes)
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", written[0])
    assert "@import" not in written[0]
    assert not re.findall(r"url\((?!#)", written[0])


def test_the_page_is_well_formed_and_no_two_elements_have_one_id(elements: Elements) -> None:
    assert elements.mismatched == []
    assert elements.open == []
    ids = Counter(attributes["id"] for _, attributes in elements.elements if "id" in attributes)
    assert [name for name, count in ids.items() if count > 1] == []


def test_every_picture_has_a_name_a_text_alternative_and_text_that_is_text(elements: Elements) -> None:
    pictures = [attributes for tag, attributes in elements.elements if tag == "svg"]
    assert len(pictures) == len(FIGURES)
    ids = {attributes["id"] for _, attributes in elements.elements if "id" in attributes}
    for attributes in pictures:
        assert attributes["role"] == "img"
        title, text = attributes["aria-labelledby"].split()
        assert {title, text} <= ids
    for record in run()[:4]:
        assert record.technique in elements.inside("text")


def test_what_a_picture_refers_to_is_in_it(written: tuple[str, str], elements: Elements) -> None:
    ids = {attributes["id"] for _, attributes in elements.elements if "id" in attributes}
    referred = set(re.findall(r'(?:href="|url\()#([^")]+)', written[0]))
    assert referred
    assert referred <= ids


def test_every_picture_has_its_numbers_in_a_table(written: tuple[str, str], elements: Elements) -> None:
    anchors = [attributes["id"] for tag, attributes in elements.elements if tag == "h2" and "id" in attributes]
    assert set(anchors) > FIGURES
    for part in re.split("<h2", written[0])[1:]:
        if "<svg" in part:
            assert part.count("<svg") == part.count("<figcaption>") == part.count("<table>") == 1


def test_the_sections_are_in_the_order_of_the_decision(written: tuple[str, str]) -> None:
    wanted = [
        "<h1", "How every row fared", "Latency against quality loss", "Offline rate against memory",
        "Speed against kv-cache", "Latencies, article by article", "Quality against kv-cache",
        "Headlines: the worst and the changed", "Share of the hardware", "What the stages of pipeline-parallel",
        "Technique by technique", "Rows that were not measured to their end", "Environment", "How to read it",
    ]  # fmt: skip
    places = [written[0].index(title) for title in wanted]
    assert places == sorted(places)


def test_colours_are_those_of_the_style_sheet_alone(written: tuple[str, str]) -> None:
    body = written[0][written[0].index("</style>") :]
    assert "var(--accent)" in body
    assert not re.findall(r"#[0-9a-f]{6}\b", body)


def test_what_a_model_wrote_is_text_and_no_element(written: tuple[str, str]) -> None:
    assert "Another &lt;b&gt;one&lt;/b&gt;" in written[0]
    assert "<b>" not in written[0]
    assert "Another &lt;b&gt;one&lt;/b&gt;" in written[1]


def test_the_same_records_make_the_same_bytes(tmp_path: Path, written: tuple[str, str]) -> None:
    again = page.write(run(), tmp_path / "again", ARTICLES)
    assert tuple(path.read_text("utf-8") for path in again) == written


@pytest.mark.parametrize(
    ("headline", "shown"),
    [
        ("| a pipe", r"\| a pipe"),
        ("*stars*", r"\*stars\*"),
        ("[a](link)", r"\[a\](link)"),
        ("<i> & co", "&lt;i&gt; &amp; co"),
        ("`code`", r"\`code\`"),
        ("two\nlines", "two lines"),
        ("~~gone~~", r"\~\~gone\~\~"),
    ],
)
def test_no_sign_in_a_headline_means_anything_to_markdown(headline: str, shown: str) -> None:
    reference, offline, pruned, *others = run()
    assert pruned.per_article
    headlines = (headline, *pruned.per_article.headlines[1:])
    changed = replace(pruned, per_article=replace(pruned.per_article, headlines=headlines))
    assert f"  - “{shown}” (" in markdown((reference, offline, changed, *others))


# -- what it says ------------------------------------------------------------------------------------------------------


def test_the_verdict_comes_first_with_its_budget() -> None:
    text = markdown(run(), limits="p99<1s, memory<4GiB", goal="memory")
    assert text.startswith("# ")
    assert "; goal memory, budget p99&lt;1s, memory&lt;4GiB." in text.splitlines()[2]


def test_a_run_keeps_the_budget_of_its_session(tmp_path: Path) -> None:
    asked = tuple(
        replace(record, settings=record.settings | {"budget": "p50<7ms", "goal": "offline"}) for record in run()
    )
    text = page.write(asked, tmp_path)[1].read_text("utf-8")
    assert "; goal offline, budget p50&lt;7ms." in text


def test_what_is_deployed_has_its_command() -> None:
    reference, _, pruned, *_ = run()
    assert "```\nudaciheadline write ARTICLES -o HEADLINES.jsonl --technique pruned" in markdown((reference, pruned))
    assert "```" not in markdown((reference, pruned), limits="p50<1us")


def test_rows_that_were_not_measured_to_their_end_are_listed_with_the_reason(written: tuple[str, str]) -> None:
    assert f"| speculative | skipped | {SKIPPED.reason} |" in written[1]
    assert "| nf4 | crash | it died |" in written[1]


def test_a_run_of_one_row_has_a_report(tmp_path: Path) -> None:
    assert "Performance" in page.write((RECORD,), tmp_path)[0].read_text("utf-8")


def test_a_run_in_which_nothing_was_measured_has_a_report(tmp_path: Path) -> None:
    text = page.write((SKIPPED,), tmp_path)[0].read_text("utf-8")
    assert "<svg" not in text
    assert SKIPPED.reason in text


def test_without_the_texts_of_the_articles_the_headlines_are_still_shown() -> None:
    text = markdown(run(), articles=None)
    assert "has not kept the texts" in text
    assert "Another" in text


# -- writing it --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", page.NEEDED)
def test_without_the_extra_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setattr(page, "find_spec", lambda name: None if name == missing else name)
    with pytest.raises(UsageError, match=rf'the report needs {missing}: pip install -e "\.\[report\]"'):
        page.write(run(), tmp_path)


def test_a_report_that_cannot_be_written_whole_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / page.HTML).write_text("old")

    def full(path: Path, _: bytes) -> NoReturn:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        page.write((SKIPPED,), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [page.HTML]
    assert (tmp_path / page.HTML).read_text() == "old"


def test_copying_the_description_is_scored_on_the_timed_articles_as_in_the_table() -> None:
    more = [*ARTICLES, Article("the same", "the same")]
    assert (
        page.build(run(), more, parse_budget("", "interactive")).copying
        == page.build(run(), ARTICLES, parse_budget("", "interactive")).copying
    )


def test_a_note_begins_with_the_technique_as_it_is_called() -> None:
    budget = parse_budget("p99<1s", "interactive")
    made = page.build(run(), ARTICLES, budget)
    assert made.decision.notes
    for text in (page.html(made), page.markdown(made)):
        assert all(note.partition(":")[0] + ": p99" in text for note in made.decision.notes)
