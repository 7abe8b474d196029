"""A row's jobs in processes of their own, and what its headlines take from the wall."""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from fake_workers import ONLINE, FakeWorker, row_of
from rows import answers

from udaciheadline.evidence.gates import Thresholds
from udaciheadline.records import Energy
from udaciheadline.session.row import Row
from udaciheadline.session.run import Answered
from udaciheadline.techniques import REFERENCE
from udaciheadline.workers import power

OFFLINE = replace(ONLINE, name="offline", title="Offline", offline=True)


def test_each_timed_job_of_an_offline_row_has_a_process_and_one_of_the_reference(worker: type[FakeWorker]) -> None:
    worker.seconds = {8: 2.0}
    row = row_of(OFFLINE)
    row.run.launches = None
    row = Row(row.run, OFFLINE)
    row.play_job(row.batch_size)  # warms up
    started = len(worker.started)
    for _ in range(row.job_launches):
        row.next_job()
        row.play_job(row.batch_size)
    names = [made.name for made in worker.started[started:]]
    assert names == [REFERENCE, *["offline", REFERENCE] * 2]
    found = row.record()
    assert found.per_article is not None
    assert found.per_article.job_log_ratios == (0.0, 0.0, 0.0)


def test_a_job_is_compared_with_that_of_the_row_that_it_optimises_by_way_of_the_reference(
    worker: type[FakeWorker],
) -> None:
    worker.seconds = {8: 2.0}
    row = row_of(replace(OFFLINE, optimises="pruned"))
    row.run.launches = 2
    row = Row(row.run, row.technique)
    row.run.answered["pruned"] = Answered(answers(), None, [], 1, [-math.log(2)] * 2)
    row.play_job(row.batch_size)
    for _ in range(row.job_launches):
        row.next_job()
        row.play_job(row.batch_size)
    assert row.record().speed_up_over["pruned"].value == pytest.approx(2.0)


def test_without_jobs_of_both_that_were_paired_its_speed_over_what_it_optimises_is_not_judged(
    worker: type[FakeWorker],
) -> None:
    row = row_of(replace(OFFLINE, optimises="pruned"))
    row.run.thresholds["offline"] = Thresholds(speed_over_optimised_min=1.0)
    (found,) = row.verdicts()
    assert found.status == "not judged"
    assert found.message.endswith("has no speed beside it (no jobs of both were paired with those of kv-cache)")


def test_where_a_row_has_one_launch_its_jobs_are_not_paired(worker: type[FakeWorker]) -> None:
    row = row_of(OFFLINE)
    row.play_job(row.batch_size)
    started = len(worker.started)
    row.next_job()
    row.play_job(row.batch_size)
    assert (row.job_launches, len(worker.started)) == (1, started)
    assert row.keep_throughput([1.0]).speed_up is None


@pytest.mark.parametrize(("device", "minutes", "counts"), [("cpu", 1, True), ("cpu", None, False), ("cuda", 1, False)])
def test_only_where_time_is_limited_and_nothing_is_made_for_a_size_the_first_job_counts(
    worker: type[FakeWorker], device: str, minutes: int | None, counts: bool
) -> None:
    run = row_of(OFFLINE).run
    run.deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    row = Row(run, OFFLINE)
    run.spec = replace(run.spec, device=device)
    assert row.first_job_counts == counts


def test_energy_is_measured_once_by_the_meter_of_the_row(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    meters = []

    @contextlib.contextmanager
    def meter(device: str, count: int) -> Iterator[Any]:
        meters.append((device, count))
        yield "a meter"

    monkeypatch.setattr(power, "meter", meter)
    monkeypatch.setattr(power, "spent", lambda meter, write: Energy(0.5, write(), 3.0, "RAPL"))
    row = row_of(ONLINE)
    assert row.measure_energy() == row.measure_energy() == row.record().energy == Energy(0.5, 1, 3.0, "RAPL")
    assert set(meters) == {("cpu", 1)}
