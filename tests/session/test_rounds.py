"""Who answers when in a row's timed rounds, with workers that answer as a test wants them to."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from fake_workers import ONLINE, FakeWorker, row_of, worker_of

from udaciheadline.session.row import Row, RowFailed
from udaciheadline.techniques import REFERENCE, Technique
from udaciheadline.workers.worker import WorkerError

PARALLEL = replace(ONLINE, name="parallel", title="Parallel", parallel=True, engines=("compiled",))


@pytest.mark.parametrize("technique", [ONLINE, replace(ONLINE, name=REFERENCE)], ids=["a technique", "the reference"])
def test_the_reference_answers_before_even_rounds_and_after_odd_ones_with_a_pause_where_engines_take_turns(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch, technique: Technique
) -> None:
    events: list[str] = []

    def generate(self: FakeWorker, prompts: list[str]) -> Any:
        events.append("the row" if self is row._worker else "the reference")
        return FakeWorker.generate(self, prompts)

    monkeypatch.setattr(worker, "generate", generate)
    monkeypatch.setattr("time.sleep", lambda seconds: events.append("a pause"))
    row = row_of(technique, articles=2)
    row.finish_rounds()
    warming_up, even, odd = ["the row"] * 2, ["the reference"] * 3, ["the row", "a pause", "the reference"]
    assert events == [*warming_up, "a pause", *even, "a pause", "the row", *odd]


# -- another row beside the reference --------------------------------------------------------------------------------


@pytest.fixture
def parallel(worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch) -> Row:
    """A parallel row on the compiled engine, at twice the speed of all others."""
    monkeypatch.setattr("udaciheadline.techniques._technique._has_compiler", lambda: True)
    row = row_of(PARALLEL, articles=4)
    monkeypatch.setattr(worker_of(row), "seconds", {1: 0.5})
    return row


def asked(worker: FakeWorker) -> list[str]:
    """The prompts that it was given one by one."""
    return [args[0][0] for method, args in worker.calls if method == "generate" and len(args[0]) == 1]


def test_one_rank_answers_in_turn_with_a_parallel_row(worker: type[FakeWorker], parallel: Row) -> None:
    assert parallel.record().speed_up_over == {}
    parallel.finish_rounds()
    (alone,) = (fake for fake in worker.started if fake.name == "compiled")
    assert asked(alone) == asked(worker_of(parallel)) == parallel.run.prompts * 2  # the first time to warm up
    over = parallel.record().speed_up_over["compiled"]
    assert (over.value, over.low, over.high) == pytest.approx((2.0, 2.0, 2.0))


def test_the_row_whose_tokens_a_technique_repeats_answers_in_turn_with_it(worker: type[FakeWorker]) -> None:
    row = row_of(replace(ONLINE, exact_to="baseline"), articles=4)
    row.finish_rounds()
    assert [fake.name for fake in worker.started] == ["online", REFERENCE, "baseline"]
    assert row.record().speed_up_over["baseline"].value == 1.0


def test_the_other_row_is_always_next_to_the_technique(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch, parallel: Row
) -> None:
    events: list[str] = []

    def generate(self: FakeWorker, prompts: list[str]) -> Any:
        events.append(self.name)
        return FakeWorker.generate(self, prompts)

    monkeypatch.setattr(worker, "generate", generate)
    parallel.finish_rounds()
    turns = [name for name, after in pairwise([*events, ""]) if name != after]  # without those who warm up
    even_then_odd = ["compiled", "parallel", "compiled"]
    assert turns == ["parallel", REFERENCE, *even_then_odd, REFERENCE, *even_then_odd, REFERENCE]


def test_the_other_row_ends_with_the_rounds(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch, parallel: Row
) -> None:
    closed: list[str] = []
    monkeypatch.setattr(worker, "close", lambda self: closed.append(self.name))
    parallel.finish_rounds()
    assert closed == ["compiled"]
    parallel.close()
    parallel.run.close()
    assert closed == ["compiled", "parallel", REFERENCE]


def test_the_other_row_ends_with_a_row_whose_rounds_were_not_finished(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch, parallel: Row
) -> None:
    closed: list[str] = []
    monkeypatch.setattr(worker, "close", lambda self: closed.append(self.name))
    for _ in range(5):
        parallel.play_round(parallel.next_round())
    parallel.close()
    assert closed == ["compiled", "parallel"]


@pytest.mark.parametrize("status", ["skipped", "oom", "crash", "timeout"])
def test_where_the_other_row_fails_nothing_but_the_comparison_is_lost(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch, parallel: Row, status: str
) -> None:
    def generate(self: FakeWorker, *job: Any) -> Any:
        if self.name == "compiled":
            raise WorkerError(status, "it is too large")
        return FakeWorker.generate(self, *job)

    monkeypatch.setattr(worker, "generate", generate)
    parallel.finish_rounds()
    record = parallel.record()
    assert (record.status, record.speed_up_over) == ("ok", {})
    assert record.not_compared == {"compiled": f"{status}: it is too large"}
    assert record.measurement is not None


def test_another_row_that_cannot_run_here_is_not_started(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("udaciheadline.techniques._technique._has_compiler", lambda: False)
    row = row_of(PARALLEL, articles=2)
    row.finish_rounds()
    assert [fake.name for fake in worker.started] == ["parallel", REFERENCE]
    assert row.record().not_compared["compiled"].startswith("it needs a C++ compiler")


def test_a_row_that_is_skipped_has_no_comparison_to_miss(worker: type[FakeWorker]) -> None:
    record = row_of(replace(ONLINE, exact_to="target", needs_target=True)).record()
    assert (record.status, record.not_compared) == ("skipped", {})


def test_a_reference_that_fails_ends_the_row_and_is_named(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate(self: FakeWorker, *job: Any) -> Any:
        if self.name == REFERENCE:
            raise WorkerError("crash", "it fell over")
        return FakeWorker.generate(self, *job)

    monkeypatch.setattr(worker, "generate", generate)
    with pytest.raises(RowFailed, match="online: crash: the reference engine: it fell over"):
        row_of(ONLINE).finish_rounds()
