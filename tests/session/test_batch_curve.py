"""What more articles at a time give a row, with workers that answer as a test wants them to."""

from dataclasses import replace

import pytest
from fake_workers import ONLINE, FakeWorker, row_of, worker_of
from rows import curve

from udaciheadline.records import BatchCurve
from udaciheadline.session.row import Row
from udaciheadline.techniques import REFERENCE

ALONE = replace(ONLINE, batches=False)


def measured(row: Row) -> BatchCurve:
    found = row.measure_batch_curve()
    assert found is not None
    return found


def sizes(found: BatchCurve) -> list[int]:
    return [point.batch_size for point in found.points]


def test_a_curve_has_a_rate_for_each_size_and_for_that_of_the_rows_jobs(worker: type[FakeWorker]) -> None:
    worker.seconds = {1: 4.0, 4: 2.0}
    row = row_of(ONLINE)
    row.run.job_sizes["online"] = 40
    found = measured(row)
    assert sizes(found) == [1, 4, 16, 40, 64, 256]
    assert [point.headlines_per_second for point in found.points] == [2.0, 4.0, 16.0, 40.0, 64.0, 256.0]
    assert found.points[0].new_tokens_per_second == 6.0
    assert (found.job_batch_size, found.left_out) == (40, ())
    assert row.record().batch_curve == found


def test_articles_are_repeated_to_fill_a_batch(worker: type[FakeWorker]) -> None:
    row = row_of(ONLINE, articles=3)
    measured(row)
    asked = [args for method, args in worker_of(row).calls if method == "generate"]
    assert {size: len(prompts) for prompts, size in asked} == {1: 3, 4: 4, 16: 16, 64: 64, 256: 256}
    assert {prompt for prompts, _ in asked for prompt in prompts} == {*row.run.prompts}


def test_short_jobs_are_played_several_times_and_long_ones_once(worker: type[FakeWorker]) -> None:
    worker.seconds = {1: 0.5, 4: 1.0, 16: 1.5}
    assert [point.rounds for point in measured(row_of(ONLINE)).points[:3]] == [3, 2, 1]


def test_a_size_that_would_take_too_long_is_left_out_and_named(worker: type[FakeWorker]) -> None:
    worker.seconds = {1: 16.0, 4: 16.0, 16: 32.0}
    found = measured(row_of(ONLINE))
    assert sizes(found) == [1, 4, 16]
    assert found.left_out == ((64, "it would take about 128 s"), (256, "it would take about 512 s"))


def test_what_one_article_alone_takes_is_known_from_the_rounds(worker: type[FakeWorker]) -> None:
    worker.seconds = {1: 10.0}
    row = row_of(ONLINE)
    row.finish_rounds()
    assert measured(row).left_out[0] == (1, "it would take about 80 s")


def test_a_row_that_has_no_time_left_is_not_lost_for_its_curve(worker: type[FakeWorker]) -> None:
    row = row_of(ONLINE)
    worker_of(row).seconds_left = 0.0
    assert sizes(measured(row)) == []


def test_no_size_is_tried_behind_one_that_the_engine_does_not_take(worker: type[FakeWorker]) -> None:
    worker.fits = 40
    row = row_of(ONLINE)
    found = measured(row)
    assert sizes(found) == [1, 4, 16]
    why = "the engine takes no more than 32 at a time"
    assert found.left_out == ((64, why), (256, why))
    assert 256 not in worker_of(row).sizes()


def test_a_rate_is_held_against_that_of_the_row_that_it_optimises_with_as_many_at_a_time(
    worker: type[FakeWorker],
) -> None:
    row = row_of(ONLINE)
    row.run.curves[REFERENCE] = curve(2.0, 16.0)
    assert [point.times_optimised for point in measured(row).points] == [4.0, 0.5, None, None, None]


def test_an_engine_that_takes_one_article_at_a_time_has_no_curve(worker: type[FakeWorker]) -> None:
    assert row_of(ALONE).measure_batch_curve() is None


def test_a_row_of_one_article_at_a_time_on_the_compiled_engine_has_one(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("udaciheadline.techniques._technique._has_compiler", lambda: True)
    assert sizes(measured(row_of(replace(ALONE, engines=("compiled",))))) == [1, 4, 16, 64, 256]
