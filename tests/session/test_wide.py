"""Quality on more articles than are timed."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from fake_workers import ONLINE, FakeWorker, row_of, worker_of
from rows import generation

from udaciheadline.evidence.gates import Thresholds
from udaciheadline.records import Scores
from udaciheadline.session.row import Row
from udaciheadline.techniques import REFERENCE

OFFLINE = replace(ONLINE, name="offline", title="Offline", offline=True)
ALONE = replace(ONLINE, name="alone", title="Alone", batches=False)


def scores(row: Row) -> tuple[Scores, Scores | None]:
    found = row.record()
    assert found.scores is not None
    return found.scores, found.job_scores


def measured(row: Row) -> Row:
    """After its rounds and its jobs."""
    row.finish_rounds()
    if row.technique.batches:
        row.keep_throughput([row.play_job(row.batch_size)])
    return row


def writes(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch, headline: Callable[[FakeWorker, str, int], str]
) -> None:
    """Has the workers write this headline for a prompt, so many of them at a time."""

    def generate(self: FakeWorker, prompts: list[str], batch_size: int | None = None) -> list[Any]:
        self.jobs += 1
        size = batch_size or 1
        return [generation(headline(self, prompt, size), seconds=1.0, batch_size=size) for prompt in prompts]

    monkeypatch.setattr(worker, "generate", generate)


def true_headline(prompt: str) -> str:
    return "True headline " + "".join(filter(str.isdigit, prompt))


def test_quality_is_scored_on_the_timed_articles_and_on_more(worker: type[FakeWorker]) -> None:
    worker.seconds = {4: 3.2}
    timed, wide = scores(measured(row_of(ONLINE, articles=4, further=6)))
    assert timed.articles == 4
    assert wide is not None
    assert wide.articles == 4 + 2  # more take longer than `QUALITY_SECONDS`


@pytest.mark.parametrize("asked", [7, 10])
def test_all_articles_that_were_asked_for_are_written_whatever_that_takes(worker: type[FakeWorker], asked: int) -> None:
    row = row_of(ONLINE, articles=4, further=asked - 4)
    row.run.quality_articles = asked
    _, wide = scores(measured(row))
    assert wide is not None
    assert wide.articles == asked
    found = row.record().per_article
    assert found is not None
    assert (len(found.rouge1), len(found.nll), len(found.seconds)) == (asked, asked, 4)


def test_no_more_time_goes_into_quality_than_the_rounds_took(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("udaciheadline.session.wide.QUALITY_SECONDS", math.inf)
    worker.seconds = {1: 1.5, 4: 4.8}
    _, wide = scores(measured(row_of(ONLINE, articles=4, further=50)))
    assert wide is not None
    assert wide.articles == 4 + 9  # four rounds of 1.5 s and as much for the reference, 1.2 s an article


def test_without_further_articles_there_is_one_score(worker: type[FakeWorker]) -> None:
    timed, wide = scores(measured(row_of(ONLINE, articles=4)))
    assert (timed.job_identical_share, wide) == (None, None)


def test_a_row_that_takes_one_article_at_a_time_writes_them_so(worker: type[FakeWorker]) -> None:
    worker.seconds = {1: 0.8}
    row = row_of(ALONE, articles=4, further=6)
    timed, wide = scores(measured(row))
    assert worker_of(row).sizes() == [1]
    assert timed.job_identical_share is None
    assert wide is not None
    assert wide.articles == 4 + 2


def test_the_timed_articles_are_written_as_a_job_where_none_was_measured(worker: type[FakeWorker]) -> None:
    row = row_of(ONLINE, articles=4, further=6)
    row.finish_rounds()
    timed, _ = scores(row)
    assert worker_of(row).sizes() == [4, 4]
    assert timed.job_identical_share == 1.0


def test_the_headlines_of_an_offline_row_are_those_of_its_job(worker: type[FakeWorker]) -> None:
    row = row_of(OFFLINE, articles=4, further=6)
    row.play_job(4)
    timed, wide = scores(row)
    assert worker_of(row).sizes() == [4, 4]
    assert timed.job_identical_share is None
    assert wide is not None
    assert wide.articles == 10


def test_a_job_that_writes_worse_headlines_than_the_rounds_fails_its_gate(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    def headline(made: FakeWorker, prompt: str, size: int) -> str:
        return "Nothing" if made.name == "online" and size > 1 else true_headline(prompt)

    writes(worker, monkeypatch, headline)
    row = row_of(ONLINE, articles=8, further=6)
    row.run.thresholds["online"] = Thresholds(rouge_retention_min=0.9)
    measured(row)
    status = {verdict.gate: verdict.status for verdict in row.verdicts()}
    assert status["job"] == "fail"
    timed, wide = scores(row)
    assert timed.rouge["rouge1"].value == 1.0
    assert wide is not None
    assert wide.rouge["rouge1"].value == 0.0


def test_a_loss_among_the_further_articles_fails_the_gate_of_a_row_whose_timed_ones_are_sound(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    def headline(made: FakeWorker, prompt: str, size: int) -> str:
        lost = made.name == "online" and int(true_headline(prompt).split()[-1]) >= 4
        return "Nothing" if lost else true_headline(prompt)

    writes(worker, monkeypatch, headline)
    row = row_of(ONLINE, articles=4, further=6)
    row.run.thresholds["online"] = Thresholds(rouge_retention_min=0.9)
    measured(row)
    found = {verdict.gate: verdict for verdict in row.verdicts()}
    assert found["rouge1"].status == "fail"
    assert "article 4" in found["rouge1"].message
    assert found["job"].status == "pass"


def test_a_row_that_stands_in_for_another_is_judged_by_what_that_wrote_of_the_articles_of_both(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    def headline(made: FakeWorker, prompt: str, size: int) -> str:
        return true_headline(prompt) if made.name == REFERENCE else "True"

    writes(worker, monkeypatch, headline)
    target = row_of(replace(ONLINE, name="target"), articles=4, further=6)
    run = target.run
    run.quality_articles = 10
    measured(target).answers()
    own = replace(ALONE, exact_to="target")
    run.thresholds["alone"] = Thresholds(rouge_retention_min=0.9)
    run.quality_articles = None
    row = Row(run, own)
    measured(row)
    found = {verdict.gate: verdict for verdict in row.verdicts()}
    assert found["rouge1"].measured == 1.0


def test_whether_rouge_can_judge_is_asked_of_all_articles_together(worker: type[FakeWorker]) -> None:
    row = row_of(ONLINE, articles=8, further=4)
    row.run.quality_articles = 12
    thai = [replace(article, headline="ข่าว") for article in row.run.all_articles[8:]]
    row.run.all_articles = (*row.run.all_articles[:8], *thai)
    _, wide = scores(measured(row))
    assert wide is not None
    assert not math.isnan(wide.rouge["rouge1"].value)
