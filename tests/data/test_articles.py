import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets_made import ARTICLES, FORMATS, GOOD, ROWS, Write, comma_separated, jsonl

from udaciheadline.data.articles import ArticleSet, load_articles
from udaciheadline.data.newswire import evaluation_articles
from udaciheadline.records import Article, UsageError


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_articles(name: str, write: Write) -> None:
    source = write(name, FORMATS[name](ROWS))
    assert load_articles(source) == ArticleSet(source, ARTICLES, skipped=0)


def test_the_embedded_dataset_is_the_evaluation_set() -> None:
    assert load_articles("embedded") == ArticleSet("embedded", evaluation_articles(), skipped=0)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_the_first_articles_are_read_as_many_as_asked_for(count: int, write: Write) -> None:
    assert load_articles(write("news.jsonl", jsonl(ROWS)), count).articles == ARTICLES[:count]


def test_a_smaller_dataset_gives_all_that_it_has(write: Write) -> None:
    assert load_articles(write("news.jsonl", jsonl(ROWS)), 6).articles == ARTICLES


@pytest.mark.parametrize("count", [0, -1])
def test_a_count_below_one_is_refused(count: int) -> None:
    with pytest.raises(UsageError, match=f"^--articles {count}: give at least 1$"):
        load_articles("embedded", count)


@pytest.mark.parametrize("field", ["headline", "short_description"])
@pytest.mark.parametrize("value", ["", " \t\n", None])
def test_a_row_without_a_text_or_a_headline_is_skipped_and_counted(field: str, value: str | None, write: Write) -> None:
    rows = [ROWS[0], ROWS[1] | {field: value}, *ROWS[2:]]
    found = load_articles(write("news.jsonl", jsonl(rows)))
    assert found.articles == (ARTICLES[0], *ARTICLES[2:])
    assert found.skipped == 1


def test_a_row_that_lacks_a_field_is_skipped_and_counted(write: Write) -> None:
    found = load_articles(write("news.jsonl", GOOD + '{"headline": "no text"}\n' + GOOD))
    assert (len(found.articles), found.skipped) == (2, 1)


def test_a_skipped_row_does_not_count_as_one_of_those_asked_for(write: Write) -> None:
    found = load_articles(write("news.jsonl", jsonl([ROWS[0] | {"headline": ""}, *ROWS[1:]])), 2)
    assert found.articles == ARTICLES[1:3]
    assert found.skipped == 1


def test_rows_after_the_last_article_asked_for_are_not_counted_as_skipped(write: Write) -> None:
    found = load_articles(write("news.jsonl", jsonl([*ROWS[:2], ROWS[2] | {"headline": ""}, *ROWS[3:]])), 2)
    assert found.skipped == 0


def test_examples_are_the_usable_articles_behind_those_that_are_measured(write: Write) -> None:
    rows = [ROWS[0] | {"headline": ""}, *ROWS[1:3], ROWS[3] | {"headline": ""}, ROWS[4]]
    source = write("news.jsonl", jsonl(rows))
    assert load_articles(source, 1, examples=2) == ArticleSet(source, ARTICLES[1:2], 1, (ARTICLES[2], ARTICLES[4]))


def test_no_examples_are_read_unless_asked_for(write: Write) -> None:
    assert load_articles(write("news.jsonl", jsonl(ROWS)), 2).examples == ()


@pytest.mark.parametrize(("count", "examples"), [(4, 2), (5, 1), (9, 3)])
def test_more_examples_than_are_left_are_refused(count: int, examples: int, write: Write) -> None:
    source = write("news.jsonl", jsonl(ROWS))
    expected = f"{source}: 5 usable articles are too few to measure {count} and show {examples} others as examples"
    with pytest.raises(UsageError, match=re.escape(expected)):
        load_articles(source, count, examples=examples)


def test_examples_are_refused_where_all_articles_are_measured() -> None:
    with pytest.raises(UsageError, match="no article is left for 1 examples"):
        load_articles("embedded", examples=1)


def test_columns_of_other_names_are_read_when_named(write: Write) -> None:
    source = write("news.csv", "title,body,headline\nThe Title,The body,Not this\n")
    found = load_articles(source, text_column="body", headline_column="title")
    assert found.articles == (Article("The Title", "The body"),)


def test_the_other_fields_may_be_missing_or_empty(write: Write) -> None:
    source = write("news.jsonl", '{"headline": "H", "short_description": "T", "category": null, "extra": 5}\n')
    assert load_articles(source).articles == (Article("H", "T", category="", authors="", date="", link=""),)


