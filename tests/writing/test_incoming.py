"""Articles on their way to the engine: what each one's line and error are, and how much is read."""

import json
from typing import Any

import pytest
from datasets_made import Write
from fake_jobs import OWN, incoming

from udaciheadline.data.sources import Source, open_source
from udaciheadline.records import UsageError
from udaciheadline.writing.headlines import Csv
from udaciheadline.writing.incoming import peek

GOOD = '{"id": 1, "text": "abc"}\n'


def errors(text: str, write: Write, **options: Any) -> list[str | None]:
    chunk = incoming(write("news.jsonl", text), **options).chunk(100)
    assert chunk is not None
    assert len(chunk.prompts) == sum(line.has_prompt for line in chunk.lines)
    return [line.error for line in chunk.lines]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ('{"id": 2, "text": "ab', "line 2: not valid JSON (Unterminated string starting at)"),
        ("[1]", "line 2: not a JSON object"),
        ('{"id": 2}', "news, line 2: there is no text in its field 'text'"),
        ('{"id": 2, "text": "  "}', "news, line 2: there is no text in its field 'text'"),
        ('{"id": 2, "text": 7}', "news, line 2: field 'text' is of type int: it must be text"),
        ('{"id": 2, "text": "\\ud83d"}', "news, line 2: field 'text' has half of a surrogate pair"),
        (
            '{"id": 2, "text": "' + "x" * 98 + '"}',
            "its prompt of 98 tokens and the 3 of a headline are more than the 100 that the test takes: cut",
        ),
    ],
)
def test_an_article_that_cannot_be_used_has_an_error_and_the_others_go_on(line: str, error: str, write: Write) -> None:
    first, second, third = errors(f"{GOOD}{line}\n{GOOD}", write, limit=100)
    assert first is third is None
    assert second is not None
    assert error in second


def test_a_byte_that_is_not_utf8_is_an_error_of_its_line_alone(write: Write) -> None:
    chunk = incoming(write("news.jsonl", GOOD.encode() + GOOD.encode()[:-4] + b'\xe9"}\n' + GOOD.encode())).chunk(9)
    assert chunk is not None
    assert ["byte 0xe9 is not UTF-8" in (line.error or "") for line in chunk.lines] == [False, True, False]


@pytest.mark.parametrize("broken", ["2,de,f", '2,"d"e', "2"])
def test_a_csv_row_that_does_not_fit_is_an_error_and_the_next_one_is_read(broken: str, write: Write) -> None:
    source = write("news.csv", f'id,text\n1,abc\n{broken}\n3,"g\nh"\n')
    chunk = incoming(source, Csv(OWN, ["id", "text"])).chunk(9)
    assert chunk is not None
    assert [line.head for line in chunk.lines] == ["1,abc,", ",,", '3,"g\nh",']
    assert [bool(line.error) for line in chunk.lines] == [False, True, False]


def test_an_article_with_an_error_keeps_its_columns(write: Write) -> None:
    chunk = incoming(write("news.jsonl", '{"id": 7, "text": ""}\n')).chunk(1)
    assert chunk is not None
    assert json.loads(chunk.lines[0].head.rstrip(", ") + "}") == {"id": 7, "text": ""}


def test_a_field_that_the_csv_header_lacks_is_told_beside_the_headline(write: Write) -> None:
    source = write("news.jsonl", GOOD + '{"id": 2, "text": "de", "more": 1}\n')
    chunk = incoming(source, Csv(OWN, ["id", "text"])).chunk(9)
    assert chunk is not None
    assert chunk.lines[1].has_prompt
    assert chunk.lines[1].error == "news, line 2: not kept, since the header lacks them: more"


@pytest.mark.parametrize(("column", "option"), [(OWN[0], "--output-column"), (OWN[1], "--error-column")])
def test_a_column_of_the_articles_is_never_overwritten(column: str, option: str, write: Write) -> None:
    articles = incoming(write("news.jsonl", GOOD + json.dumps({"text": "a", column: "mine"})))
    chunk = articles.chunk(9)
    assert chunk is not None
    assert len(chunk.lines) == 1
    with pytest.raises(UsageError, match=f"news, line 2: it has a field '{column}' already: name another.*{option}"):
        articles.chunk(9)


def test_what_was_read_before_a_file_ends_too_soon_is_given_first(write: Write) -> None:
    import gzip

    zipped = gzip.compress("".join(f'{{"text": "{n:040}"}}\n' for n in range(2000)).encode())
    articles = incoming(write("news.jsonl.gz", zipped[: len(zipped) // 2]))
    chunk = articles.chunk(10**6)
    assert chunk is not None
    assert len(chunk.lines) > 100
    with pytest.raises(UsageError, match="the file may be cut off"):
        articles.chunk(1)


def endless(read: list[int]) -> Source:
    def rows() -> Any:
        while True:
            read.append(1)
            yield f"line {len(read)}", {"text": "x"}

    return Source(".jsonl", rows(), lambda: None)


def test_no_more_is_read_than_a_chunk_needs() -> None:
    read: list[int] = []
    articles = incoming(endless(read))
    articles.chunk(5)
    assert len(read) == 5
    next(articles.heads())
    articles.chunk(2)
    assert len(read) == 8


def test_peeking_loses_no_row_and_finds_the_columns_of_all_that_it_sees(write: Write) -> None:
    columns, source = peek(open_source(write("n.jsonl", "{\n" + GOOD + '{"text": "d", "x": 1}\n')), "n", "text")
    assert columns == ("id", "text", "x")
    assert len(list(source.rows)) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\n", "n, line 1: there is no row"),
        ("{\n{", "n.jsonl, line 1: not valid JSON"),
        ('{"id": 1}\n', "n, line 1: no field 'text' .found: id.: name yours with --text-column"),
    ],
)
def test_a_file_without_any_article_is_refused(content: str, message: str, write: Write) -> None:
    with pytest.raises(UsageError, match=message):
        peek(open_source(write("n.jsonl", content)), "n", "text")


def test_the_share_that_was_read_grows_to_all(write: Write) -> None:
    articles = incoming(write("news.jsonl", GOOD * 5000))
    assert articles.share() is None
    first, rest = articles.chunk(1), articles.chunk(5000)
    assert first is not None
    assert rest is not None
    assert first.share is not None
    assert 0 < first.share < 1
    assert articles.chunk(1) is None
    assert articles.share() == 1.0


def test_rows_that_were_only_peeked_at_do_not_count_as_behind(write: Write) -> None:
    _, source = peek(open_source(write("news.jsonl", GOOD * 8)), "n", "text")
    articles = incoming(source)
    assert articles.share() == 0.0
    articles.chunk(2)
    assert articles.share() == 0.25
