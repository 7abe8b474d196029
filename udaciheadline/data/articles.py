"""Reads a dataset (a file, a hub id, the embedded sample) into articles."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from udaciheadline.data import sources
from udaciheadline.data.sources import EMBEDDED
from udaciheadline.records import Article, UsageError

__all__ = ["CALIBRATION_ARTICLES", "EMBEDDED", "ArticleSet", "load_articles"]

CALIBRATION_ARTICLES = 128  # that are not measured, for techniques that are fitted to articles

_OTHERS = ("category", "authors", "date", "link")  # fields of an article that a row may lack


@dataclass(frozen=True)
class ArticleSet:
    """The first usable articles of a dataset, and how many rows before the last of them were not usable.

    `examples` are usable articles that come after them: what a prompt may show, because it is not measured. `further`
    ones come after those: they are not timed, but may be written. `calibration` are the last ones, which are not even
    that: techniques may be fitted to them. `ended` says why there are no more of them, where a row could not be read.
    """

    source: str
    articles: tuple[Article, ...]
    skipped: int
    examples: tuple[Article, ...] = ()
    further: tuple[Article, ...] = ()
    calibration: tuple[Article, ...] = ()
    ended: str = ""


def load_articles(
    source: str,
    count: int | None = None,
    *,
    text_column: str = "short_description",
    headline_column: str = "headline",
    examples: int = 0,
    further: int = 0,
    calibration: int = 0,
) -> ArticleSet:
    """The first `count` usable articles (None: all) of `source`: "embedded", a file or a hub dataset's `train` split.

    A row without a text or a headline is skipped and counted. `examples` more usable articles are read behind the
    `count`, and up to `further` ones behind those and up to `calibration` ones behind them, as far as rows can be read:
    where there are too few for both, the last half of them at most is for calibration. What comes after the last
    article, and columns that no article needs, are not looked at. Raises UsageError,
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
    skipped, ended = 0, ""
    needed = math.inf if count is None else count + examples
    try:
        for article in _articles(source, text_column, headline_column):
            if article is None:
                skipped += count is None or len(found) < count
                continue
            found.append(article)
            if len(found) == needed + further + calibration:
                break
    except UsageError as error:
        if len(found) < needed:
            raise
        ended = str(error)
    if count is None:
        return ArticleSet(source, tuple(found), skipped)
    if examples and len(found) < count + examples:
        raise UsageError(
            f"{source}: {len(found)} usable articles are too few to measure {count} and show {examples} others as "
            "examples: measure fewer (--articles) or show fewer"
        )
    first, shown, rest = found[:count], found[count : count + examples], found[count + examples :]
    own = len(rest) - min(calibration, len(rest) // 2)
    return ArticleSet(source, tuple(first), skipped, tuple(shown), tuple(rest[:own]), tuple(rest[own:]), ended)


def _articles(source: str, text_column: str, headline_column: str) -> Iterator[Article | None]:
    """The articles one by one as they are read, None for a row that is not usable."""
    columns = {"--text-column": text_column, "--headline-column": headline_column}
    opened = sources.open_source(source, {*columns.values(), *_OTHERS})
    names: dict[str, None] = {}  # of all fields met, in order
    number = usable = 0
    for number, (place, row) in enumerate(sources.strict(opened.rows), start=1):
        names |= dict.fromkeys(row)
        if number == 1 and opened.has_header:
            sources.require(columns, names, source)
        article = _article(row, text_column, headline_column, f"{source}, {place}")
        usable += article is not None
        yield article
    if not number:
        raise UsageError(f"{source}, line 1: there is no row: give a dataset of articles")
    if not usable:
        sources.require(columns, names, source)
        raise UsageError(
            f"{source}: none of its {number} rows has both {text_column!r} and {headline_column!r}: "
            f"name the columns with {' and '.join(columns)}"
        )


def _article(row: dict[str, Any], text_column: str, headline_column: str, place: str) -> Article | None:
    """The article of a row, None where it has no text or no headline. Raises UsageError where one is not text."""
    text, headline = (sources.text(row, column, place) for column in (text_column, headline_column))
    if not text or not headline:
        return None
    rest = {name: sources.characters(row.get(name) or "") for name in _OTHERS}
    if re.match(r"\d{4}-\d\d-\d\d", rest["date"]):
        rest["date"] = rest["date"][:10]  # without a time
    return Article(headline, text, **rest)
