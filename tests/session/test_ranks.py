"""A row of several ranks, which are none."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_workers import INFO, ONLINE, FakeWorker, row_of, worker_of
from rows import generation

from udaciheadline.evidence.gates import Thresholds
from udaciheadline.records import MICRO_BATCH, EngineSpec, Memory, Parallel, Span
from udaciheadline.session import run as module
from udaciheadline.session.row import Row, RowFailed
from udaciheadline.techniques import Technique

PARALLEL = replace(ONLINE, name="parallel", title="Parallel", parallel=True)


class TwoRanks(FakeWorker):
    """Both ranks answer; the second one has half of the first one's weights again, and waits longer."""

    def __init__(self, technique: Technique, spec: EngineSpec, timeout: float, hosts: Sequence[Any]) -> None:
        super().__init__(technique, spec, timeout, hosts)
        if technique.parallel:
            self.infos.append(replace(INFO, weights_bytes=180))

    def call_all(self, method: str, *args: Any) -> list[Any]:
        first = self.call(method, *args)
        if len(self.infos) == 1:
            return [first]
        second = {"info": self.infos[1], "peak_memory": Memory((), (), 2**21)}
        return [first, 2 * first if isinstance(first, float) else second.get(method, first)]

    def communication_share(self, prompts: list[str], batch_size: int | None = None) -> float:
        return 0.25 if batch_size is None else 0.125


@pytest.fixture
def split(monkeypatch: pytest.MonkeyPatch, worker: type[FakeWorker]) -> Row:
    """The row of a parallel technique, and its memory measured."""
    monkeypatch.setattr(module, "Worker", type("Worker", (TwoRanks,), {"started": []}))
    row = row_of(PARALLEL)
    row.measure_memory()
    return row


def test_a_parallel_row_says_what_each_rank_has_and_how_long_it_waits(split: Row) -> None:
    parallel = split.record().parallel
    assert parallel == Parallel("gloo", (120, 180), (2**20, 2**21), (0.25, 0.5), (0.125, 0.25))


def test_what_profiled_stages_worked_on_is_in_the_record(
    split: Row, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stages = [("aten::mm", [Span(f"{MICRO_BATCH}{rank}", rank, rank + 1.0)], "") for rank in range(2)]
    monkeypatch.setattr(worker_of(split), "call_all", lambda *_: stages)
    split.profile(tmp_path)
    parallel = split.record().parallel
    assert parallel
    assert parallel.timeline
    assert parallel.timeline.seconds == 2.0
    assert [set(rank) for rank in parallel.timeline.ranks] == [{"0", "."}, {"1", "."}]


def test_ranks_that_write_different_headlines_end_the_row(split: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they do where nothing goes between them: the first one's headlines alone may be right all the same."""
    answers = [(generation(token_ids=(1, 2)), 0.0), (generation(token_ids=(1, 3)), 0.0)]
    monkeypatch.setattr(worker_of(split), "call_all", lambda *_: answers)
    with pytest.raises(RowFailed, match=r"^parallel: error: its ranks do not write the same headlines$"):
        split.play_round(split.next_round())
    assert split.record().status == "error"


@pytest.mark.parametrize(("asked", "size"), [(4, 4), (None, 8)])
def test_the_jobs_that_are_profiled_have_the_batch_size_of_the_session(
    worker: type[FakeWorker], tmp_path: Path, asked: int | None, size: int
) -> None:
    row = row_of(PARALLEL, batch_size=asked)
    row.profile(tmp_path)
    ((jobs, given, _),) = (args for method, args in worker_of(row).calls if method == "profile")
    assert (jobs[-1], given) == (row.run.prompts, size)


def test_a_job_whose_communication_is_measured_has_it_too(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Worker", type("Worker", (TwoRanks,), {"started": []}))
    row = row_of(PARALLEL, batch_size=4)
    row.measure_memory()
    assert [args[1:] for method, args in worker_of(row).calls if method == "communication_share"] == [(), (4,)]


def test_the_memory_of_ranks_is_added_up(split: Row) -> None:
    assert split.measure_memory().host_peak_bytes == 3 * 2**20


def test_the_weights_that_are_judged_are_those_of_the_largest_rank(split: Row) -> None:
    split.run.thresholds["parallel"] = Thresholds(weights_ratio_max=1.5)
    (verdict,) = split.verdicts()
    assert (verdict.gate, verdict.measured) == ("weights", 1.5)
