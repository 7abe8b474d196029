"""Reads a dataset (a file, a hub id, the embedded sample) into articles, with Hugging Face `datasets`."""

import csv
import glob
import gzip
import json
import logging
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from udaciheadline.records import Article, UsageError

EMBEDDED = "embedded"
_BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
_ENDINGS = ".jsonl, .json, .csv (each also .gz) or .parquet"


@dataclass(frozen=True)
class ArticleSet:
    """The first usable articles of a dataset, and how many rows before the last of them were not usable.

    `examples` are usable articles that come after them: what a prompt may show, because it is not measured.
    """

    source: str
    articles: tuple[Article, ...]
    skipped: int
    examples: tuple[Article, ...] = ()


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
    `count`. Raises UsageError, naming file, line and field, where the source is missing, empty, truncated, not UTF-8,
    not of this form, or holds no usable row, and where it has no such `examples`.
    """
    if count is not None and count < 1:
        raise UsageError(f"--articles {count}: give at least 1")
    if examples and count is None:
        raise UsageError(
            f"{source}: no article is left for {examples} examples where all are measured: give --articles"
        )
    import datasets  # here, because it takes more than a second

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # it would tell a server of each local file that is read
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it warns of each retry; we say the outcome once
    path = _locate(source)
    try:
        if path is None:
            rows = datasets.load_dataset(source, split="train")
        else:
            builder = _BUILDERS[_ending(path)]
            # A cell that says "None" is text; and the name of a file is no pattern.
            options = {"keep_default_na": False} if builder == "csv" else {}
            rows = datasets.load_dataset(builder, data_files=glob.escape(str(path)), split="train", **options)
        return _collect(source, path, rows, count, text_column, headline_column, examples)
    except UsageError:
        raise
    except Exception as error:  # the builders raise whatever their parser or the hub raises, mostly without a line
        if path is None:
            raise UsageError(
                f"{source}: neither a file here nor a dataset that the hub gives ({_root_cause(error)}): "
                "check the name, the network and, for a gated dataset, HF_TOKEN"
            ) from error
        raise UsageError(f"{source}, {_diagnose(path, error)}") from error


def _locate(source: str) -> Path | None:
    """The file that `source` means, or None where it can only be a hub id."""
    if source == EMBEDDED:
        return Path(str(files("udaciheadline.data") / "embedded.jsonl"))
    path = Path(source)
    if not path.exists() and _ending(path) not in _BUILDERS and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):
        return None
    if not path.is_file():
        raise UsageError(f"{source}: there is no such file: give the path of a {_ENDINGS} file or a hub id")
    if _ending(path) not in _BUILDERS:
        raise UsageError(f"{source}: unknown file ending {_ending(path)!r}: give a {_ENDINGS} file")
    if path.stat().st_size == 0:
        raise UsageError(f"{source}, line 1: the file is empty")
    return path


def _ending(path: Path) -> str:
    return next((suffix for suffix in reversed(path.suffixes) if suffix != ".gz"), "").lower()


def _collect(
    source: str, path: Path | None, rows: Any, count: int | None, text_column: str, headline_column: str, examples: int
) -> ArticleSet:
    for column, option in ((text_column, "--text-column"), (headline_column, "--headline-column")):
        if column not in rows.column_names:
            found = ", ".join(rows.column_names)
            raise UsageError(f"{source}, line 1: no field {column!r} (found: {found}): name yours with {option}")
    articles: list[Article] = []
    skipped = 0
    for number, row in enumerate(rows, start=1):
        if count is not None and len(articles) == count + examples:
            break
        for column in (text_column, headline_column):
            if not isinstance(row[column], str | None):
                kind = type(row[column]).__name__
                place = _place(path, number)
                raise UsageError(f"{source}, {place}: field {column!r} is of type {kind}: it must be text")
        text, headline = ((row[column] or "").strip() for column in (text_column, headline_column))
        if not text or not headline:
            skipped += count is None or len(articles) < count
            continue
        rest = {name: str(row.get(name) or "") for name in ("category", "authors", "link")}
        # Arrow reads an ISO date as a timestamp; its first ten characters are the date again.
        articles.append(Article(headline, text, date=str(row.get("date") or "")[:10], **rest))
    if not articles:
        raise UsageError(
            f"{source}: none of its {skipped} rows has both {text_column!r} and {headline_column!r}: "
            "name the columns with --text-column and --headline-column"
        )
    if count is None:
        return ArticleSet(source, tuple(articles), skipped)
    if examples and len(articles) < count + examples:
        raise UsageError(
            f"{source}: {len(articles)} usable articles are too few to measure {count} and show {examples} others as "
            "examples: measure fewer (--articles) or show fewer"
        )
    return ArticleSet(source, tuple(articles[:count]), skipped, tuple(articles[count:]))


def _diagnose(path: Path, error: Exception) -> str:
    """Where and why a file could not be read: one clause that begins with the line."""
    builder = _BUILDERS[_ending(path)]
    if builder == "parquet":
        return f"line 1: not a whole Parquet file ({_root_cause(error)}): it may have been cut off, fetch it again"
    lines: list[str] = []
    try:
        for line in _lines(path):
            lines.append(line.decode("utf-8-sig" if not lines else "utf-8"))
    except UnicodeDecodeError as cause:
        found = f"byte {cause.object[cause.start]:#04x}"
        return f"line {len(lines) + 1}: {found} is not UTF-8: convert the file to UTF-8"
    except (EOFError, OSError, zlib.error) as cause:
        return f"line {len(lines) + 1}: cannot be read ({cause}): the file may be cut off or not readable"
    text = "".join(lines)
    if not text.strip():
        return "line 1: the file has no row"
    if builder == "csv":
        reason = _diagnose_csv(lines)
    else:
        reason = _diagnose_array(text) if text.lstrip().startswith("[") else _diagnose_json_lines(lines)
    return reason or f"line 1: cannot be read ({_root_cause(error)}): check the file's form"


def _diagnose_json_lines(lines: Sequence[str]) -> str | None:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as cause:
            return f"line {number}: not valid JSON ({cause.msg}): the file may have been cut off there"
        if not isinstance(row, dict):
            return f"line {number}: not a JSON object: each line must be one article"
        if any(isinstance(value, str) and not _is_unicode(value) for value in row.values()):
            return f"line {number}: half of a surrogate pair is not a character: write the text in UTF-8"
    return None


def _diagnose_array(text: str) -> str | None:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as cause:
        return f"line {cause.lineno}: not valid JSON ({cause.msg}): the file may have been cut off there"
    if not rows:
        return "line 1: the file has no row"
    if other := [i for i, row in enumerate(rows, start=1) if not isinstance(row, dict)]:
        return f"row {other[0]}: not a JSON object: each element must be one article"
    return None


def _diagnose_csv(lines: Sequence[str]) -> str | None:
    rows = csv.reader(lines, strict=True)
    try:
        width, count = len(next(rows)), 0
        for row in filter(None, rows):  # blank lines are no rows
            if len(row) != width:
                return f"line {rows.line_num}: {len(row)} fields instead of {width}"
            count += 1
    except csv.Error as cause:
        return f"line {rows.line_num}: not valid CSV ({cause}): the file may have been cut off there"
    return None if count else "line 1: the file has no row"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _place(path: Path | None, row: int) -> str:
    """The line of the row with this number, where a row is a line; else the row's number."""
    if path is None or _BUILDERS[_ending(path)] != "json":
        return f"row {row}"
    numbers = [number for number, line in enumerate(_lines(path), start=1) if line.strip()]
    return f"line {numbers[row - 1]}" if row <= len(numbers) else f"row {row}"


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, gunzipped where its name says so."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        yield from file


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]
