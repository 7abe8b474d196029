"""What goes on at the same time in a job, how many articles at a time, and that it ends where it should."""

import json
import tracemalloc
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fake_jobs import OWN, Characters, Lines, Shouting, incoming

from udaciheadline.data.sources import Source
from udaciheadline.engines.codec import Codec
from udaciheadline.records import UsageError
from udaciheadline.writing import job as module
from udaciheadline.writing.headlines import HeadlineFile
from udaciheadline.writing.job import Job


def source(count: int, bad: tuple[int, ...] = ()) -> Source:
    """So many articles, some of which cannot be read."""

    def rows() -> Iterator[tuple[str, Any]]:
        for n in range(count):
            yield f"line {n}", UsageError("torn") if n in bad else {"id": n, "text": f"text {n}"}

    return Source(".jsonl", rows(), lambda: None)


def job(articles: Source, engine: Shouting, out: Any, **options: Any) -> Job:
    return Job(incoming(articles, **options), engine, Codec(Characters(), "none"), out, lambda *_: None)


def headlines(text: bytes) -> list[str | None]:
    return [json.loads(line)[OWN[0]] for line in text.splitlines()]


def expected(count: int) -> list[str]:
    return [f"TEXT {n}" for n in range(count)]


@pytest.mark.parametrize("size", [1, 7, 64, None])
@pytest.mark.parametrize("count", [0, 1, 100, 300])
def test_every_article_has_its_own_headline_in_its_place(size: int | None, count: int) -> None:
    out = Lines()
    made = job(source(count), Shouting(), out)
    made.run(size)
    assert headlines(out.text) == expected(count)
    assert (made.headlines, made.errors) == (count, 0)


def test_articles_with_errors_keep_their_place_even_where_a_whole_chunk_has_nothing_else() -> None:
    bad = (0, *range(8, 17), 29)
    out = Lines()
    made = job(source(30, bad), Shouting(), out)
    made.run(4)
    assert headlines(out.text) == [None if n in bad else f"TEXT {n}" for n in range(30)]
    assert (made.headlines, made.errors) == (19, 11)


def test_a_search_goes_on_over_articles_that_cannot_be_read() -> None:
    out = Lines()
    job(source(500, tuple(range(100))), Shouting(), out).run(None)
    assert headlines(out.text) == [None] * 100 + expected(500)[100:]


def test_the_next_chunk_is_read_and_the_last_one_written_while_the_engine_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_ARTICLES", 4)
    events: list[Any] = []

    def rows() -> Iterator[tuple[str, Any]]:
        for n in range(12):
            events.append(("read", n))
            yield f"line {n}", {"text": "t"}

    job(Source(".jsonl", rows(), lambda: None), Shouting(events), Lines(events)).run(4)
    kinds = [kind for kind, *_ in events]
    order = [kind for i, kind in enumerate(kinds) if i == 0 or kinds[i - 1] != kind]
    assert order == ["read", "begin", "read", "end", "begin", "write", "read", "end", "begin", "write", "end", "write"]


def test_chunks_grow_to_whole_batches_that_take_some_seconds() -> None:
    engine = Shouting()  # 16 headlines a second
    job(source(1000), engine, Lines()).run(16)
    assert [event[1] for event in engine.events if event[0] == "begin"][:7] == [16, 16, 32, 64, 128, 160, 160]


@pytest.mark.parametrize(("size", "first"), [(16, 16), (None, 3 * (16 + 32 + 64 + 128 + 256))])
def test_an_engine_is_ready_after_its_first_batch_or_the_search(size: int | None, first: int) -> None:
    made = job(source(5000), Shouting(fits=128), Lines())
    made.run(size)
    assert made.ready is not None
    assert made.ready.headlines == first
    assert made.pace().headlines == 5000
    assert made.pace().engine_seconds == made.engine_seconds > made.ready.engine_seconds


def test_a_fast_engine_gets_no_more_than_memory_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ARTICLES", 100)
    engine = Shouting()
    job(source(1000), engine, Lines()).run(32)
    assert max(event[1] for event in engine.events if event[0] == "begin") == 96


def test_the_size_that_is_searched_for_is_the_fastest_and_kept() -> None:
    out, engine = Lines(), Shouting(fits=64)
    job(source(3000), engine, out).run(None)
    assert out.batch_size == 64  # more do not fit
    assert headlines(out.text) == expected(3000)
    assert engine.events[-2][2] == 64


def test_what_the_engine_works_on_is_written_before_an_error_of_the_source_goes_on_its_way() -> None:
    def rows() -> Iterator[tuple[str, Any]]:
        for n in range(10):
            yield f"line {n}", {"text": f"text {n}"}
        raise UsageError("cut off")

    for size in (4, None):
        out = Lines()
        with pytest.raises(UsageError, match="cut off"):
            job(Source(".jsonl", rows(), lambda: None), Shouting(), out).run(size)
        assert headlines(out.text) == expected(10)


def test_a_job_that_is_killed_again_and_again_writes_what_one_writes_that_is_not(tmp_path: Path) -> None:
    def attempt(path: Path, dies_after: int | None, torn: bytes = b"") -> bool:
        articles = incoming(source(400, (3, 77)))
        with closing(HeadlineFile(path, {})) as out:
            out.resume(articles.layout, articles.heads())
            size = out.batch_size
            made = Job(articles, Shouting(dies_after=dies_after), Codec(Characters(), "none"), out, lambda *_: None)
            try:
                made.run(size)
            except KeyboardInterrupt:
                with path.open("ab") as file:
                    file.write(torn)
                return False
            out.finish()
        return True

    assert attempt(tmp_path / "whole.jsonl", None)
    attempts = 0
    while not attempt(tmp_path / "killed.jsonl", 2, b'{"id": 1, "te'):
        attempts += 1
    assert attempts > 2
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


class Nowhere(Lines):
    def append(self, lines: bytes) -> None:
        pass


def test_memory_does_not_grow_with_the_number_of_articles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ARTICLES", 64)

    def peak(count: int) -> int:
        tracemalloc.start()
        try:
            job(source(count), Shouting(deque(maxlen=1)), Nowhere(deque(maxlen=1))).run(16)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(200)  # what is allocated once
    assert peak(8000) < 1.5 * peak(800)
