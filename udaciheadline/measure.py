"""Clocks and memory of the process that runs a model, and what a timed run amounts to.

The clocks wait for the device before they are read, since CUDA returns from a launch before the work is done. Times
are taken where the model runs, so moving prompts and headlines between processes is in no number.
"""

import math
import time
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path

from udaciheadline.records import BuildInfo, Generation, Limits, Measurement, Memory, Parallel
from udaciheadline.statistics import geometric_mean

# Below 299 values a 99th percentile has no 95 % upper confidence bound (1 - 0.99**299 = 0.95): it is marked.
P99_MIN_COUNT = 299
FIRST_BATCH = 16
LIMIT_REPEATS = 10
LIMIT_BYTES = 2**30  # more than any cache, and little beside a model that just fits


def synchronize(device: str) -> None:
    """Waits until every kernel launched on `device` has ended; the CPU has nothing to wait for."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def now(device: str) -> float:
    """Seconds on a monotonic clock, read after all work on `device` is done."""
    synchronize(device)
    return time.perf_counter()


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


class MemoryMeter:
    """Peaks of every device and of this process, from `reset` on."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._host_was_reset = False

    def reset(self) -> None:
        """Starts all peaks anew."""
        if self._device == "cuda":
            import torch

            torch.cuda.empty_cache()  # blocks cached by what ran before would count as reserved by what runs next
            for index in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(index)
        try:
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM to the present size
            self._host_was_reset = True
        except OSError:  # not Linux, or a sandbox
            self._host_was_reset = False

    def peak(self) -> Memory:
        """The peaks since `reset`; no host peak where the kernel cannot reset it.

        VmHWM and not `ru_maxrss`, which survives exec and so reports the peak of whoever started the process.
        """
        allocated: tuple[int, ...] = ()
        reserved: tuple[int, ...] = ()
        if self._device == "cuda":
            import torch

            indices = range(torch.cuda.device_count())
            allocated = tuple(torch.cuda.max_memory_allocated(i) for i in indices)
            reserved = tuple(torch.cuda.max_memory_reserved(i) for i in indices)
        host = None
        if self._host_was_reset:
            status = Path("/proc/self/status").read_text("ascii", "replace")
            host = int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]) * 1024
        return Memory(allocated, reserved, host)


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
        peak_bytes=tuple(sum(peak.device_allocated_peak_bytes) or peak.host_peak_bytes for peak in peaks),
        communication_share=tuple(shares),
        job_communication_share=tuple(job_shares),
        layers=tuple(int(info.details["layers"]) for info in infos) if "layers" in infos[0].details else None,
    )


def best_batch_size(job: Callable[[int], tuple[float, int]], most: int) -> tuple[int, int | None]:
    """The number of articles at a time, of at most so many, that writes most headlines a second, and one that did not
    fit in memory, if any was found.

    `job` takes a number and gives the seconds and the number that fitted. It is asked for `FIRST_BATCH`, twice that,
    and so on up to `most`, until one is slower than the one before, or does not fit.
    """
    best, fastest = 0, math.inf
    for size in [*takewhile(lambda n: n < most, (FIRST_BATCH << i for i in range(20))), most]:
        seconds, fitted = job(size)
        if seconds < fastest:
            best = fitted
        if fitted < size:
            return best, size
        if seconds > fastest:
            break
        fastest = seconds
    return best, None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device or the host has no memory left."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def device_limits(device: str, dtype: str, size_bytes: int) -> Limits:
    """What `device` can do, in the torch dtype named `dtype`: a second or less of work.

    The bandwidth is that of memory as large as the weights (`size_bytes`), since a model that fits in a cache is read
    from there: the best of copying it (read and written) and of adding it up (read).
    """
    import torch

    def seconds(function: Callable[[], object]) -> float:
        function()
        times = []
        for _ in range(LIMIT_REPEATS):
            start = now(device)
            function()
            times.append(now(device) - start)
        return min(times)

    kind = getattr(torch, dtype)
    size_bytes = min(size_bytes, LIMIT_BYTES)
    source = torch.randn(size_bytes // kind.itemsize, device=device, dtype=kind)
    target = torch.empty_like(source)
    bandwidth = max(2 * size_bytes / seconds(lambda: target.copy_(source)), size_bytes / seconds(source.sum))
    n = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=kind) for _ in range(2))
    rate = 2 * n**3 / seconds(lambda: a @ b)
    return Limits(bandwidth, rate)


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
    technique: Sequence[Generation], reference: Sequence[Generation], limit: float | None = None
) -> Measurement:
    """What one round an article, paired with the reference, amounts to; `limit` as in `limit_seconds`."""
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
        speed_up=geometric_mean(log_ratios(reference, technique)),
        drafted=drafted,
        accepted=accepted,
        acceptance_rate=accepted / drafted if drafted else None,
        limit_seconds=limit,
    )
