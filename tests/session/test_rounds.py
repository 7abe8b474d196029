"""Who answers when in a row's timed rounds, with workers that answer as a test wants them to."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from fake_workers import ONLINE, FakeWorker, asked, row_of, worker_of
from rows import answers, generation

from udaciheadline.evidence.gates import Thresholds
from udaciheadline.session.row import Row, RowFailed
from udaciheadline.session.run import Answered
from udaciheadline.techniques import REFERENCE, Technique
from udaciheadline.workers.worker import WorkerError

PARALLEL = replace(ONLINE, name="parallel", title="Parallel", parallel=True, engines=("compiled",))


@pytest.mark.parametrize("technique", [ONLINE, replace(ONLINE, name=REFERENCE)], ids=["a technique", "the reference"])
def test_the_reference_answers_before_even_rounds_and_after_odd_ones_with_a_pause_where_engines_take_turns(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch, technique: Technique
) -> None:
    events: list[str] = []

    def generate(self: FakeWorker, prompts: list[str]) -> Any:
        events.append("the row" if self is row._engine.worker else "the reference")
        return FakeWorker.generate(self, prompts)

    monkeypatch.setattr(worker, "generate", generate)
    monkeypatch.setattr("time.sleep", lambda seconds: events.append("a pause"))
    row = row_of(technique, articles=2)
    row.finish_rounds()
    warming_up = ["the row", "a pause", "the reference"]
    even, odd = ["the reference", "a pause", "the row"], ["the row", "a pause", "the reference"]
    assert events == [*warming_up, *even, *odd]


# -- another row beside the reference --------------------------------------------------------------------------------


@pytest.fixture
def parallel(worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch) -> Row:
    """A parallel row on the compiled engine, at twice the speed of all others."""
    monkeypatch.setattr("udaciheadline.techniques._technique._has_compiler", lambda: True)
    row = row_of(PARALLEL, articles=4)
    monkeypatch.setattr(worker_of(row), "seconds", {1: 0.5})
    return row


def test_one_rank_answers_in_turn_with_a_parallel_row(worker: type[FakeWorker], parallel: Row) -> None:
    assert parallel.record().speed_up_over == {}
    parallel.finish_rounds()
    (alone,) = (fake for fake in worker.started if fake.name == "compiled")
    assert asked(alone)[-4:] == asked(worker_of(parallel))[-4:] == parallel.run.prompts
    over = parallel.record().speed_up_over["compiled"]
    assert (over.value, over.low, over.high) == pytest.approx((2.0, 1.6, 2.5))


def test_the_row_whose_tokens_a_technique_repeats_answers_in_turn_with_it(worker: type[FakeWorker]) -> None:
    row = row_of(replace(ONLINE, exact_to="baseline"), articles=4)
    row.finish_rounds()
    assert [fake.name for fake in worker.started] == ["online", REFERENCE, "baseline"]
    assert row.record().speed_up_over["baseline"].value == 1.0


@pytest.fixture
def quantised(worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch) -> Row:
    """A row that optimises `compiled`, and has half of its speed."""
    monkeypatch.setattr("udaciheadline.techniques._technique._has_compiler", lambda: True)
    row = row_of(replace(ONLINE, name="quantised", optimises="compiled"), articles=4)
    row.run.thresholds["quantised"] = Thresholds(speed_over_optimised_min=1.0)
    monkeypatch.setattr(worker_of(row), "seconds", {1: 2.0})
    return row


def optimises(row: Row) -> tuple[str, str]:
    """What became of the gate of its speed over the row that it optimises."""
    (found,) = (verdict for verdict in row.verdicts() if verdict.gate == "optimises")
    return found.status, found.message


def test_the_row_that_a_technique_optimises_answers_in_turn_with_it(worker: type[FakeWorker], quantised: Row) -> None:
    quantised.finish_rounds()
    (other,) = (fake for fake in worker.started if fake.name == "compiled")
    assert asked(other)[-4:] == asked(worker_of(quantised))[-4:] == quantised.run.prompts
    assert quantised.record().speed_up_over["compiled"].value == pytest.approx(0.5)


def test_a_row_that_is_slower_in_turn_fails_its_gate_whatever_was_measured_earlier(quantised: Row) -> None:
    quantised.run.answered["compiled"] = Answered(answers(), None, [-9.0] * 4, 1, [])
    assert optimises(quantised)[0] == "fail"


def test_without_the_row_that_it_optimises_its_speed_over_that_is_not_judged(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch, quantised: Row
) -> None:
    def generate(self: FakeWorker, *job: Any) -> Any:
        if self.name == "compiled":
            raise WorkerError("oom", "it is too large")
        return FakeWorker.generate(self, *job)

    monkeypatch.setattr(worker, "generate", generate)
    said = "compiled, which it optimises, has no speed beside it (oom: it is too large)"
    assert optimises(quantised) == ("not judged", said)
    assert quantised.record().speed_up_over == {}


def test_several_rows_answer_in_turn_with_one_the_one_that_it_optimises_next_to_it(worker: type[FakeWorker]) -> None:
    row = row_of(replace(ONLINE, exact_to="baseline", optimises="pruned"), articles=4)
    row.finish_rounds()
    assert [fake.name for fake in worker.started] == ["online", REFERENCE, "baseline", "pruned"]
    assert list(row.record().speed_up_over) == ["baseline", "pruned"]


def test_three_engines_answer_each_article_in_another_order(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch, parallel: Row
) -> None:
    events: list[str] = []

    def answer(self: FakeWorker, prompt: str) -> Any:
        events.append(self.name)
        return FakeWorker.answer(self, prompt)

    monkeypatch.setattr(worker, "answer", answer)
    parallel.finish_rounds()
    rounds = [tuple(events[i : i + 3]) for i in range(0, len(events), 3)]
    assert rounds[:2] == [(REFERENCE, "parallel", "compiled"), ("parallel", "compiled", REFERENCE)]
    assert len(set(rounds)) == len(rounds) == len(parallel.prompts)


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
    parallel.warm_up()
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


# -- a limit of time -------------------------------------------------------------------------------------------------


def limited(seconds: float, **options: Any) -> Row:
    """A row of 20 articles in a session that has so much time left for it; a round costs two seconds."""
    row = row_of(ONLINE, articles=20)
    row.run.deadline = 100.0 + seconds
    return Row(row.run, replace(ONLINE, **options))


@pytest.mark.parametrize(("seconds", "rounds"), [(20, 6), (1000, 20), (0, 3)])
def test_a_row_has_as_many_rounds_as_its_time_allows(
    worker: type[FakeWorker], clock: SimpleNamespace, seconds: float, rounds: int
) -> None:
    row = limited(seconds)
    row.warm_up()
    assert row.rounds == rounds


def test_what_a_row_took_before_its_rounds_is_not_left_for_them(
    worker: type[FakeWorker], clock: SimpleNamespace
) -> None:
    row = limited(20)
    clock.seconds += 6
    row.warm_up()
    assert row.rounds == 3


def test_a_row_is_measured_on_as_many_articles_as_it_has_rounds(
    worker: type[FakeWorker], clock: SimpleNamespace
) -> None:
    row = limited(20)
    row.finish_rounds()
    row.play_job(4)
    assert (len(row.generations), len(row.record().scores.rouge_difference)) == (6, 4)
    assert row.record().measurement.count == 6
    assert len(row.prompts) == 6


def test_an_offline_row_is_measured_on_what_the_reference_has_answered(
    worker: type[FakeWorker], clock: SimpleNamespace
) -> None:
    row = limited(20)
    row.finish_rounds()
    offline = Row(row.run, replace(ONLINE, offline=True))
    offline.answers()
    assert len(offline.generations) == 6


def test_what_is_left_of_a_rows_time_is_known_and_may_be_less_than_nothing(
    worker: type[FakeWorker], clock: SimpleNamespace
) -> None:
    row = limited(20)
    clock.seconds += 25
    assert row.seconds_left == -5.0
    assert row_of(ONLINE).seconds_left == math.inf


def test_the_time_that_is_left_is_shared_by_the_rows_that_are_left(
    worker: type[FakeWorker], clock: SimpleNamespace
) -> None:
    run = row_of(ONLINE).run
    run.deadline, run.rows_left = 160.0, 3
    assert run.row_seconds() == 20.0


def test_without_a_limit_all_articles_are_measured(worker: type[FakeWorker]) -> None:
    row = row_of(ONLINE, articles=20)
    row.warm_up()
    assert row.rounds == 20


def test_where_time_is_limited_it_goes_to_articles_and_not_to_launches(
    worker: type[FakeWorker], clock: SimpleNamespace
) -> None:
    row = limited(20)
    row.run.launches = None
    row._engine.build_seconds = 0.1
    row.finish_rounds()
    assert row.record().measurement.launches == 1  # type: ignore[union-attr]


# -- near ties -------------------------------------------------------------------------------------------------------


def test_the_engine_whose_tokens_are_to_be_repeated_is_asked_about_those_that_differ(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate(self: FakeWorker, prompts: list[str], *_: Any) -> Any:
        tokens = (1, 2, 3) if self.name == REFERENCE or prompts[0].endswith("0.\nHeadline:") else (1, 7, 3)
        return [generation(token_ids=tokens)]

    asked: list[Any] = []
    monkeypatch.setattr(worker, "generate", generate)
    monkeypatch.setattr(worker, "preferences", lambda self, *args: asked.append((self.name, *args)) or [0.5])
    row = row_of(replace(ONLINE, exact_to=REFERENCE), articles=2)
    row.finish_rounds()
    assert asked == [(REFERENCE, [row.run.prompts[1]], [[1, 2]], [7])]
    scores = row.record().scores
    assert scores is not None
    assert (scores.near_ties, scores.real_differences, scores.rounding_nats) == (0, 1, 0.25)