def test_white_space_around_a_text_goes(write: Write) -> None:
    source = write("news.jsonl", '{"headline": " H\\n", "short_description": "\\tT "}\n')
    assert load_articles(source).articles == (Article("H", "T"),)


def test_a_date_with_a_time_is_kept_as_a_date(write: Write) -> None:
    rows = [ROWS[0] | {"date": "2022-09-23T10:11:12"}]
    assert load_articles(write("news.jsonl", jsonl(rows))).articles[0].date == "2022-09-23"


def test_a_date_of_another_form_is_kept_whole(write: Write) -> None:
    rows = [ROWS[0] | {"date": "23 September 2022"}]
    assert load_articles(write("news.jsonl", jsonl(rows))).articles[0].date == "23 September 2022"


def test_a_mark_at_the_start_of_a_utf8_file_is_no_part_of_it(write: Write) -> None:
    source = write("news.csv", b"\xef\xbb\xbf" + comma_separated(ROWS))
    assert load_articles(source).articles == ARTICLES


def test_a_headline_that_reads_none_is_a_headline(write: Write) -> None:
    source = write("news.csv", "headline,short_description\nNone,And Then There Were\n")
    assert load_articles(source).articles == (Article("None", "And Then There Were"),)


@pytest.mark.parametrize("name", ["news[1].jsonl", "new?.jsonl", "*.jsonl", "[2024]/news.jsonl", "my news (1).jsonl"])
def test_a_name_that_looks_like_a_pattern_means_that_file_alone(name: str, write: Write) -> None:
    write("news.jsonl", jsonl(ROWS[1:]))
    assert load_articles(write(name, jsonl(ROWS[:1]))).articles == ARTICLES[:1]


LATE = 11_000  # rows, more than the first 10 MB that have other values


@pytest.mark.parametrize(
    ("early", "late"),
    [
        pytest.param({"authors": None}, {"authors": "A. Writer"}, id="none, then text"),
        pytest.param({"rank": 5}, {"rank": "fifth"}, id="a number, then words"),
        pytest.param({"date": "2022-09-23"}, {"date": "23 September 2022"}, id="a date in two forms"),
        pytest.param({"tags": ["a"]}, {"tags": {"a": 1}}, id="a list, then an object"),
        pytest.param({}, {"more": [1, "a", None]}, id="a field that comes late"),
    ],
)
def test_columns_that_are_not_needed_may_change_their_type(
    early: dict[str, Any], late: dict[str, Any], write: Write
) -> None:
    rows = [{"headline": "H", "short_description": "T" * 1000} | early] * LATE
    source = write("news.jsonl", jsonl([*rows, {"headline": "Late", "short_description": "T"} | late]))
    assert Path(source).stat().st_size > 10 * 2**20
    assert load_articles(source).articles[-1].headline == "Late"


def test_numbers_then_words_in_a_csv_file_are_both_text(write: Write) -> None:
    source = write("news.csv", "headline,short_description,rank\n" + "1984,T,5\n" * LATE + "1984,T,fifth\n")
    assert load_articles(source).articles[-1] == Article("1984", "T")


def test_a_column_that_nobody_needs_may_hold_what_is_no_character(write: Write) -> None:
    source = write(
        "news.jsonl", '{"headline": "H", "short_description": "T", "authors": "A \\ud83d", "x": "\\ud83d"}\n'
    )
    assert load_articles(source).articles == (Article("H", "T", authors="A ?"),)


