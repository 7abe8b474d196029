"""What the devices of this machine take from the wall, by the counters that they have themselves.

A GPU counts millijoules since its driver was loaded (NVML), a processor microjoules of its whole package (RAPL: Khan et
al. 2018, https://doi.org/10.1145/3177754). Both count what else runs there and what the device takes when idle, and are
brought up to date every few to some hundred milliseconds: a window of less than a second means little.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from udaciheadline.records import Energy
from udaciheadline.workers.nvml import gpus

ENERGY_SECONDS = 3.0  # some counters move ten times a second
RAPL = Path("/sys/class/powercap")


class Meter(Protocol):
    """Something that counts joules; `source` is what it reads."""

    source: str

    def joules(self) -> float:
        """Those since some moment in the past."""

    def slowed(self) -> list[str]:
        """What keeps the clocks of the devices down at this moment."""


class Rapl:
    """All processor packages of this machine."""

    source = "RAPL"

    def __init__(self, packages: list[Path]) -> None:
        self._packages = packages
        self._most = [int((package / "max_energy_range_uj").read_text("utf-8")) for package in packages]
        self._last, self._turns = self._read(), [0] * len(packages)

    def joules(self) -> float:
        """A counter that has come to its end begins anew."""
        now = self._read()
        self._turns = [turns + (a < b) for turns, a, b in zip(self._turns, now, self._last, strict=True)]
        self._last = now
        return sum(value + turns * most for value, turns, most in zip(now, self._turns, self._most, strict=True)) / 1e6

    def slowed(self) -> list[str]:
        """It does not say."""
        return []

    def _read(self) -> list[int]:
        return [int((package / "energy_uj").read_text("utf-8")) for package in self._packages]


def spent(meter: Meter, write: Callable[[], int]) -> Energy:
    """What headlines take, written for as long as the counter needs; `write` gives how many it wrote each time."""
    count, slowed = 0, dict.fromkeys(meter.slowed())
    before, start = meter.joules(), time.monotonic()
    while (seconds := time.monotonic() - start) < ENERGY_SECONDS:
        count += write()
        slowed |= dict.fromkeys(meter.slowed())
    return Energy((meter.joules() - before) / count, count, seconds, meter.source, tuple(slowed))


@contextlib.contextmanager
def meter(device: str, count: int) -> Iterator[Meter | None]:
    """That of the first `count` GPUs, or of this machine's processors; None where none answers."""
    if device != "cuda":
        found: Meter | None = None
        with contextlib.suppress(OSError, ValueError):
            packages = sorted(path for path in RAPL.glob("*-rapl:*") if path.name.count(":") == 1)
            found = Rapl(packages) if packages else None
        yield found
        return
    with gpus(count) as nvml:
        yield nvml
