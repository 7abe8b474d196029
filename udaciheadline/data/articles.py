"""Reads a dataset (a file, a hub id, the embedded sample) into articles."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from udaciheadline.data import lines, tables
from udaciheadline.data.lfs import is_lfs_pointer
from udaciheadline.data.lines import Row
from udaciheadline.records import Article, UsageError

EMBEDDED = "embedded"
_JSON = (".jsonl", ".json")
_ENDINGS = ".jsonl, .json, .csv (each also .gz) or .parquet"
_OTHERS = ("category", "authors", "date", "link")  # fields of an article that a row may lack
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")  # what cutting a text in the middle of an emoji leaves


@dataclass(frozen=True)
class ArticleSet:
    """The first usable articles of a dataset, and how many rows before the last of them were not usable.

    `examples` are usable articles that come after them: what a prompt may show, because it is not measured. `further`
    ones come after those: they are not timed, but may be written. `ended` says why there are no more of them, where a
    row could not be read.
    """

    source: str
    articles: tuple[Article, ...]
    skipped: int
    examples: tuple[Article, ...] = ()
    further: tuple[Article, ...] = ()
    ended: str = ""


def load_articles(
    source: str,
    count: int | None = None,
    *,
    text_column: str = "short_description",
    headline_column: str = "headline",
    examples: int = 0,
) -> ArticleSet:
    """The first `count` usable articles (None: all) of `source`: "embedded", a file or a hub dataset's `train` split.

    A row without a text or a headline is skipped and counted. `examples` more usable articles are read behind the
    `count`; what comes after the last article, and columns that no article needs, are not looked at. Raises UsageError,
    naming file, line and field, where the source is missing, empty, truncated, not UTF-8, not of this form, or holds no
    usable row, and where it has no such `examples`.
    """
    if count is not None and count < 1:
        raise UsageError(f"--articles {count}: give at least 1")
    if examples and count is None:
        raise UsageError(
            f"{source}: no article is left for {examples} examples where all are measured: give --articles"
        )
    found: list[Article] = []
    skipped = 0
    for article in _articles(source, text_column, headline_column):
        if article is None:
            skipped += count is None or len(found) < count
            continue
        found.append(article)
        if count is not None and len(found) == count + examples:
            break
    if count is None:
        return ArticleSet(source, tuple(found), skipped)
    if examples and len(found) < count + examples:
        raise UsageError(
            f"{source}: {len(found)} usable articles are too few to measure {count} and show {examples} others as "
            "examples: measure fewer (--articles) or show fewer"
        )
    return ArticleSet(source, tuple(found[:count]), skipped, tuple(found[count:]))


def _articles(source: str, text_column: str, headline_column: str) -> Iterator[Article | None]:
    """The articles one by one as they are read, None for a row that is not usable."""
    columns = {"--text-column": text_column, "--headline-column": headline_column}
    path = _locate(source)
    names: dict[str, None] = {}  # of all fields met, in order
    number = usable = 0
    for number, (place, row) in enumerate(_rows(source, path, {*columns.values(), *_OTHERS}), start=1):
        names |= dict.fromkeys(row)
        if number == 1 and (path is None or _ending(path) not in _JSON):  # all rows have the fields of the first
            _require(columns, names, source)
        article = _article(row, text_column, headline_column, f"{source}, {place}")
        usable += article is not None
        yield article
    if not number:
        raise UsageError(f"{source}, line 1: there is no row: give a dataset of articles")
    if not usable:
        _require(columns, names, source)
        raise UsageError(
            f"{source}: none of its {number} rows has both {text_column!r} and {headline_column!r}: "
            f"name the columns with {' and '.join(columns)}"
        )


def _rows(source: str, path: Path | None, wanted: Collection[str]) -> Iterator[Row]:
    if path is None:
        return tables.hub_rows(source, wanted)
    if _ending(path) == ".parquet":
        return tables.parquet_rows(path, source, wanted)
    return lines.csv_rows(path, source) if _ending(path) == ".csv" else lines.json_rows(path, source)


def _locate(source: str) -> Path | None:
    """The file that `source` means, or None where it can only be a hub id."""
    if source == EMBEDDED:
        return Path(str(files("udaciheadline.data") / "embedded.jsonl"))
    path = Path(source)
    is_known = _ending(path) in (*_JSON, ".csv", ".parquet")
    if not path.exists() and not is_known and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):
        return None
    if not path.is_file():
        raise UsageError(f"{source}: there is no such file: give the path of a {_ENDINGS} file or a hub id")
    if not is_known:
        raise UsageError(f"{source}: unknown file ending {_ending(path)!r}: give a {_ENDINGS} file")
    if path.stat().st_size == 0:
        raise UsageError(f"{source}, line 1: the file is empty")
    try:
        is_pointer = is_lfs_pointer(path)
    except OSError as error:
        raise UsageError(f"{source}: cannot be read ({error.strerror}): give a file that can be") from error
    if is_pointer:
        raise UsageError(f"{source}: git-lfs's pointer to the file and not the file itself: fetch it with git lfs pull")
    return path


def _ending(path: Path) -> str:
    return next((suffix for suffix in reversed(path.suffixes) if suffix.lower() != ".gz"), "").lower()


def _require(columns: dict[str, str], names: Collection[str], source: str) -> None:
    """Raises UsageError where a column, given by the option that names it, is none of these names."""
    for option, column in columns.items():
        if column not in names:
            found = ", ".join(names)
            raise UsageError(f"{source}, line 1: no field {column!r} (found: {found}): name yours with {option}")


def _article(row: dict[str, Any], text_column: str, headline_column: str, place: str) -> Article | None:
    """The article of a row, None where it has no text or no headline. Raises UsageError where one is not text."""
    for column in (text_column, headline_column):
        if not isinstance(value := row.get(column), str | None):
            raise UsageError(f"{place}: field {column!r} is of type {type(value).__name__}: it must be text")
        if _HALF_A_PAIR.search(value or ""):
            raise UsageError(
                f"{place}: field {column!r} has half of a surrogate pair, which is no character: write it in UTF-8"
            )
    text, headline = ((row.get(column) or "").strip() for column in (text_column, headline_column))
    if not text or not headline:
        return None
    rest = {name: _HALF_A_PAIR.sub("?", str(row.get(name) or "")) for name in _OTHERS}
    if re.match(r"\d{4}-\d\d-\d\d", rest["date"]):
        rest["date"] = rest["date"][:10]  # without a time
    return Article(headline, text, **rest)
