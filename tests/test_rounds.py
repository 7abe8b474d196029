"""Who answers when in a row's timed rounds, with workers that answer as a test wants them to."""

from dataclasses import replace
from typing import Any

import pytest
from fake_workers import ONLINE, FakeWorker, row_of, worker_of

from udaciheadline.row import Row, RowFailed
from udaciheadline.techniques import REFERENCE, Technique
from udaciheadline.workers import WorkerError

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


# -- one rank beside several ------------------------------------------------------------------------------------------


def on_compiled(worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch) -> Row:
    """A parallel row on the compiled engine, which one rank runs as well, at half the speed."""
    monkeypatch.setattr("udaciheadline.techniques._technique._has_compiler", lambda: True)
    row = row_of(PARALLEL, articles=4)
    monkeypatch.setattr(worker_of(row), "seconds", {1: 0.5})
    return row


def asked(worker: FakeWorker) -> list[str]:
    """The prompts that it was given one by one."""
    return [args[0][0] for method, args in worker.calls if method == "generate" and len(args[0]) == 1]


def test_one_rank_answers_in_turn_with_a_parallel_row(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = on_compiled(worker, monkeypatch)
    assert row.record().speed_up_over == {}
    row.finish_rounds()
    (alone,) = (fake for fake in worker.started if fake.name == "compiled")
    assert asked(alone) == asked(worker_of(row)) == row.run.prompts * 2  # the first time to warm up
    over = row.record().speed_up_over["compiled"]
    assert (over.value, over.low, over.high) == pytest.approx((2.0, 2.0, 2.0))


def test_one_rank_ends_when_a_row_begins_that_is_not_compared_with_it(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = on_compiled(worker, monkeypatch)
    row.finish_rounds()
    closed: list[str] = []
    monkeypatch.setattr(worker, "close", lambda self: closed.append(self.name))
    Row(row.run, row.technique)
    assert closed == []
    Row(row.run, ONLINE)
    assert closed == ["compiled"]
    row.run.close()
    assert closed == ["compiled", REFERENCE]


def let_one_rank_fail(worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    def generate(self: FakeWorker, *job: Any) -> Any:
        if self.name == "compiled":
            raise WorkerError(status, "its layers are too many")
        return FakeWorker.generate(self, *job)

    monkeypatch.setattr(worker, "generate", generate)


def test_a_model_that_one_rank_cannot_run_so_is_not_compared_with_it(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = on_compiled(worker, monkeypatch)
    let_one_rank_fail(worker, monkeypatch, "skipped")
    row.finish_rounds()
    record = row.record()
    assert (record.status, record.speed_up_over) == ("ok", {})
    assert record.measurement is not None


def test_one_rank_that_fails_ends_the_row_and_is_named(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = on_compiled(worker, monkeypatch)
    let_one_rank_fail(worker, monkeypatch, "crash")
    with pytest.raises(RowFailed, match="parallel: crash: compiled, beside it: its layers are too many"):
        row.finish_rounds()
