"""What goes on at the same time in a job: while the device works on one chunk of articles, this process reads and
tokenises the next, and writes the headlines of the one before.

The device then waits for nothing but the way of tokens between two processes. A chunk is some seconds of work: several
batches, since rows run empty at the end of each chunk, and few enough for memory that does not grow with the file and
for little to be lost when the job is interrupted. The first ones are small, since nothing goes on while they are read.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from udaciheadline.engines.codec import Codec
from udaciheadline.evidence import measure
from udaciheadline.writing.incoming import Chunk, Incoming

CHUNK_SECONDS = 10.0  # of the device
MOST_ARTICLES = 8192  # in a chunk: something of three of them is in memory, and 4 batches of 2,048 are enough
MOST_AT_A_TIME = 2048  # articles that a search tries: on one H100 as many were the fastest, by little


class Engine(Protocol):
    """The worker that has the engine (`workers.worker.Worker`), as far as a job needs it."""

    def renew(self) -> None:
        """Grants the whole time again."""

    def begin(self, method: str, *args: Any) -> None:
        """Begins a call."""

    def end(self) -> Any:
        """Its answer."""


class Out(Protocol):
    """Where lines go (`headlines.HeadlineFile` or `headlines.Stream`)."""

    def append(self, lines: bytes) -> None:
        """Writes whole lines."""

    def remember(self, batch_size: int) -> None:
        """Keeps what was searched for."""


@dataclass(frozen=True)
class _Made:
    """What the engine made of a chunk: the new tokens, its seconds, and how many at a time it were."""

    tokens: list[tuple[int, ...]]
    seconds: float
    batch_size: int


@dataclass(frozen=True)
class Pace:
    """How far a job is at a moment: seconds on a clock, headlines that the engine has made, and its own seconds."""

    seconds: float
    headlines: int
    engine_seconds: float


class _NoMoreArticles(Exception):
    """The articles ended before a search did."""


@dataclass
class Job:
    """The headlines of all articles of `incoming`, written to `out` by `engine`. `progress` is called with the lines
    that were written and the share of the source that this was, if that is known. `ready` is when the first batch was
    through, or the batch size found: an engine prepares what it needs for batches with the first."""

    incoming: Incoming
    engine: Engine
    codec: Codec
    out: Out
    progress: Callable[[int, float | None], None]
    headlines: int = 0
    errors: int = 0
    engine_seconds: float = 0.0  # what the engine says that its part took
    ready: Pace | None = None
    _rate: float | None = None  # headlines a second of the engine, in the last chunk

    def run(self, batch_size: int | None) -> None:
        """Writes them all, so many at a time (None: as many as are fastest). Raises WorkerError and UsageError; what
        was written before are whole lines."""
        try:
            size = batch_size or self._search()
        except _NoMoreArticles:
            return
        if not batch_size:
            self.ready = self.pace()
        previous: Chunk | None = None
        while chunk := self._read(size, previous):  # while the device works on the previous one
            made = self._end(previous)
            if made and not self.ready:
                self.ready = self.pace()
            self._begin(chunk, size)
            self._write(previous, made)
            previous = chunk
        self._write(previous, self._end(previous))

    def pace(self) -> Pace:
        """How far it is."""
        return Pace(time.perf_counter(), self.headlines, self.engine_seconds)

    def _read(self, size: int, previous: Chunk | None) -> Chunk | None:
        """The next chunk, of whole batches, at most twice as many as the previous one: what it takes to read them is
        less than the device takes for half as many. Before an error goes on its way, what that works on is written."""
        batches = round(self._rate * CHUNK_SECONDS / size) if self._rate and previous else 1
        most = 2 * len(previous.lines) // size if previous else 1
        try:
            return self.incoming.chunk(size * max(min(batches, MOST_ARTICLES // size, most), 1))
        except Exception:
            self._write(previous, self._end(previous))
            raise

    def _search(self) -> int:
        """The batch size that is fastest, found with the first articles, whose headlines are as good as any."""
        size, _ = measure.best_batch_size(self._try, MOST_AT_A_TIME)
        self.out.remember(size)
        return size

    def _try(self, size: int) -> tuple[float, int]:
        """Seconds an article in two batches of this size, after a first one that warms up, and the size that fitted."""
        self._at_once(size, size)
        made = self._at_once(2 * size, size)
        return made.seconds / len(made.tokens), made.batch_size

    def _at_once(self, count: int, size: int) -> _Made:
        """The next `count` articles, from their beginning to their end. Raises _NoMoreArticles where there is none."""
        while chunk := self.incoming.chunk(count):
            self._begin(chunk, size)
            made = self._end(chunk)
            self._write(chunk, made)
            if made:
                return made
        raise _NoMoreArticles

    def _begin(self, chunk: Chunk, size: int) -> None:
        if chunk.prompts:
            self.engine.renew()
            self.engine.begin("job", chunk.prompts, size)

    def _end(self, chunk: Chunk | None) -> _Made | None:
        """What the engine made of a chunk that was begun; None of one without a prompt."""
        if chunk is None or not chunk.prompts:
            return None
        made = _Made(*self.engine.end())
        self.engine_seconds += made.seconds
        self.headlines += len(made.tokens)
        self._rate = len(made.tokens) / made.seconds
        return made

    def _write(self, chunk: Chunk | None, made: _Made | None) -> None:
        if chunk is None:
            return
        tokens = iter(made.tokens if made else ())
        lines = []
        for line in chunk.lines:
            headline = self.codec.headline(next(tokens)) if line.has_prompt else None
            lines.append(self.incoming.layout.line(line.head, headline, line.error))
        self.out.append(b"".join(lines))
        self.errors += sum(line.error is not None for line in chunk.lines)
        self.progress(len(lines), chunk.share)
