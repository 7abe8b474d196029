"""All articles as one job: how many headlines an offline job writes, per technique."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from udaciheadline.evidence.measure import EngineClock
from udaciheadline.session.row import Row

CLOCK = EngineClock()
ROUNDS = 3


@pytest.mark.benchmark(group="throughput", timer=CLOCK)
def test_throughput(benchmark: BenchmarkFixture, row: Row) -> None:
    if not row.technique.batches:
        pytest.skip(f"{row.technique.title} takes one article at a time")
    if row.technique.offline:
        row.extra_info = benchmark.extra_info
    seconds: list[float] = []

    def play() -> None:
        seconds.append(row.play_job(row.batch_size))  # the search for the size is part of the warm-up
        CLOCK.advance(seconds[-1])

    benchmark.pedantic(play, rounds=ROUNDS, warmup_rounds=1)
    throughput = row.keep_throughput(seconds[-ROUNDS:])
    benchmark.extra_info.update(batch_size=throughput.batch_size, headlines_per_second=throughput.headlines_per_second)
