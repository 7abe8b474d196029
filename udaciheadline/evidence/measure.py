"""What a timed run amounts to: seconds, headlines a second, speed-ups, shares of the limit, memory of all ranks.

The seconds are taken where the model runs (`engines/device.py`), so moving prompts and headlines between processes is
in no number.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import takewhile

from udaciheadline.evidence.statistics import geometric_mean
from udaciheadline.records import BuildInfo, Generation, Limits, Measurement, Memory, Parallel

# Below 299 values a 99th percentile has no 95 % upper confidence bound (1 - 0.99**299 = 0.95): it is marked.
P99_MIN_COUNT = 299
FIRST_BATCH = 16
CLEARLY_SLOWER = 1.1  # a job of the same work: two of the same size differ by less


class EngineClock:
    """A timer for pytest-benchmark that stands still except for the engine's own seconds.

    pytest-benchmark reads its timer before and after each round; `advance` in between makes the difference exactly
    the seconds that the worker measured, so its tables show the same figures as ours.
    """

    def __init__(self) -> None:
        self._seconds = 0.0

    def __call__(self) -> float:
        return self._seconds

    def advance(self, seconds: float) -> None:
        """Lets `seconds` pass."""
        self._seconds += seconds


def together(peaks: Sequence[Memory]) -> Memory:
    """The peaks of several processes as those of one: each device's, and the host's, added up."""
    allocated = zip(*(peak.device_allocated_peak_bytes for peak in peaks), strict=True)
    reserved = zip(*(peak.device_reserved_peak_bytes for peak in peaks), strict=True)
    hosts = [peak.host_peak_bytes for peak in peaks]
    host = None if None in hosts else sum(filter(None, hosts))
    return Memory(tuple(map(sum, allocated)), tuple(map(sum, reserved)), host)


def parallel(
    device: str,
    infos: Sequence[BuildInfo],
    peaks: Sequence[Memory],
    shares: Sequence[float],
    job_shares: Sequence[float],
) -> Parallel:
    """What the ranks of an engine on `device` said of themselves; `shares` are those of communication."""
    return Parallel(
        backend="nccl" if device == "cuda" else "gloo",
        weights_bytes=tuple(info.weights_bytes for info in infos),
        peak_bytes=tuple(peak.peak_bytes for peak in peaks),
        communication_share=tuple(shares),
        job_communication_share=tuple(job_shares),
        layers=tuple(int(info.details["layers"]) for info in infos) if "layers" in infos[0].details else None,
    )


def best_batch_size(job: Callable[[int], tuple[float, int]], most: int) -> tuple[int, int | None]:
    """The number of articles at a time, of at most so many, that writes most headlines a second, and one that did not
    fit in memory, if any was found.

    `job` takes a number and gives the seconds and the number that fitted. It is asked for `FIRST_BATCH`, twice that,
    and so on up to `most`, until one is slower than the fastest by more than noise is, or does not fit. So few articles
    that there is no choice are not tried.
    """
    if most <= FIRST_BATCH:
        return most, None
    best, fastest = 0, math.inf
    for size in [*takewhile(lambda n: n < most, (FIRST_BATCH << i for i in range(20))), most]:
        seconds, fitted = job(size)
        if seconds < fastest:
            best, fastest = fitted, seconds
        if fitted < size:
            return best, size
        if seconds > fastest * CLEARLY_SLOWER:
            break
    return best, None


def limit_seconds(info: BuildInfo, generations: Sequence[Generation], limits: Limits) -> float | None:
    """Seconds a headline to read the weights once for each new token: no batch of one can be faster."""
    if info.pass_bytes is None:
        return None
    tokens = sum(len(g.token_ids) for g in generations)
    return tokens * info.pass_bytes / limits.bytes_per_second / len(generations)


def limit_per_second(info: BuildInfo, generations: Sequence[Generation], limits: Limits) -> float | None:
    """Headlines a second if only the matrix products took time: two operations a parameter and token."""
    if info.pass_bytes is None:
        return None
    new = sum(len(g.token_ids) for g in generations)
    read = sum(g.prompt_tokens for g in generations) + new - len(generations)  # the last token is never read
    operations = 2 * (info.layer_parameters * read + info.head_parameters * new)
    return len(generations) * limits.flops_per_second / operations


def quantile(sorted_values: Sequence[float], q: float) -> float:
    """The notebook's percentile: the value at index `int(q * n)`, the last where that is past the end."""
    return sorted_values[min(int(q * len(sorted_values)), len(sorted_values) - 1)]


def log_ratios(reference: Sequence[Generation], technique: Sequence[Generation]) -> list[float]:
    """Per article, the logarithm of the reference's seconds over the technique's: above 0 is faster."""
    return [math.log(r.seconds / t.seconds) for r, t in zip(reference, technique, strict=True)]


def summarise(
    technique: Sequence[Generation], reference: Sequence[Generation], limit: float | None = None, launches: int = 1
) -> Measurement:
    """What one round an article, paired with the reference, amounts to, in so many `launches` of both; `limit` as in
    `limit_seconds`."""
    seconds = sorted(g.seconds for g in technique)
    total = math.fsum(seconds)
    tokens = sum(len(g.token_ids) for g in technique)
    drafted, accepted = (sum(getattr(g, name) for g in technique) for name in ("drafted", "accepted"))
    return Measurement(
        count=len(technique),
        average_seconds=total / len(technique),
        p50_seconds=quantile(seconds, 0.50),
        p90_seconds=quantile(seconds, 0.90),
        p99_seconds=quantile(seconds, 0.99),
        p99_is_reliable=len(technique) >= P99_MIN_COUNT,
        headlines_per_second=len(technique) / total,
        new_tokens_per_second=tokens / total,
        first_token_seconds=math.fsum(g.first_token_seconds for g in technique) / len(technique),
        new_tokens=tokens,
        reference_new_tokens=sum(len(g.token_ids) for g in reference),
        reference_average_seconds=math.fsum(g.seconds for g in reference) / len(reference),
        speed_up=geometric_mean(log_ratios(reference, technique), launches),
        launches=launches,
        drafted=drafted,
        accepted=accepted,
        acceptance_rate=accepted / drafted if drafted else None,
        limit_seconds=limit,
        prompt_tokens=(min(g.prompt_tokens for g in technique), max(g.prompt_tokens for g in technique)),
        accepted_shares=_accepted_shares(technique),
    )


def _accepted_shares(generations: Sequence[Generation]) -> tuple[float, ...] | None:
    """By the place of a token in its draft; processes may differ in how long theirs are."""
    rounds: Counter[int] = Counter()
    accepted: Counter[int] = Counter()
    for generation in generations:
        for place, count in enumerate(generation.accepted_at):
            rounds[place] += generation.drafted // len(generation.accepted_at)
            accepted[place] += count
    return tuple(accepted[place] / rounds[place] for place in sorted(rounds)) or None
