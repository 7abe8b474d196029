"""Where rows come from: a file, standard input, the embedded sample or a dataset on the hub, read one after the other.

A row that cannot be read is a `Fault` in its place: whoever measures stops there (`strict`), a job goes on behind it.
"""

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO

from udaciheadline.data import lines, tables
from udaciheadline.data.lfs import is_lfs_pointer
from udaciheadline.data.lines import Entry, Row
from udaciheadline.records import UsageError

EMBEDDED = "embedded"
STREAM = "-"
JSON = (".jsonl", ".json")
_ENDINGS = ".jsonl, .json, .csv (each also .gz) or .parquet"
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")  # what cutting a text in the middle of an emoji leaves


@dataclass(frozen=True)
class Source:
    """A dataset that is being read, once. `rows` are read as they are asked for; `share` says how much of it has been,
    from 0 to 1 (None: nobody knows how long it is), and `ahead` how many rows were when the first is asked for. `kind`
    is ".jsonl" or ".csv" of text, ".parquet" or "hub" of tables, all of whose rows have the same fields."""

    kind: str
    rows: Iterator[Entry]
    share: Callable[[], float | None]
    ahead: int = 0

    @property
    def has_header(self) -> bool:
        """Whether all rows have the fields of the first."""
        return self.kind != ".jsonl"


def open_source(source: str, wanted: Collection[str] | None = None, stream: BinaryIO | None = None) -> Source:
    """What `source` means: "embedded", a file, a hub dataset's `train` split, or the `stream` where "-" may stand for
    one (standard input), which is CSV unless it begins as JSON does. Of a table only the `wanted` columns are decoded
    (None: all). Raises UsageError where there is no such thing, and in the midst of its rows where they end there."""
    if stream is not None and source == STREAM:
        text = lines.Text(stream, "standard input")
        return _of_text(text, ".csv" if text.begins_with_csv() else ".jsonl")
    path = _locate(source)
    if path is None:
        return Source("hub", tables.hub_rows(source, wanted), lambda: None)
    if ending(path) == ".parquet":
        return Source(".parquet", *tables.parquet_rows(path, source, wanted))
    return _of_text(lines.Text(path, source), ".csv" if ending(path) == ".csv" else ".jsonl")


def _of_text(text: lines.Text, kind: str) -> Source:
    return Source(kind, lines.csv_rows(text) if kind == ".csv" else lines.json_rows(text), text.share)


def strict(rows: Iterator[Entry]) -> Iterator[Row]:
    """The rows up to the first that cannot be read. Raises UsageError there."""
    for place, row in rows:
        if isinstance(row, UsageError):
            raise row
        yield place, row


def require(columns: dict[str, str], names: Collection[str], source: str) -> None:
    """Raises UsageError where a column, given by the option that names it, is none of these names."""
    for option, column in columns.items():
        if column not in names:
            found = ", ".join(names)
            raise UsageError(f"{source}, line 1: no field {column!r} (found: {found}): name yours with {option}")


def ending(path: Path) -> str:
    """The ending of a file's name, without that of gzip, in small letters."""
    return next((suffix for suffix in reversed(path.suffixes) if suffix.lower() != ".gz"), "").lower()


def _locate(source: str) -> Path | None:
    """The file that `source` means, or None where it can only be a hub id."""
    if source == EMBEDDED:
        return Path(str(files("udaciheadline.data") / "embedded.jsonl"))
    path = Path(source)
    is_known = ending(path) in (*JSON, ".csv", ".parquet")
    if not path.exists() and not is_known and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):
        return None
    if not path.is_file():
        raise UsageError(f"{source}: there is no such file: give the path of a {_ENDINGS} file or a hub id")
    if not is_known:
        raise UsageError(f"{source}: unknown file ending {ending(path)!r}: give a {_ENDINGS} file")
    if path.stat().st_size == 0:
        raise UsageError(f"{source}, line 1: the file is empty")
    try:
        is_pointer = is_lfs_pointer(path)
    except OSError as error:
        raise UsageError(f"{source}: cannot be read ({error.strerror}): give a file that can be") from error
    if is_pointer:
        raise UsageError(f"{source}: git-lfs's pointer to the file and not the file itself: fetch it with git lfs pull")
    return path


def text(row: dict[str, Any], column: str, place: str) -> str:
    """The text in a column of a row, stripped, "" where there is none. Raises UsageError where it is not text."""
    if not isinstance(value := row.get(column), str | None):
        raise UsageError(f"{place}: field {column!r} is of type {type(value).__name__}: it must be text")
    if _HALF_A_PAIR.search(value or ""):
        raise UsageError(
            f"{place}: field {column!r} has half of a surrogate pair, which is no character: write it in UTF-8"
        )
    return (value or "").strip()


def characters(value: object) -> str:
    """The value as text, with "?" for half of a surrogate pair."""
    return _HALF_A_PAIR.sub("?", str(value))