def test_columns_of_a_table_that_are_not_needed_are_not_read(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyarrow import parquet

    read = []
    iter_batches = parquet.ParquetFile.iter_batches

    def spy(file: Any, size: int, columns: list[str], **options: Any) -> Any:
        read.extend(columns)
        return iter_batches(file, size, columns=columns, **options)

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", spy)
    rows = [row | {"picture": b"no picture"} for row in ROWS]
    assert load_articles(write("news.parquet", FORMATS["news.parquet"](rows))).articles == ARTICLES
    assert sorted(read) == sorted(ROWS[0])


@pytest.mark.parametrize("name", ["news.jsonl", "news.csv", "news.jsonl.gz"])
def test_what_comes_after_the_articles_asked_for_is_not_read(name: str, write: Write) -> None:
    head = FORMATS[name](ROWS)
    rubbish = b"\xff,{oops,\n" * 100_000  # more than is read ahead
    source = write(name, head + rubbish)
    assert load_articles(source, 5).articles == ARTICLES
    assert load_articles(source, 3, examples=2).examples == ARTICLES[3:]


def test_a_csv_file_with_the_line_ends_of_an_old_mac_is_read(write: Write) -> None:
    assert load_articles(write("news.csv", comma_separated(ROWS).replace(b"\r\n", b"\r"))).articles == ARTICLES


def test_a_line_separator_of_unicode_ends_no_row_of_a_csv_file(write: Write) -> None:
    source = write("news.csv", "headline,short_description\nA\u2028B\x0cC,T\n")
    assert load_articles(source).articles == (Article("A\u2028B\x0cC", "T"),)


def test_of_two_columns_of_one_name_the_first_counts(write: Write) -> None:
    source = write("news.csv", "headline,short_description,headline\nFirst,T,Second\n")
    assert load_articles(source).articles == (Article("First", "T"),)


def test_an_article_of_a_megabyte_is_read(write: Write) -> None:
    text = "word " * 200_000
    source = write("news.csv", f"headline,short_description,body\nH,T,{text}\n")
    assert load_articles(source).articles == (Article("H", "T"),)


def test_a_file_is_read_where_no_cache_can_be_kept(write: Write) -> None:
    """The libraries read these variables when they are imported: a process of its own."""
    sources = ["embedded", *(write(name, FORMATS[name](ROWS)) for name in ("news.jsonl", "news.csv", "news.parquet"))]
    code = "import sys; from udaciheadline.data.articles import load_articles; "
    code += "print(*[len(load_articles(source).articles) for source in sys.argv[1:]])"
    environment = os.environ | {"HF_HOME": "/dev/null/x", "HOME": "/nonexistent"}
    found = subprocess.run([sys.executable, "-c", code, *sources], env=environment, capture_output=True, text=True)
    assert (found.stdout.strip(), found.returncode) == ("1000 5 5 5", 0)


def test_a_file_that_has_changed_is_read_anew(write: Write) -> None:
    assert load_articles(write("news.jsonl", jsonl(ROWS[:2]))).articles == ARTICLES[:2]
    assert load_articles(write("news.jsonl", jsonl(ROWS[2:]))).articles == ARTICLES[2:]


def test_reading_writes_nothing_on_the_terminal(write: Write, capfd: pytest.CaptureFixture[str]) -> None:
    load_articles(write("news.jsonl", jsonl(ROWS)))
    assert capfd.readouterr() == ("", "")


def test_reading_a_file_asks_nobody_on_the_network(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub

    asked = []

    def getaddrinfo(host: str, *_: object, **__: object) -> list[object]:
        asked.append(host)
        raise socket.gaierror("this test has no network")

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    load_articles(write("news.jsonl", jsonl(ROWS)))
    assert asked == []


def test_a_hub_dataset_is_read_from_its_train_split(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    hub = {("someone/news", "train"): datasets.Dataset.from_list(ROWS)}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: hub[name, split])
    assert load_articles("someone/news").articles == ARTICLES


def test_further_articles_come_behind_the_examples(write: Write) -> None:
    rows = [{"headline": f"H{i}", "short_description": f"D{i}"} for i in range(7)]
    found = load_articles(write("news.jsonl", jsonl(rows)), 2, examples=1, further=3)
    parts = found.articles, found.examples, found.further
    assert [[article.headline for article in part] for part in parts] == [["H0", "H1"], ["H2"], ["H3", "H4", "H5"]]
    assert found.ended == ""


def test_articles_for_calibration_come_last(write: Write) -> None:
    rows = [{"headline": f"H{i}", "short_description": f"D{i}"} for i in range(9)]
    found = load_articles(write("news.jsonl", jsonl(rows)), 2, examples=1, further=3, calibration=2)
    assert [article.headline for article in found.further] == ["H3", "H4", "H5"]
    assert [article.headline for article in found.calibration] == ["H6", "H7"]


def test_where_there_are_too_few_at_most_half_of_those_that_are_not_timed_are_for_calibration(write: Write) -> None:
    path = write("news.jsonl", jsonl([{"headline": f"H{i}", "short_description": f"D{i}"} for i in range(7)]))
    found = load_articles(path, 2, further=100, calibration=4)
    assert [article.headline for article in found.further] == ["H2", "H3", "H4"]
    assert [article.headline for article in found.calibration] == ["H5", "H6"]
    assert load_articles(path, 7, further=100, calibration=4).calibration == ()


def test_further_articles_end_where_a_row_cannot_be_read_and_it_is_said_why(write: Write) -> None:
    good = jsonl([{"headline": "H", "short_description": "D"}])
    path = write("news.jsonl", good * 3 + b"no json\n" + good)
    found = load_articles(path, 2, further=3)
    assert len(found.further) == 1
    assert "line 4" in found.ended
    with pytest.raises(UsageError, match="line 4"):
        load_articles(path, 4, further=3)
