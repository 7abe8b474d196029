"""Clocks and memory of the process that runs a model, and what a timed run amounts to.

The clocks wait for the device before they are read, since CUDA returns from a launch before the work is done. Times
are taken where the model runs, so moving prompts and headlines between processes is in no number.
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path

from udaciheadline.records import Generation, Measurement, Memory
from udaciheadline.statistics import geometric_mean

# Below 299 values a 99th percentile has no 95 % upper confidence bound (1 - 0.99**299 = 0.95): it is marked.
P99_MIN_COUNT = 299


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


def quantile(sorted_values: Sequence[float], q: float) -> float:
    """The notebook's percentile: the value at index `int(q * n)`, the last where that is past the end."""
    return sorted_values[min(int(q * len(sorted_values)), len(sorted_values) - 1)]


def log_ratios(reference: Sequence[Generation], technique: Sequence[Generation]) -> list[float]:
    """Per article, the logarithm of the reference's seconds over the technique's: above 0 is faster."""
    return [math.log(r.seconds / t.seconds) for r, t in zip(reference, technique, strict=True)]


def summarise(technique: Sequence[Generation], reference: Sequence[Generation]) -> Measurement:
    """What one round an article, paired with the reference, amounts to."""
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
    )
