"""The clock, the memory and the limits of the device that an engine runs on."""

import mmap
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import torch

from udaciheadline.engines import device as module
from udaciheadline.engines.device import MemoryMeter, device_limits, free_cached, is_out_of_memory, now


@pytest.mark.parametrize(("device", "waits"), [("cpu", 0), ("cuda", 1)])
def test_the_clock_waits_for_the_gpu_before_it_is_read(
    monkeypatch: pytest.MonkeyPatch, device: str, waits: int
) -> None:
    events: list[str] = []
    cuda = SimpleNamespace(synchronize=lambda: events.append("waited"))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: events.append("read")))
    now(device)
    assert events == ["waited"] * waits + ["read"]


# -- memory ----------------------------------------------------------------------------------------------------------

SIZE = 96 * 2**20
NEARLY = 0.985 * SIZE  # the kernel counts pages in batches

resets_peaks = pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux")


def touch_and_free() -> None:
    """Allocates memory, writes to every page of it, and gives it back to the kernel."""
    with mmap.mmap(-1, SIZE) as memory:
        for page in range(0, SIZE, mmap.PAGESIZE):
            memory[page] = 1


@pytest.fixture
def peaks() -> tuple[int, int, int]:
    """Host peaks: without, with, and after an allocation, each since a reset of its own."""
    meter, found = MemoryMeter("cpu"), []
    for act in (lambda: None, touch_and_free, lambda: None):
        meter.reset()
        act()
        found.append(meter.peak().host_peak_bytes)
    return tuple(found)  # type: ignore[return-value]


@resets_peaks
def test_the_peak_holds_memory_that_was_touched_and_freed_since_the_reset(peaks: tuple[int, int, int]) -> None:
    idle, busy, _ = peaks
    assert busy >= SIZE
    assert busy - idle >= NEARLY


@resets_peaks
def test_a_reset_forgets_the_peak(peaks: tuple[int, int, int]) -> None:
    _, busy, after = peaks
    assert busy - after >= NEARLY


@resets_peaks
def test_a_cpu_has_no_device_peaks() -> None:
    meter = MemoryMeter("cpu")
    meter.reset()
    memory = meter.peak()
    assert (memory.device_allocated_peak_bytes, memory.device_reserved_peak_bytes) == ((), ())


def test_without_a_reset_there_is_no_host_peak() -> None:
    """It would be that of whatever the process did before."""
    assert MemoryMeter("cpu").peak().host_peak_bytes is None


def test_where_the_kernel_cannot_reset_the_peak_none_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> NoReturn:
        raise PermissionError

    monkeypatch.setattr(Path, "write_text", refuse)
    meter = MemoryMeter("cpu")
    meter.reset()
    assert meter.peak().host_peak_bytes is None


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"), True),
        (RuntimeError("the shapes do not match"), False),
        (ValueError("memory"), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error: Exception, is_one: bool) -> None:
    assert is_out_of_memory(error) is is_one


# -- what the device can do ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_limits_of_a_cpu_are_possible_figures(dtype: str) -> None:
    limits = device_limits("cpu", dtype, 2**16)
    assert 1e6 < limits.bytes_per_second < 1e14
    assert 1e6 < limits.flops_per_second < 1e15


@pytest.mark.parametrize(("limit", "expected"), [("1000\n", 1000), ("max\n", 5000), (None, 5000)])
def test_the_memory_of_a_cpu_is_what_its_container_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, expected: int
) -> None:
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
    monkeypatch.setattr("udaciheadline.engines.device.MEMORY_LIMIT", tmp_path / "memory.max")
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=5000))
    assert free_cached("cpu") == expected
