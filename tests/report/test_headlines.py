"""The headlines that got worst and those that changed."""

from dataclasses import replace

from rows import ARTICLES, PER_ARTICLE, RECORD, run

from udaciheadline.records import Record
from udaciheadline.report.headlines import CHANGED, WORST, stories


def row(technique: str, *headlines: str, rouge1: tuple[float, ...] | None = None) -> Record:
    scores = rouge1 or (0.5,) * len(headlines)
    found = replace(PER_ARTICLE, headlines=headlines, rouge1=scores, nll=(1.0,) * len(headlines))
    return replace(RECORD, technique=technique, per_article=found)


def test_rows_that_wrote_the_same_share_a_line_and_the_references_comes_first() -> None:
    found = stories((row("fp4", "b"), row("nf4", "b"), row("kv-cache", "a"), row("int8", "a")), ARTICLES)
    assert found
    (story,) = found.changed
    assert [(written.headline, written.techniques) for written in story.written] == [
        ("a", ("kv-cache", "int8")),
        ("b", ("fp4", "nf4")),
    ]
    assert (story.number, story.description, story.true_headline) == (
        1, ARTICLES[0].short_description, ARTICLES[0].headline,
    )  # fmt: skip
    assert found.changes == {"fp4": 1, "nf4": 1, "int8": 0}


def test_many_rows_that_wrote_the_references_headline_are_counted() -> None:
    rows = (*(row(name, "a") for name in ("kv-cache", "int8", "compiled")), row("fp4", "b"), row("nf4", "b"))
    found = stories(rows, None)
    assert found
    assert [written.writers for written in found.changed[0].written] == ["kv-cache and 2 others", "fp4, nf4"]


def test_the_worst_are_those_that_lost_most_rouge_and_come_in_that_order() -> None:
    reference = row("kv-cache", "a", "b", "c", "d")
    found = stories((reference, row("fp4", "x", "y", "z", "d", rouge1=(0.4, 0.1, 0.6, 0.5))), ARTICLES)
    assert found
    assert [story.number for story in found.worst] == [2, 1]
    assert [story.number for story in found.changed] == [3]
    assert found.count == 3


def test_articles_that_changed_in_most_rows_come_first() -> None:
    rows = (row("kv-cache", "a", "b"), row("fp4", "a", "x"), row("nf4", "y", "z"), row("int8", "a", "x"))
    found = stories(rows, ARTICLES)
    assert found
    assert [story.number for story in found.changed] == [2, 1]


def test_no_more_are_shown_than_anybody_reads() -> None:
    old, new = (tuple(f"{word} {i}" for i in range(40)) for word in ("old", "new"))
    lost = (0.1,) * 20 + (0.5,) * 20
    found = stories((row("kv-cache", *old), row("fp4", *new, rouge1=lost)), None)
    assert found
    assert (len(found.worst), len(found.changed), found.count) == (WORST, CHANGED, 40)


def test_a_row_of_fewer_articles_is_compared_on_those() -> None:
    found = stories((row("kv-cache", "a", "b", "c"), row("fp4", "a", "x")), None)
    assert found
    assert found.count == 1
    assert found.changed[0].description == ""


def test_without_the_references_headlines_there_is_nothing_to_hold_others_against() -> None:
    assert stories(run()[1:], ARTICLES) is None
    assert stories((run()[0],), ARTICLES) is None


def test_records_of_old_have_no_headlines() -> None:
    assert stories((RECORD, replace(RECORD, technique="kv-cache")), ARTICLES) is None
