"""One article a round: how long a reader's headline takes, per technique, paired with the reference."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from udaciheadline.evidence.measure import EngineClock
from udaciheadline.session.row import Row

CLOCK = EngineClock()


@pytest.mark.benchmark(group="latency", timer=CLOCK)
def test_latency(benchmark: BenchmarkFixture, row: Row) -> None:
    if row.technique.offline:
        pytest.skip(f"{row.technique.title} takes all articles as one job: see test_throughput")
    row.extra_info = benchmark.extra_info

    def play(number: int) -> None:
        CLOCK.advance(row.play_round(number))

    row.warm_up()
    benchmark.pedantic(play, setup=lambda: ((row.next_round(),), {}), rounds=row.rounds)
    row.finish_rounds()
