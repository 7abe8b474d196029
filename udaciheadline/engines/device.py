"""The device that an engine runs on: its clock, its memory, and what it can do at most.

The clock waits for the device before it is read, since CUDA returns from a launch before the work is done.
"""

import time
from collections.abc import Callable
from pathlib import Path

from udaciheadline.records import Limits, Memory

MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container
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


def free_cached(device: str) -> int:
    """Gives back to the device what is only cached of its memory; the bytes that it has altogether."""
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[1]
    import psutil

    total = int(psutil.virtual_memory().total)
    try:
        return min(total, int(MEMORY_LIMIT.read_text("ascii")))
    except (OSError, ValueError):  # no control group of ours, or "max"
        return total


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
