import csv
import gzip
import io
import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from udaciheadline.articles import ArticleSet, load_articles
from udaciheadline.newswire import evaluation_articles
from udaciheadline.records import Article, UsageError

pytestmark = pytest.mark.usefixtures("huggingface_cache")

ROWS = [
    {
        "link": f"https://news.invalid/{n}",
        "headline": f"Café {n} Opens, at Last",
        "category": "FOOD",
        "short_description": f'"It took {n} years," says its owner, who paid 5 €.',
        "authors": "A. Writer",
        "date": f"2022-09-0{n}",
    }
    for n in range(1, 6)
]
ARTICLES = tuple(Article(**row) for row in ROWS)
GOOD = '{"headline": "H", "short_description": "T"}\n'


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def array(rows: list[dict[str, Any]]) -> bytes:
    return json.dumps(rows, indent=1, ensure_ascii=False).encode()


def comma_separated(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, rows[0].keys())
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow
    from pyarrow.parquet import write_table

    file = io.BytesIO()
    write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


FORMATS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "news.jsonl": jsonl,
    "lines.json": jsonl,
    "array.json": array,
    "news.csv": comma_separated,
    "news.parquet": parquet,
    "news.jsonl.gz": lambda rows: gzip.compress(jsonl(rows)),
    "lines.json.gz": lambda rows: gzip.compress(jsonl(rows)),
    "array.json.gz": lambda rows: gzip.compress(array(rows)),
    "news.csv.gz": lambda rows: gzip.compress(comma_separated(rows)),
    "NEWS.JSONL": jsonl,
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, bytes | str], str]:
    """Writes a file of this name; its path."""

    def write(name: str, content: bytes | str) -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


Write = Callable[[str, bytes | str], str]


def complaint(source: str, **options: Any) -> str:
    """What load_articles has against `source`, after its name."""
    with pytest.raises(UsageError) as error:
        load_articles(source, **options)
    message = str(error.value)
    assert message.startswith(source)
    return message.removeprefix(source).lstrip(",: ")


# What can be read


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


# What cannot


@pytest.mark.parametrize("name", ["missing.jsonl", "missing.csv.gz", "no such folder/news"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    assert complaint(str(tmp_path / name)).startswith("there is no such file: give the path of a .jsonl, .json, .csv")


def test_a_name_with_the_ending_of_a_file_is_not_looked_for_on_the_hub() -> None:
    assert complaint("no-such-news.jsonl").startswith("there is no such file")


def test_a_folder_is_not_a_dataset(tmp_path: Path) -> None:
    assert "give the path of a .jsonl" in complaint(str(tmp_path))


@pytest.mark.parametrize(("name", "ending"), [("news.txt", ".txt"), ("news.tsv.gz", ".tsv"), ("news", "")])
def test_an_unknown_ending_is_named_with_the_known_ones(name: str, ending: str, write: Write) -> None:
    expected = f"unknown file ending {ending!r}: give a .jsonl, .json, .csv (each also .gz) or .parquet file"
    assert complaint(write(name, GOOD)) == expected


@pytest.mark.parametrize("name", ["news.jsonl", "news.json", "news.csv", "news.parquet"])
def test_an_empty_file_is_said_to_be_empty(name: str, write: Write) -> None:
    assert complaint(write(name, "")) == "line 1: the file is empty"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("news.csv", "headline,short_description\n", id="a csv file of a header alone"),
        pytest.param("news.json", "[]", id="an empty array"),
        pytest.param("news.jsonl", "\n\n", id="blank lines"),
        pytest.param("news.jsonl.gz", gzip.compress(b""), id="nothing gzipped"),
    ],
)
def test_a_file_without_a_row_is_said_to_have_none(name: str, content: bytes | str, write: Write) -> None:
    assert re.search(r"\b(no|none|empty)\b", complaint(write(name, content)).partition("(")[0])


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        pytest.param("news.jsonl", jsonl(ROWS)[:-20], 5, id="jsonl"),
        pytest.param("news.json", jsonl(ROWS)[:-20], 5, id="lines in json"),
        pytest.param("news.json", array(ROWS)[:-40], 39, id="array"),
        pytest.param("news.json", json.dumps(ROWS).encode()[:-40], 1, id="array on one line"),
        pytest.param("news.jsonl.gz", gzip.compress(jsonl(ROWS)[:-20]), 5, id="jsonl before it was gzipped"),
        pytest.param("news.csv", 'headline,short_description\nH,T\nH,"T\n', 3, id="csv in a quoted field"),
    ],
)
def test_a_truncated_file_is_told_with_its_line(name: str, content: bytes | str, line: int, write: Write) -> None:
    found = complaint(write(name, content))
    assert re.match(rf"line {line}: not valid (JSON|CSV) \(.+\): the file may have been cut off there$", found)


@pytest.mark.parametrize("name", ["news.jsonl.gz", "array.json.gz", "news.csv.gz"])
def test_a_truncated_gzip_file_is_said_to_be_cut_off(name: str, write: Write) -> None:
    found = complaint(write(name, FORMATS[name](ROWS)[:-12]))
    assert re.match(r"line \d+: cannot be read \(Compressed file ended before .+\): the file may be cut off", found)


def test_a_file_that_is_only_named_gzip_is_told(write: Write) -> None:
    found = complaint(write("news.jsonl.gz", jsonl(ROWS)))
    assert found.startswith("line 1: cannot be read (Not a gzipped file")


