"""Articles on their way to the engine, a chunk at a time: read when they are asked for, so that no more of a file is in
memory than is worked on. What is wrong with one of them becomes its error, and the others go on."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from udaciheadline.data import sources
from udaciheadline.data.sources import Source
from udaciheadline.engines.codec import Codec, Limit
from udaciheadline.records import UsageError
from udaciheadline.writing.headlines import Layout

PEEKED = 100  # rows in which a column must be, to be one


@dataclass(frozen=True)
class Line:
    """The beginning of an article's line, what is wrong with the article, and whether a headline is written for it."""

    head: str
    error: str | None
    has_prompt: bool


@dataclass(frozen=True)
class Chunk:
    """Some articles: their lines, the prompts, in tokens, of those that have one, and the share of the source that
    they and those before them are."""

    lines: list[Line]
    prompts: list[list[int]]
    share: float | None


def peek(source: Source, name: str, text_column: str) -> tuple[tuple[str, ...], Source]:
    """The columns of the first rows, in order, and the source with all its rows still to come.

    Raises UsageError where there is no row, none that can be read, or no column of text in any of them.
    """
    first = list(itertools.islice(source.rows, PEEKED))
    if not first:
        raise UsageError(f"{name}, line 1: there is no row: give articles")
    faults = [row for _, row in first if isinstance(row, UsageError)]
    if len(faults) == len(first):
        raise faults[0]
    columns = tuple(dict.fromkeys(column for _, row in first if not isinstance(row, UsageError) for column in row))
    sources.require({"--text-column": text_column}, columns, name)
    return columns, replace(source, rows=itertools.chain(first, source.rows), ahead=len(first))


class Incoming:
    """The articles of a source. `fill` makes a prompt of a text, `codec` tokens of that; with `new_tokens` behind them
    they must be within `limit`."""

    def __init__(
        self,
        source: Source,
        name: str,
        text_column: str,
        layout: Layout,
        fill: Callable[[str], str],
        codec: Codec,
        limit: Limit,
        new_tokens: int,
    ) -> None:
        self.layout = layout
        self._source, self._name, self._text_column = source, name, text_column
        self._fill, self._codec, self._limit, self._new_tokens = fill, codec, limit, new_tokens
        self._articles = (self._article(place, row) for place, row in source.rows)
        self._given = 0
        self._end: UsageError | None = None  # what the rows ended with, if it is not their end

    def share(self) -> float | None:
        """How much of the source the articles given so far are, from 0 to 1, if that is known."""
        share = self._source.share()
        return share and share * self._given / max(self._given, self._source.ahead)

    def heads(self) -> Iterator[str]:
        """The beginnings of the articles' lines, each of which is then not to come any more."""
        return (head for head, _, _ in self._articles)

    def chunk(self, count: int) -> Chunk | None:
        """The next `count` articles, or as many as there are; None where there is none.

        Raises UsageError where the rows end that way, and for an article that has one of our columns already; those
        before it were given.
        """
        found: list[tuple[str, str, str | None]] = []
        try:
            if self._end:
                raise self._end
            found.extend(itertools.islice(self._articles, count))
        except UsageError as error:
            self._end = error
        if not found:
            if self._end:
                raise self._end
            return None
        with_text = iter(self._codec.encode([self._fill(text) for _, text, _ in found if text]))
        lines, prompts = [], []
        for head, text, why in found:
            if not text:
                lines.append(Line(head, why, has_prompt=False))
                continue
            prompt = next(with_text)
            excess = self._limit.excess(len(prompt), self._new_tokens)
            lines.append(Line(head, excess or why, has_prompt=not excess))
            if not excess:
                prompts.append(prompt)
        return Chunk(lines, prompts, self.share())

    def _article(self, place: str, row: Mapping[str, Any] | UsageError) -> tuple[str, str, str | None]:
        """The beginning of its line, its text ("" where there is none to be used), and what is wrong with it."""
        self._given += 1
        if isinstance(row, UsageError):
            return self.layout.head({}), "", str(row)
        place = f"{self._name}, {place}"
        for option, column in zip(("--output-column", "--error-column"), self.layout.own, strict=True):
            if column in row:
                raise UsageError(f"{place}: it has a field {column!r} already: name another one with {option}")
        head = self.layout.head(row)
        try:
            text = sources.text(dict(row), self._text_column, place)
        except UsageError as error:
            return head, "", str(error)
        if not text:
            return head, "", f"{place}: there is no text in its field {self._text_column!r}"
        left_out = ", ".join(self.layout.left_out(row))
        return head, text, f"{place}: not kept, since the header lacks them: {left_out}" if left_out else None
