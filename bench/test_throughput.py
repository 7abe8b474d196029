"""All articles as one job: how many headlines an offline job writes, per technique."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from udaciheadline.evidence.measure import EngineClock
from udaciheadline.session.row import Row

CLOCK = EngineClock()
MOST_ROUNDS = 3
JOBS_SECONDS = 8.0  # of the rounds together: one long job says as much as three short ones


@pytest.mark.benchmark(group="throughput", timer=CLOCK)
def test_throughput(benchmark: BenchmarkFixture, row: Row) -> None:
    if not row.technique.batches:
        pytest.skip(f"{row.technique.title} takes one article at a time")
    if row.technique.offline:
        row.extra_info = benchmark.extra_info
    seconds: list[float] = []
    first = row.play_job(row.batch_size)  # warms up, once the size is searched for
    counts = [first] if row.first_job_counts else []

    def play() -> None:
        seconds.append(counts.pop() if counts else row.play_job(row.batch_size))
        CLOCK.advance(seconds[-1])

    few = max(1, min(MOST_ROUNDS, int(min(JOBS_SECONDS, row.seconds_left) / first)))
    benchmark.pedantic(play, setup=row.next_job, rounds=few if row.job_launches == 1 else row.job_launches)
    throughput = row.keep_throughput(seconds)
    benchmark.extra_info.update(batch_size=throughput.batch_size, headlines_per_second=throughput.headlines_per_second)
