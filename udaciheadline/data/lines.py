"""Rows of a JSON or CSV file, read line by line: no more of a file than is asked for, and a fault has its true line.

`datasets` would read these files too, but it gives every column one type from its first 10 MB, and breaks where a
later value has another, in columns that nobody needs; and it moves all columns of a CSV file by one where its rows have
a field more than its header.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from udaciheadline.records import UsageError

Row = tuple[str, dict[str, Any]]
"""Where a row stands ("line 3"), and its fields by name."""

csv.field_size_limit(2**24)  # characters; a whole article may be longer than the module's 128 Ki


def json_rows(path: Path, source: str) -> Iterator[Row]:
    """The objects of JSON lines, or of one array. Raises UsageError, naming `source` and the line."""
    lines = _lines(path, source)
    may_be_array = True
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if may_be_array and line.lstrip().startswith("["):
            yield from _elements(line + "".join(lines), number, source)
            return
        may_be_array = False
        row = _parse(line, number, source)
        if not isinstance(row, dict):
            raise UsageError(f"{source}, line {number}: not a JSON object: each line must be one article")
        yield f"line {number}", row


def _elements(text: str, first: int, source: str) -> Iterator[Row]:
    """The elements of an array that begins in line `first`."""
    for number, row in enumerate(_parse(text, first, source), start=1):
        if not isinstance(row, dict):
            raise UsageError(f"{source}, row {number}: not a JSON object: each element must be one article")
        yield f"row {number}", row


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


def csv_rows(path: Path, source: str) -> Iterator[Row]:
    """The rows of a comma-separated file below its header, all values text. Raises UsageError, naming `source` and the
    line in which a row begins, where a row has not as many fields as the header."""
    # Lines may end as on an old Mac, too.
    pieces = (piece for line in _lines(path, source) for piece in io.StringIO(line, newline=""))
    reader = csv.reader(pieces, strict=True)
    columns: dict[str, int] = {}
    width = 0
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            cut_off = "end of data" in str(error)
            mend = "the file may have been cut off there" if cut_off else 'write a quote within quotes as ""'
            raise UsageError(f"{source}, line {line}: not valid CSV ({error}): {mend}") from error
        if len(cells) <= 1 and not "".join(cells).strip():
            continue  # a blank line is no row
        if not width:
            width = len(cells)
            for separator, name in ((";", "semicolons"), ("\t", "tabs")):
                if width == 1 and separator in cells[0]:
                    raise UsageError(f"{source}, line {line}: separated by {name}: convert it to commas")
            columns = {name: cells.index(name) for name in cells}  # of two of one name the first counts
        elif len(cells) != width:
            raise UsageError(f"{source}, line {line}: {len(cells)} fields instead of {width}")
        else:
            yield f"line {line}", {name: cells[i] for name, i in columns.items()}


def _lines(path: Path, source: str) -> Iterator[str]:
    """The lines of a UTF-8 file with their ends, gunzipped where its name says so."""
    number = 0
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        found = f"byte {error.object[error.start]:#04x}"
        raise UsageError(f"{source}, line {number}: {found} is not UTF-8: convert the file to UTF-8") from error
    except (EOFError, OSError, zlib.error) as error:
        reason = f"cannot be read ({error}): the file may be cut off or not readable"
        raise UsageError(f"{source}, line {number + 1}: {reason}") from error
