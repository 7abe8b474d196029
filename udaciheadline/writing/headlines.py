"""What a job writes: a line an article, JSON lines or CSV, appended in whole chunks and found again after an
interruption, whatever that was.

Beside the file stands a note (`HEADLINES.job.json`) while the job is not at its end: with which settings it was begun.
A line begins with the article's own columns, so that each line which is there can be held against the article that it
must be of, and no line is lost, doubled or taken from another file.
"""

import contextlib
import csv
import fcntl
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from udaciheadline.records import UsageError

ENDINGS = {".jsonl": ".jsonl", ".json": ".jsonl", ".csv": ".csv"}


class Layout(Protocol):
    """How an article and its headline stand in a line; `own` are the names of our columns: headline and error."""

    own: tuple[str, str]

    def header(self) -> bytes:
        """What comes before all lines."""

    def head(self, row: Mapping[str, Any]) -> str:
        """The beginning of a line: the article's own columns."""

    def left_out(self, row: Mapping[str, Any]) -> list[str]:
        """The columns that have no place in the line."""

    def line(self, head: str, headline: str | None, error: str | None) -> bytes:
        """The whole line."""

    def is_whole(self, line: bytes) -> bool:
        """Whether a line that ends here is all of it."""


class JsonLines:
    """An object a line."""

    def __init__(self, own: tuple[str, str]) -> None:
        self.own = own

    def header(self) -> bytes:
        """Nothing."""
        return b""

    def head(self, row: Mapping[str, Any]) -> str:
        """The object, not closed."""
        text = json.dumps(row, ensure_ascii=False, default=str)[:-1]
        return f"{text}, " if row else text

    def left_out(self, row: Mapping[str, Any]) -> list[str]:
        """None: each object has its own fields."""
        return []

    def line(self, head: str, headline: str | None, error: str | None) -> bytes:
        """Half of a surrogate pair stays what it was: JSON's escape."""
        own = json.dumps(dict(zip(self.own, (headline, error), strict=True)), ensure_ascii=False)
        return f"{head}{own[1:]}\n".encode("utf-8", "backslashreplace")

    def is_whole(self, line: bytes) -> bool:
        """A line break within a text is written as its escape."""
        return True


class Csv:
    """Comma-separated values below a header; what is not text is written as in JSON."""

    def __init__(self, own: tuple[str, str], columns: Sequence[str]) -> None:
        self.own, self._columns = own, columns

    def header(self) -> bytes:
        """The names of the columns."""
        return f"{_cells([*self._columns, *self.own])}\n".encode()

    def head(self, row: Mapping[str, Any]) -> str:
        """The cells of the columns, and a comma."""
        return f"{_cells([_cell(row.get(name)) for name in self._columns])},"

    def left_out(self, row: Mapping[str, Any]) -> list[str]:
        """Those that are not in the header."""
        return [name for name in row if name not in self._columns]

    def line(self, head: str, headline: str | None, error: str | None) -> bytes:
        """Nothing stands for None."""
        return f"{head}{_cells([headline or '', error or ''])}\n".encode("utf-8", "backslashreplace")

    def is_whole(self, line: bytes) -> bool:
        """Whether no quoted cell is open."""
        return line.count(b'"') % 2 == 0


def _cell(value: Any) -> str:
    if value is None:
        return ""
    is_json = isinstance(value, bool | int | float | list | dict)
    return json.dumps(value, ensure_ascii=False, default=str) if is_json else str(value)


