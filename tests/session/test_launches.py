"""A row whose rounds are divided over several fresh processes."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from fake_workers import ONLINE, FakeWorker, asked, row_of

from udaciheadline.session.row import Row, RowFailed
from udaciheadline.session.run import MOST_RESTING
from udaciheadline.techniques import REFERENCE
from udaciheadline.workers.worker import WorkerError


def launched(launches: int | None, articles: int = 6, **changes: Any) -> Row:
    """A row of a session that asks for so many launches; a round costs two seconds."""
    row = row_of(replace(ONLINE, **changes), articles=articles)
    row.run.launches = launches
    return row


def test_the_rounds_are_divided_over_processes_of_the_row_and_of_all_it_is_compared_with(
    worker: type[FakeWorker],
) -> None:
    row = launched(3, exact_to="baseline")
    row.finish_rounds()
    for name in ("online", REFERENCE, "baseline"):
        answered = [asked(fake)[-2:] for fake in worker.started if fake.name == name]
        assert [prompt for prompts in answered for prompt in prompts] == row.run.prompts
    record = row.record()
    assert record.measurement is not None
    assert record.measurement.launches == 3
    assert len(row.generations) == len(row.reference_generations) == 6


def test_the_processes_of_the_reference_are_the_same_in_the_next_row(worker: type[FakeWorker]) -> None:
    row = launched(3)
    row.finish_rounds()
    again = Row(row.run, ONLINE)
    again.finish_rounds()
    references = [fake for fake in worker.started if fake.name == REFERENCE]
    assert len(references) == 3
    assert [asked(fake)[-2:] for fake in references] == [row.run.prompts[i : i + 2] for i in (0, 2, 4)]


def test_as_many_launches_as_are_ours_to_choose_find_the_same_processes_of_the_reference(
    worker: type[FakeWorker],
) -> None:
    row = launched(MOST_RESTING + 1, articles=MOST_RESTING + 1)
    row.finish_rounds()
    Row(row.run, ONLINE).finish_rounds()
    assert len([fake for fake in worker.started if fake.name == REFERENCE]) == MOST_RESTING + 1


def test_a_reference_that_needs_the_memory_starts_anew_for_each_launch(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "rests", False)
    row = launched(3)
    row.finish_rounds()
    Row(row.run, ONLINE).finish_rounds()
    assert len([fake for fake in worker.started if fake.name == REFERENCE]) == 6


def test_no_more_processes_of_the_reference_rest_than_are_allowed(worker: type[FakeWorker]) -> None:
    row = launched(8, articles=8)
    row.finish_rounds()
    assert len(row.run._resting) == MOST_RESTING


def test_processes_that_rest_end_with_the_session(worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[FakeWorker] = []
    monkeypatch.setattr(worker, "close", lambda self: closed.append(self))
    row = launched(3)
    row.finish_rounds()
    row.close()
    row.run.close()
    assert set(closed) == set(worker.started)


def test_each_launch_warms_up_before_it_is_timed(worker: type[FakeWorker]) -> None:
    row = launched(3)
    row.finish_rounds()
    assert [len(asked(fake)) for fake in worker.started if fake.name == "online"] == [1 + 1 + 2] * 3


def test_each_launch_begins_with_a_round_that_is_not_timed_in_the_order_of_its_first(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    answered: list[str] = []

    def answer(self: FakeWorker, prompt: str) -> Any:
        answered.append(self.name)
        return FakeWorker.answer(self, prompt)

    monkeypatch.setattr(worker, "answer", answer)
    row = launched(2, articles=4)
    row.finish_rounds()
    untimed, first, second = [REFERENCE, "online"], [REFERENCE, "online"], ["online", REFERENCE]
    assert answered == [*untimed, *first, *second] * 2
    assert len(row.generations) == len(row.reference_generations) == 4


def test_where_there_is_one_launch_all_answers_are_timed(worker: type[FakeWorker]) -> None:
    row = launched(1, articles=4)
    row.finish_rounds()
    assert [len(asked(fake)) for fake in worker.started] == [1 + 4] * 2


def test_all_launches_together_have_the_time_out_of_the_row(worker: type[FakeWorker]) -> None:
    row = launched(3)
    row.finish_rounds()
    assert [fake.timeout for fake in worker.started if fake.name == "online"] == [600, 550, 500]


def test_a_launch_that_fails_ends_the_row(worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch) -> None:
    row = launched(2)
    row.warm_up()

    def start(self: FakeWorker, *args: Any) -> None:
        raise WorkerError("oom", "it does not fit")

    monkeypatch.setattr(worker, "__init__", start)
    with pytest.raises(RowFailed, match="online: oom: it does not fit"):
        row.finish_rounds()


def test_there_are_no_more_launches_than_articles(worker: type[FakeWorker]) -> None:
    row = launched(5, articles=2)
    row.finish_rounds()
    assert row.record().measurement.launches == 2  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("build_seconds", "launches"),
    [pytest.param(1.0, 5, id="cheap"), pytest.param(5.0, 3, id="dear"), pytest.param(60.0, 3, id="fewer say nothing")],
)
def test_without_a_number_there_are_as_many_launches_as_are_worth_their_time(
    worker: type[FakeWorker], clock: SimpleNamespace, build_seconds: float, launches: int
) -> None:
    """Half of what 10 rounds of two seconds take may go to further launches."""
    row = launched(None, articles=10)
    row._engine.build_seconds = build_seconds
    row.finish_rounds()
    assert row.record().measurement.launches == launches  # type: ignore[union-attr]
