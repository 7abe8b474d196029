"""Rows of a JSON or CSV file, read line by line: no more of a file than is asked for, and a fault has its true line.

`datasets` would read these files too, but it gives every column one type from its first 10 MB, and breaks where a
later value has another, in columns that nobody needs; and it moves all columns of a CSV file by one where its rows have
a field more than its header.
"""

import csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

from udaciheadline.records import UsageError

Row = tuple[str, dict[str, Any]]
"""Where a row stands ("line 3"), and its fields by name."""
Entry = tuple[str, dict[str, Any] | UsageError]
"""The same, or why that row cannot be read: those behind it can."""

csv.field_size_limit(2**24)  # characters; a whole article may be longer than the module's 128 Ki
_NO_CHARACTER = re.compile("[\udc80-\udcff]")  # what "surrogateescape" makes of a byte that is not UTF-8


class Text:
    """The lines of a UTF-8 text with their ends, read as they are asked for; of a file, gunzipped where its name says
    so. `source` is what messages call it. A byte that is not UTF-8 is half of a surrogate pair in its line."""

    def __init__(self, file: Path | BinaryIO, source: str) -> None:
        self.source = source
        self._file = file
        self._raw: BinaryIO | None = None  # the open file, as it is on disk

    def __iter__(self) -> Iterator[str]:
        """Raises UsageError, naming the line, where the file cannot be read any further."""
        number = 0
        try:
            with self._file.open("rb") if isinstance(self._file, Path) else nullcontext(self._file) as self._raw:
                zipped = isinstance(self._file, Path) and self._file.suffix.lower() == ".gz"
                lines = gzip.GzipFile(fileobj=self._raw) if zipped else self._raw
                for number, line in enumerate(lines, start=1):
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape")
        except (EOFError, OSError, zlib.error) as error:
            reason = f"cannot be read ({error}): the file may be cut off or not readable"
            raise UsageError(f"{self.source}, line {number + 1}: {reason}") from error

    def share(self) -> float | None:
        """How much of the file has been read, from 0 to 1; None where that is not known."""
        if not isinstance(self._file, Path) or self._raw is None:
            return None
        return 1.0 if self._raw.closed else self._raw.tell() / max(os.fstat(self._raw.fileno()).st_size, 1)

    def begins_with_csv(self) -> bool:
        """Whether what comes first is no JSON: of a stream that can be looked into."""
        beginning: bytes = self._file.peek(64)  # type: ignore[union-attr]
        return beginning.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] not in (b"{", b"[", b"")

    def fault(self, text: str, number: int) -> UsageError | None:
        """What is wrong with the bytes of a text that begins in line `number`, or None."""
        if text.isascii() or (found := _NO_CHARACTER.search(text)) is None:
            return None
        byte = ord(found[0]) & 0xFF
        return UsageError(f"{self.source}, line {number}: byte {byte:#04x} is not UTF-8: convert the file to UTF-8")


def json_rows(text: Text) -> Iterator[Entry]:
    """The objects of JSON lines, or of one array, which is read as a whole. Raises UsageError, naming the line, where
    there is nothing behind it that could be read."""
    lines = enumerate(text, start=1)
    may_be_array = True
    for number, line in lines:
        if not line.strip():
            continue
        if may_be_array and line.lstrip().startswith("["):
            yield from _elements([(number, line), *lines], text)
            return
        may_be_array = False
        yield f"line {number}", text.fault(line, number) or _row(line, number, text.source)


def _row(line: str, number: int, source: str) -> dict[str, Any] | UsageError:
    try:
        row = _parse(line.rstrip(), number, source)  # an error at its end is in this line, not in the next
    except UsageError as error:
        return error
    if isinstance(row, dict):
        return row
    return UsageError(f"{source}, line {number}: not a JSON object: each line must be one article")


def _elements(lines: list[tuple[int, str]], text: Text) -> Iterator[Entry]:
    """The elements of an array that these lines, by their numbers, are."""
    for number, line in lines:
        if fault := text.fault(line, number):
            raise fault
    for number, row in enumerate(_parse("".join(line for _, line in lines), lines[0][0], text.source), start=1):
        place = f"row {number}"
        no_object = UsageError(f"{text.source}, {place}: not a JSON object: each element must be one article")
        yield place, row if isinstance(row, dict) else no_object


def _parse(text: str, first: int, source: str) -> Any:
    """The value of a JSON text that begins in line `first`."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first + error.lineno - 1
        reason = f"not valid JSON ({error.msg}): the file may have been cut off there"
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        line, reason = first, f"not readable as JSON ({error}): take this value out"
    raise UsageError(f"{source}, line {line}: {reason}")


def csv_rows(text: Text) -> Iterator[Entry]:
    """The rows of a comma-separated text below its header, all values text. A row is named by the line in which it
    begins, and is a fault where it has not as many fields as the header. Raises UsageError for the header."""
    # Lines may end as on an old Mac, too.
    pieces = (piece for line in text for piece in io.StringIO(line, newline=""))
    reader = csv.reader(pieces, strict=True)
    columns: dict[str, int] = {}
    width = 0
    while True:
        line = reader.line_num + 1
        cells: list[str] = []
        try:
            cells = next(reader)
            fault = text.fault("".join(cells), line)
        except StopIteration:
            return
        except csv.Error as error:
            cut_off = "end of data" in str(error)
            mend = "the file may have been cut off there" if cut_off else 'write a quote within quotes as ""'
            fault = UsageError(f"{text.source}, line {line}: not valid CSV ({error}): {mend}")
        if not fault and len(cells) <= 1 and not "".join(cells).strip():
            continue  # a blank line is no row
        if not width:
            if fault:
                raise fault
            width = len(cells)
            for separator, name in ((";", "semicolons"), ("\t", "tabs")):
                if width == 1 and separator in cells[0]:
                    raise UsageError(f"{text.source}, line {line}: separated by {name}: convert it to commas")
            columns = {name: cells.index(name) for name in cells}  # of two of one name the first counts
            continue
        if not fault and len(cells) != width:
            fault = UsageError(f"{text.source}, line {line}: {len(cells)} fields instead of {width}")
        yield f"line {line}", fault or {name: cells[i] for name, i in columns.items()}
