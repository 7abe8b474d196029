"""A row's jobs and its offline figures, with workers that answer as a test wants them to."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from fake_workers import ONLINE, FakeWorker, row_of, worker_of

from udaciheadline.evidence.measure import FIRST_BATCH
from udaciheadline.session.row import Row, RowFailed
from udaciheadline.techniques import REFERENCE
from udaciheadline.workers.worker import WorkerError

OFFLINE = replace(ONLINE, name="offline", title="Offline", offline=True)


# -- how many articles at a time -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "best", "tried"),
    [
        ({16: 8.0, 32: 6.0, 64: 5.0, 100: 4.0}, 100, [16, 32, 64, 100]),
        ({16: 8.0, 32: 6.0, 64: 7.0, 100: 1.0}, 32, [16, 32, 64]),
        ({16: 8.0, 32: 9.0, 64: 1.0, 100: 1.0}, 16, [16, 32]),
        ({16: 8.0, 32: 8.5, 64: 5.0, 100: 5.4}, 64, [16, 32, 64, 100]),
    ],
    ids=["all are fastest", "the second is", "the first is", "one after a little slower one is"],
)
def test_the_best_batch_size_is_the_fastest_and_after_a_clearly_slower_one_no_other_is_tried(
    worker: type[FakeWorker], seconds: Mapping[int, float], best: int, tried: list[int]
) -> None:
    worker.seconds = seconds
    row = row_of(ONLINE, articles=100)
    assert row.batch_size == best
    assert worker_of(row).sizes() == tried


@pytest.mark.parametrize(("articles", "tried"), [(1, []), (16, []), (17, [16, 17])])
def test_no_more_articles_at_a_time_are_tried_than_there_are_and_nothing_where_there_is_no_choice(
    worker: type[FakeWorker], articles: int, tried: list[int]
) -> None:
    worker.seconds = {FIRST_BATCH: 2.0}
    row = row_of(ONLINE, articles)
    assert row.batch_size == articles
    assert worker_of(row).sizes() == tried


def test_on_a_gpu_the_first_job_of_a_size_warms_up(worker: type[FakeWorker]) -> None:
    row = row_of(ONLINE, articles=17)
    row.run.spec = replace(row.run.spec, device="cuda")
    row.play_job(row.batch_size)
    assert worker_of(row).sizes() == [16, 16, 17, 17, 16]


def test_a_size_that_does_not_fit_in_memory_is_noted_and_no_larger_one_tried(worker: type[FakeWorker]) -> None:
    worker.fits, worker.seconds = 40, {16: 3.0, 32: 2.0}
    row = row_of(ONLINE, articles=200)
    assert row.batch_size == 32
    assert worker_of(row).sizes()[-2:] == [32, 64]
    row.play_job(32)
    throughput = row.keep_throughput([2.0])
    assert (throughput.batch_size, throughput.refused_batch_size) == (32, 64)


def test_so_few_articles_that_no_size_is_searched_may_not_fit_in_memory_either(worker: type[FakeWorker]) -> None:
    worker.fits, worker.seconds = 4, {8: 3.0}
    row = row_of(ONLINE, articles=8)
    row.play_job(row.batch_size)
    throughput = row.keep_throughput([3.0])
    assert (throughput.batch_size, throughput.refused_batch_size) == (4, 8)


def test_where_all_sizes_fit_none_was_refused(worker: type[FakeWorker]) -> None:
    row = row_of(ONLINE)
    row.play_job(row.batch_size)
    assert row.keep_throughput([2.0]).refused_batch_size is None


# -- the figures of a job --------------------------------------------------------------------------------------------


def test_a_jobs_seconds_are_counted_once_and_not_once_an_article(worker: type[FakeWorker]) -> None:
    worker.seconds = {4: 7.0}
    row = row_of(ONLINE)
    before = row.run.useful_seconds
    assert row.play_job(4) == 7.0
    assert row.run.useful_seconds - before == 7.0


def test_the_throughput_is_that_of_the_median_job(worker: type[FakeWorker]) -> None:
    row = row_of(ONLINE)
    row.play_job(4)
    throughput = row.keep_throughput([9.0, 2.0, 4.0])
    assert (throughput.batch_size, throughput.rounds) == (4, 3)
    assert throughput.headlines_per_second == 8 / 4
    assert throughput.new_tokens_per_second == 8 * 3 / 4
    # An article: 5 + 3 - 1 tokens through 20 parameters, 3 of them through the head's 10 too, twice each.
    assert throughput.limit_per_second == pytest.approx(10_000 / (2 * (20 * 7 + 10 * 3)))


def test_what_the_device_can_do_is_measured_once_a_session(worker: type[FakeWorker]) -> None:
    row = row_of(ONLINE)
    row.play_job(4)
    for _ in range(2):
        row.keep_throughput([1.0])
    assert [method for fake in worker.started for method, _ in fake.calls].count("limits") == 1


def test_a_rate_is_compared_with_those_of_earlier_rows(worker: type[FakeWorker]) -> None:
    row = row_of(ONLINE)
    row.run.rates["earlier"] = 16.0
    row.play_job(4)
    assert row.keep_throughput([2.0]).times_over == {"earlier": 0.25}
    assert row.run.rates == {"earlier": 16.0, "online": 4.0}


# -- an offline row --------------------------------------------------------------------------------------------------


@pytest.fixture
def offline(worker: type[FakeWorker]) -> Row:
    """An offline row of which everything was measured: two jobs, of which the second is kept."""
    worker.seconds = {4: 2.0}
    row = row_of(OFFLINE, batch_size=4)
    seconds = [row.play_job(4) for _ in range(2)]
    row.keep_throughput(seconds)
    row.measure_memory()
    return row


def test_an_offline_row_is_scored_on_what_its_timed_job_wrote(offline: Row) -> None:
    own, _ = offline.answers()
    assert [g.headline for g in own.generations] == [f"offline wrote {i} in job 2" for i in range(8)]
    assert worker_of(offline).sizes() == [4, 4, 4]  # the third is for the memory; none for the quality
    record = offline.record()
    assert record.scores is not None
    assert record.scores.identical_share == 1
    assert record.per_article is not None
    assert record.per_article.headlines == tuple(g.headline for g in own.generations)


def test_an_offline_row_has_a_throughput_and_no_latency(offline: Row) -> None:
    record = offline.record()
    assert record.status == "ok"
    assert record.measurement is None
    assert record.speed_up_over == {}
    assert record.throughput is not None
    assert record.throughput.headlines_per_second == 4.0


def test_an_offline_row_is_not_judged_by_its_latency(offline: Row) -> None:
    assert [verdict.gate for verdict in offline.verdicts()] == ["work"]


def test_the_reference_answers_an_offline_rows_articles_one_at_a_time(offline: Row, worker: type[FakeWorker]) -> None:
    offline.answers()
    (reference,) = (fake for fake in worker.started if fake.name == REFERENCE)
    asked = [args for method, args in reference.calls if method == "generate"]
    assert asked[-8:] == [([prompt],) for prompt in offline.run.prompts]
    assert {g.batch_size for g in offline.reference_generations} == {1}


def test_the_reference_answers_for_all_offline_rows_together(offline: Row) -> None:
    before = offline.run.reference_answers(8)
    assert [id(g) for g in offline.run.reference_answers(8)] == [id(g) for g in before]


def test_the_reference_is_not_asked_again_for_what_it_answered_in_the_rounds_of_another_row(
    worker: type[FakeWorker],
) -> None:
    row = row_of(ONLINE)
    row.finish_rounds()
    assert row.run.reference_answers(8) == row.reference_generations


def test_the_memory_of_an_offline_row_is_that_of_a_whole_job_of_its_size(offline: Row) -> None:
    jobs = [args for method, args in worker_of(offline).calls if method == "generate"]
    assert jobs[-1] == (offline.run.prompts, 4)


def test_the_memory_of_another_row_is_that_of_the_longest_article(worker: type[FakeWorker]) -> None:
    row = row_of(ONLINE)
    row.measure_memory()
    asked = [args[0] for method, args in worker_of(row).calls if method == "generate"]
    assert asked == [[row.prompts[-1]]]  # the one that the engine warms up on first


def test_without_a_timed_job_an_offline_row_plays_one_for_its_quality(worker: type[FakeWorker]) -> None:
    row = row_of(OFFLINE)
    assert len(row.answers()[0].generations) == 8
    assert row.record().throughput is None


# -- rows that end early ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["skipped", "crash"])
def test_a_row_whose_engine_cannot_be_built_has_the_workers_status_and_sentence(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    def refuse(*_: Any) -> None:
        raise WorkerError(status, "it is not for this model")

    monkeypatch.setattr(worker, "__init__", refuse)
    record = row_of(ONLINE).record()
    assert (record.status, record.reason) == (status, "it is not for this model")
    assert record.build is None


def test_an_article_that_is_too_long_ends_the_row_before_anything_is_written(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def check(self: FakeWorker, prompts: list[str], completions: list[str]) -> None:
        seen.append((self.name, len(prompts), completions[2]))
        raise WorkerError("error", "article 3: it is too long")

    monkeypatch.setattr(worker, "check", check, raising=False)
    record = row_of(ONLINE).record()
    assert (record.status, record.reason) == ("error", "article 3: it is too long")
    assert seen == [("online", 8, " True headline 2")]
    assert [method for made in worker.started for method, _ in made.calls] == ["check"]


def test_a_job_that_runs_out_of_memory_ends_the_row(worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise WorkerError("oom", "no memory is left")

    row = row_of(ONLINE, articles=17)
    monkeypatch.setattr(worker, "generate", refuse)
    with pytest.raises(RowFailed, match="online: oom: no memory is left"):
        assert row.batch_size
    assert row.record().status == "oom"


@pytest.mark.parametrize(("status", "last"), [("crash", "\nTraceback of the worker"), ("oom", ""), ("error", "")])
def test_why_a_row_has_ended_is_told_once_with_the_workers_last_words_where_it_crashed(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch, status: str, last: str
) -> None:
    def refuse(*_: Any) -> None:
        raise WorkerError(status, "the weights are upside down", "Traceback of the worker")

    row = row_of(ONLINE)
    assert row.tell_end() == ""
    monkeypatch.setattr(worker, "generate", refuse)
    with pytest.raises(RowFailed):
        row.finish_rounds()
    assert row.tell_end() == f"online: {status}: the weights are upside down{last}"
    assert row.tell_end() == ""


def test_a_row_that_is_skipped_halfway_is_no_failure(worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise WorkerError("skipped", "its layers are round")

    row = row_of(ONLINE)
    monkeypatch.setattr(worker, "generate", refuse)
    with pytest.raises(RowFailed):
        row.finish_rounds()
    assert row.tell_end() == ""