@pytest.mark.parametrize("length", [3, 200, -8])
def test_a_truncated_parquet_file_is_told(length: int, write: Write) -> None:
    found = complaint(write("news.parquet", parquet(ROWS)[:length]))
    assert re.match(r"line 1: not a whole Parquet file \(.+\): it may have been cut off, fetch it again$", found)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        pytest.param("news.jsonl", GOOD * 2 + '{"headline": "Café", "short_description": "T"}\n' + GOOD, 3, id="jsonl"),
        pytest.param("news.json", '[\n{"headline": "H", "short_description": "Café"}\n]', 2, id="array"),
        pytest.param("news.csv", "headline,short_description\nH,T\nCafé,T\nH,T\n", 3, id="csv"),
        pytest.param("news.jsonl.gz", GOOD + '{"headline": "Café", "short_description": "T"}\n', 2, id="gzip"),
    ],
)
def test_a_byte_that_is_not_utf8_is_told_with_its_line(name: str, content: str, line: int, write: Write) -> None:
    latin = content.encode("latin-1")
    found = complaint(write(name, gzip.compress(latin) if name.endswith(".gz") else latin))
    assert found == f"line {line}: byte 0xe9 is not UTF-8: convert the file to UTF-8"


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        pytest.param("news.csv", "headline,short_description\nH,T\nH,T,more\nH,T\n", 3, id="a field too many"),
        pytest.param(
            "news.csv", 'headline,short_description\nH,"T\nT"\nH,T,more\n', 4, id="after a field of two lines"
        ),
        pytest.param("news.csv", "headline,short_description\n\n\nH,T\nH,T,more\n", 5, id="after blank lines"),
        pytest.param(
            "news.csv.gz", gzip.compress(b"headline,short_description\nH,T\nH,T,more\n"), 3, id="a gzipped file"
        ),
    ],
)
def test_a_ragged_csv_file_is_told_with_its_line(name: str, content: bytes | str, line: int, write: Write) -> None:
    assert complaint(write(name, content)) == f"line {line}: 3 fields instead of 2"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        pytest.param(GOOD + "{oops\n" + GOOD, 2, id="between good lines"),
        pytest.param(GOOD + "\n\n{oops\n", 4, id="after blank lines"),
        pytest.param("\ufeff" + GOOD + "{oops\n", 2, id="after a byte order mark"),
        pytest.param(f"[\n{GOOD},\noops]", 4, id="in an array"),
        pytest.param(f"[\n\n\n{GOOD},\noops]", 6, id="in an array with blank lines"),
        pytest.param(f"[oops,\n{GOOD}]\n", 1, id="in the first line of an array"),
    ],
)
def test_broken_json_is_told_with_its_line(content: str, line: int, write: Write) -> None:
    assert complaint(write("news.json", content)).startswith(f"line {line}: not valid JSON (")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        pytest.param('"just text"\n', 1, id="text"),
        pytest.param(GOOD + "[1, 2]\n", 2, id="a list after an article"),
    ],
)
def test_a_line_that_is_no_object_is_told(content: str, line: int, write: Write) -> None:
    assert complaint(write("news.jsonl", content)) == f"line {line}: not a JSON object: each line must be one article"


def test_an_escape_that_is_no_character_is_not_blamed_on_another_line(write: Write) -> None:
    """Half a surrogate pair is what cutting a text in the middle of an emoji leaves."""
    source = write("news.jsonl", GOOD * 2 + '{"headline": "Emoji \\ud83d", "short_description": "T"}\n' + GOOD)
    assert complaint(source).startswith("line 3: ")


@pytest.mark.parametrize("name", ["news.jsonl", "array.json", "news.csv", "news.parquet"])
@pytest.mark.parametrize(
    ("missing", "option"), [("short_description", "--text-column"), ("headline", "--headline-column")]
)
def test_a_missing_field_is_told_with_those_found(name: str, missing: str, option: str, write: Write) -> None:
    row = {"headline": "H", "short_description": "T", "topic": "x"}
    del row[missing]
    found = complaint(write(name, FORMATS[name]([row])))
    assert found == f"line 1: no field {missing!r} (found: {', '.join(row)}): name yours with {option}"


def test_a_column_that_was_named_but_is_not_there_is_told(write: Write) -> None:
    found = complaint(write("news.jsonl", GOOD), text_column="summary")
    assert found.startswith("line 1: no field 'summary' (found: headline, short_description)")


@pytest.mark.parametrize("field", ["headline", "short_description"])
@pytest.mark.parametrize(
    ("value", "kind"), [(5, "int"), (0.5, "float"), (True, "bool"), (["a"], "list"), ({"a": "b"}, "dict")]
)
def test_a_field_that_is_not_text_is_told_with_its_line(field: str, value: object, kind: str, write: Write) -> None:
    row: dict[str, object] = {"headline": "H", "short_description": "T", field: value}
    found = complaint(write("news.jsonl", GOOD + json.dumps(row) + "\n"))
    assert found == f"line 2: field {field!r} is of type {kind}: it must be text"


def test_a_file_with_no_usable_row_is_told_with_both_columns(write: Write) -> None:
    source = write(
        "news.jsonl", '{"headline": "H", "short_description": ""}\n{"headline": null, "short_description": "T"}\n'
    )
    expected = "none of its 2 rows has both 'short_description' and 'headline': "
    assert complaint(source) == expected + "name the columns with --text-column and --headline-column"


@pytest.mark.parametrize("name", ["someone/no-such-news", "no-such-news"])
def test_a_hub_id_that_cannot_be_reached_is_told_with_the_reasons(name: str) -> None:
    found = complaint(name)
    assert found.startswith("neither a file here nor a dataset that the hub gives (")
    assert "OfflineMode" in found
    assert found.endswith("check the name, the network and, for a gated dataset, HF_TOKEN")


@pytest.mark.parametrize("content", [b"", b"{oops\n", b"\xe9\n", b'{"a": 1}\n', b"[1, 2]\n"])
def test_a_complaint_is_one_line(content: bytes, write: Write) -> None:
    assert "\n" not in complaint(write("news.jsonl", content))
