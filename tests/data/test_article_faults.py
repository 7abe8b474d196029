"""What is said of a dataset that cannot be read: one sentence that names it and the place."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from datasets_made import FORMATS, GOOD, ROWS, Write, array, jsonl, parquet

from udaciheadline.data.articles import load_articles
from udaciheadline.records import UsageError


def complaint(source: str, **options: Any) -> str:
    """What load_articles has against `source`, after its name."""
    with pytest.raises(UsageError) as error:
        load_articles(source, **options)
    message = str(error.value)
    assert message.startswith(source)
    return message.removeprefix(source).lstrip(",: ")


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
    ("line", "fields"),
    [("A. Writer,H,T,", 4), ("A. Writer,H, with a comma,T", 4), ("A. Writer,H", 2)],
    ids=["a comma at the end", "a comma in the headline", "a field too few"],
)
def test_a_csv_file_whose_rows_all_differ_from_its_header_moves_no_column(line: str, fields: int, write: Write) -> None:
    source = write("news.csv", "authors,headline,short_description\n" + f"{line}\n" * 3)
    assert complaint(source) == f"line 2: {fields} fields instead of 3"


def test_a_row_of_several_lines_is_told_with_its_first(write: Write) -> None:
    source = write("news.csv", 'headline,short_description\nH,T\nH,"T\nT\nT",more\n')
    assert complaint(source) == "line 3: 3 fields instead of 2"


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_a_csv_file_without_commas_is_said_to_be_what_it_is(separator: str, name: str, write: Write) -> None:
    source = write("news.csv", f"headline{separator}short_description\nH, a headline{separator}T\n")
    assert complaint(source) == f"line 1: separated by {name}: convert it to commas"


def test_a_quote_that_is_not_doubled_is_told_with_its_line(write: Write) -> None:
    source = write("news.csv", 'headline,short_description\nH,T\n"A "good" headline",T\n')
    assert re.match(r'line 3: not valid CSV \(.+\): write a quote within quotes as ""$', complaint(source))


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


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 100_000], ids=["a number", "brackets"])
def test_a_value_that_is_too_long_to_read_is_told_with_its_line(value: str, write: Write) -> None:
    source = write("news.jsonl", GOOD + f'{{"headline": "H", "short_description": "T", "rank": {value}}}\n')
    assert re.match(r"line 2: not (readable as|valid) JSON ", complaint(source))


@pytest.mark.parametrize("name", ["news.jsonl", "news.csv.gz", "news.parquet"])
def test_a_git_lfs_pointer_is_said_to_be_one(name: str, write: Write) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 90000\n"
    expected = "git-lfs's pointer to the file and not the file itself: fetch it with git lfs pull"
    assert complaint(write(name, pointer)) == expected


def test_a_cache_that_cannot_be_used_is_named_where_a_hub_dataset_needs_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, huggingface_cache: None
) -> None:
    import datasets

    (tmp_path / "file").touch()
    cache = tmp_path / "file" / "datasets"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    expected = f"nothing can be written to the cache folder {cache} (Not a directory)"
    assert complaint("someone/news") == f"{expected}: set HF_HOME to a folder that can be written"


@pytest.mark.usefixtures("huggingface_cache")
@pytest.mark.parametrize("name", ["someone/no-such-news", "no-such-news"])
def test_a_hub_id_that_cannot_be_reached_is_told_with_the_reasons(name: str) -> None:
    found = complaint(name)
    assert found.startswith("neither a file here nor a dataset that the hub gives (")
    assert "OfflineMode" in found
    assert found.endswith("check the name, the network and, for a gated dataset, HF_TOKEN")


@pytest.mark.parametrize("content", [b"", b"{oops\n", b"\xe9\n", b'{"a": 1}\n', b"[1, 2]\n"])
def test_a_complaint_is_one_line(content: bytes, write: Write) -> None:
    assert "\n" not in complaint(write("news.jsonl", content))