def _cells(values: Sequence[str]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerow(values)  # with "\n" alone, "\r" in a cell would not be quoted
    return text.getvalue()[:-2]


class Stream:
    """Headlines into a pipe: what is written is gone, and a job that ends has nothing to go on from."""

    batch_size: int | None = None

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def resume(self, layout: Layout, heads: Iterable[str]) -> int:
        """Writes the header; nothing is there yet."""
        self.append(layout.header())
        return 0

    def append(self, lines: bytes) -> None:
        """Writes whole lines. Raises BrokenPipeError where nobody reads any more, and else UsageError."""
        try:
            self._stream.write(lines)
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UsageError(f"standard output: it cannot be written ({error.strerror}): make room") from error

    def remember(self, batch_size: int) -> None:
        """There is no place for it."""

    def finish(self) -> None:
        """Nothing is left to do."""

    close = finish


class HeadlineFile:
    """A file of headlines that one job writes, and goes on with where an earlier one of the same `settings` ended.

    Raises UsageError where it cannot be written, another job is at it, or it holds something else: that is replaced
    with `overwrite` only.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], overwrite: bool = False) -> None:
        self._path, self._settings = path, dict(settings)
        self._note = path.with_name(f"{path.name}.job.json")
        self.batch_size: int | None = None  # that an earlier job found
        try:
            self._file = path.open("r+b" if path.exists() else "x+b", buffering=0)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released with the file
        except BlockingIOError:
            raise UsageError(f"{path}: another job is writing it: wait for its end, or give another name") from None
        except OSError as error:
            raise UsageError(f"{path}: it cannot be written ({error.strerror}): give another file") from error
        self._is_new = overwrite or self._is_empty
        if not self._is_new:
            self._require_mine()

    @property
    def _is_empty(self) -> bool:
        return os.fstat(self._file.fileno()).st_size == 0

    def resume(self, layout: Layout, heads: Iterable[str]) -> int:
        """How many articles have their line. `heads` gives the beginnings of the lines that there must be, as they are
        asked for: just these. A line that was cut off is taken away. Raises UsageError for a line of other articles."""
        if self._is_new:
            self._file.truncate(0)  # before the note: that must never stand beside another job's lines
            self._write_note()
        header = layout.header()
        end = count = 0
        expected = iter(heads)
        with self._path.open("rb") as file:
            found = file.read(len(header))
            if not header.startswith(found):
                raise UsageError(f"{self._path}: it has other columns: give another name, or --overwrite")
            if found == header:
                end = len(header)
                for line in _whole_lines(file, layout):
                    head = next(expected, None)
                    if head is None or not line.startswith(head.encode("utf-8", "backslashreplace")):
                        raise UsageError(
                            f"{self._path}: headline {count + 1} in it is of another article than the "
                            f"{count + 1}th that is to be written now: give another name, or --overwrite"
                        )
                    end += len(line)
                    count += 1
        self._file.truncate(end)
        self._file.seek(end)
        if not end:
            self.append(header)
        return count

    def append(self, lines: bytes) -> None:
        """Writes whole lines, all or none of them where there is no room: then it raises UsageError."""
        end = self._file.tell()
        try:
            rest = memoryview(lines)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(end)
            mend = "make room, and give the same command again: it goes on there"
            raise UsageError(f"{self._path}: it cannot be written ({error.strerror}): {mend}") from error

    def remember(self, batch_size: int) -> None:
        """Keeps what was searched for, for the job that goes on after an interruption."""
        self.batch_size = batch_size
        self._write_note()

    def finish(self) -> None:
        """All lines are there: the note goes."""
        self._note.unlink()

    def close(self) -> None:
        """Gives the file free; one that nothing was written to goes."""
        if self._is_empty and not self._note.exists():
            self._path.unlink()
        self._file.close()

    def _require_mine(self) -> None:
        mend = "give another name, or --overwrite"
        try:
            note = json.loads(self._note.read_text("utf-8"))
            settings, self.batch_size = dict(note["settings"]), note["batch_size"]
        except FileNotFoundError:
            raise UsageError(f"{self._path}: it exists, and no job is to be gone on with there: {mend}") from None
        except (OSError, ValueError, KeyError, TypeError):
            raise UsageError(f"{self._note}: it is no job's note that can be read: {mend}") from None
        for name, value in self._settings.items():
            if settings.get(name) != value:
                raise UsageError(
                    f"{self._path}: it was begun with {name} {settings.get(name)} instead of {value}: give that, or "
                    "another name, or --overwrite"
                )

    def _write_note(self) -> None:
        unfinished = self._note.with_suffix(".tmp")
        unfinished.write_text(json.dumps({"settings": self._settings, "batch_size": self.batch_size}), "utf-8")
        unfinished.replace(self._note)


def _whole_lines(file: BinaryIO, layout: Layout) -> Iterator[bytes]:
    """The lines that have their end; a text within one of them may have line breaks."""
    line = b""
    for piece in file:
        line += piece
        if piece.endswith(b"\n") and layout.is_whole(line):
            yield line
            line = b""
