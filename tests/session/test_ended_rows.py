"""Rows whose worker is killed, whatever it is at; and clocks that jump."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from fake_workers import ONLINE, FakeWorker, row_of

from udaciheadline.session.row import Row, RowFailed
from udaciheadline.techniques import REFERENCE
from udaciheadline.workers import power
from udaciheadline.workers.worker import WorkerError

KILLED = "the worker was killed by SIGKILL"


def kill(patch: pytest.MonkeyPatch, worker: type[FakeWorker], name: str, method: str) -> None:
    """The worker of a technique, as soon as it is asked for this."""
    answer = getattr(worker, method)

    def call(self: FakeWorker, *args: Any) -> Any:
        if self.name == name:
            raise WorkerError("crash", KILLED)
        return answer(self, *args)

    patch.setattr(worker, method, call)


class Meter:
    """Counts a joule a look."""

    source = "RAPL"

    def __init__(self) -> None:
        self.looks = 0.0

    def joules(self) -> float:
        self.looks += 1
        return self.looks

    def slowed(self) -> list[str]:
        return []


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that counts joules."""

    @contextlib.contextmanager
    def meter(device: str, count: int) -> Iterator[Meter]:
        yield Meter()

    monkeypatch.setattr(power, "meter", meter)


@pytest.mark.parametrize(
    ("method", "ask"),
    [
        ("warm_up", Row.warm_up),
        ("generate", lambda row: row.play_round(row.next_round())),
        ("generate", lambda row: row.play_job(4)),
        ("peak_memory", Row.measure_memory),
        ("generate", Row.measure_energy),
        ("profile", lambda row: row.profile(Path("profile"))),
    ],
    ids=["warm-up", "round", "job", "memory", "energy", "profile"],
)
def test_a_worker_that_is_killed_ends_its_row_whatever_it_was_at(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch, counted: None, method: str, ask: Callable[[Row], Any]
) -> None:
    row = row_of(ONLINE)
    kill(monkeypatch, worker, "online", method)
    with pytest.raises(RowFailed, match=f"^online: crash: {KILLED}$"):
        ask(row)
    record = row.record()
    assert (record.status, record.reason, record.measurement) == ("crash", KILLED, None)


def test_a_reference_that_is_killed_ends_the_row_beside_it_and_is_started_anew_for_the_next(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = row_of(ONLINE)
    row.finish_rounds()

    with monkeypatch.context() as patch:
        kill(patch, worker, REFERENCE, "likelihood")
        with pytest.raises(RowFailed, match=f"the reference engine: {KILLED}"):
            row.answers()
    following = Row(row.run, ONLINE)
    following.finish_rounds()
    assert following.record().status == "ok"
    assert [made.name for made in worker.started].count(REFERENCE) == 2


def test_a_clock_that_jumps_moves_no_figure(worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch) -> None:
    def jumps(*_: Any) -> NoReturn:
        pytest.fail("the time of day was asked for")

    monkeypatch.setattr(time, "time", jumps)
    monkeypatch.setattr(time, "time_ns", jumps)
    row = row_of(ONLINE)
    row.warm_up()
    row.finish_rounds()
    row.measure_memory()
    record = row.record()
    assert record.measurement is not None
    assert record.measurement.average_seconds == 1.0
