"""Rows beside themselves in other code (`--against`), in turn with which they are measured."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from fake_workers import ONLINE, FakeWorker, asked, row_of

from udaciheadline.session.row import Row
from udaciheadline.techniques import REFERENCE, Technique
from udaciheadline.workers.worker import WorkerError

OFFLINE = replace(ONLINE, name="offline", title="Offline", offline=True)


@pytest.fixture(autouse=True)
def slower_there(worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch) -> None:
    """The other code takes twice as long."""

    def generate(self: FakeWorker, *job: Any) -> Any:
        made = FakeWorker.generate(self, *job)
        return [replace(one, seconds=2.0 if self.hosts == ("there",) else 1.0) for one in made]

    monkeypatch.setattr(worker, "generate", generate)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The techniques of these rows are found by their names."""
    known = {technique.name: technique for technique in (ONLINE, OFFLINE, replace(ONLINE, name=REFERENCE))}
    monkeypatch.setattr("udaciheadline.session.run.techniques", lambda: known)


def beside(technique: Technique = ONLINE, launches: int = 2, articles: int = 4) -> Row:
    """A row of a session that has other code."""
    run = row_of(technique, articles=articles).run
    run.against, run.launches = SimpleNamespace(host="there", close=lambda: None), launches  # type: ignore[assignment]
    return Row(run, technique)


def engines(worker: type[FakeWorker], hosts: Any = ("there",)) -> list[FakeWorker]:
    return [fake for fake in worker.started if fake.hosts == hosts]


def test_each_launch_has_a_process_of_the_other_code_which_answers_its_articles(worker: type[FakeWorker]) -> None:
    row = beside()
    row.finish_rounds()
    assert [fake.name for fake in engines(worker)] == ["online", "online"]
    assert [asked(fake)[-2:] for fake in engines(worker)] == [row.run.prompts[:2], row.run.prompts[2:]]


def test_what_both_took_and_wrote_is_in_the_record(worker: type[FakeWorker]) -> None:
    row = beside()
    row.finish_rounds()
    found = row.record().other_code
    assert found is not None
    assert (found.log_ratios, found.job_log_ratios, found.weights_bytes) == ((math.log(2),) * 4, (), 120)
    assert len(found.rouge1) == len(found.rouge1_now) == len(found.nll) == 4


def test_a_row_beside_itself_is_in_no_other_figure(worker: type[FakeWorker]) -> None:
    row = beside()
    row.finish_rounds()
    record = row.record()
    assert record.in_turn == ()
    assert "online (--against)" not in record.speed_up_over


def test_other_code_that_fails_loses_the_comparison_and_not_the_row(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(self: FakeWorker, prompt: str) -> Any:
        if self.hosts == ("there",):
            raise WorkerError("crash", "it is another version")
        return FakeWorker.answer(self, prompt)

    monkeypatch.setattr(worker, "answer", answer)
    row = beside()
    row.finish_rounds()
    record = row.record()
    assert (record.status, record.other_code) == ("ok", None)
    assert record.not_compared == {"online (--against)": "crash: it is another version"}


def test_other_code_that_knows_no_likelihood_loses_the_comparison_and_not_the_row(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    def likelihood(self: FakeWorker, prompts: list[str], completions: list[str]) -> list[float]:
        if self.hosts == ("there",):
            raise WorkerError("crash", "AttributeError: likelihood")
        return FakeWorker.likelihood(self, prompts, completions)

    monkeypatch.setattr(worker, "likelihood", likelihood)
    row = beside()
    row.finish_rounds()
    record = row.record()
    assert (record.status, record.other_code) == ("ok", None)
    assert record.not_compared == {"online (--against)": "crash: AttributeError: likelihood"}


def test_jobs_of_an_offline_row_are_written_by_both_in_each_launch(worker: type[FakeWorker]) -> None:
    row = beside(OFFLINE)
    row.play_job(row.batch_size)
    for _ in range(row.job_launches):
        row.next_job()
        row.play_job(row.batch_size)
    found = row.record().other_code
    assert found is not None
    assert (found.log_ratios, found.job_log_ratios) == ((), (math.log(2),) * 2)
    assert [fake.name for fake in engines(worker)] == ["offline", "offline"]


def test_an_offline_row_with_one_launch_is_not_compared_and_says_why(worker: type[FakeWorker]) -> None:
    row = beside(OFFLINE, launches=1)
    row.play_job(row.batch_size)
    row.next_job()
    row.play_job(row.batch_size)
    record = row.record()
    assert record.other_code is None
    assert "give more --launches" in record.not_compared["offline (--against)"]


def test_an_offline_row_whose_other_code_fails_in_a_later_launch_is_not_compared_and_says_why(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = beside(OFFLINE)
    row.play_job(row.batch_size)
    row.next_job()
    row.play_job(row.batch_size)

    def ask(name: str, *job: Any) -> Any:
        if name.endswith("(--against)"):
            raise WorkerError("crash", "it is gone")
        return asked_before(name, *job)

    asked_before = row.run.ask
    monkeypatch.setattr(row.run, "ask", ask)
    row.next_job()
    row.play_job(row.batch_size)
    record = row.record()
    assert (record.other_code, record.not_compared) == (None, {"offline (--against)": "crash: it is gone"})


def test_without_other_code_there_is_nothing_beside_a_row(worker: type[FakeWorker]) -> None:
    row = row_of(ONLINE)
    row.finish_rounds()
    assert row.record().other_code is None
    assert not engines(worker)
