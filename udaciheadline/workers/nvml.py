"""What NVIDIA's driver says of the GPUs (NVML, by the package nvidia-ml-py): the energy that they took, what holds
their clocks down, and whose processes are on them."""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

SLOWED = {
    0x04: "its power limit",
    0x08: "the hardware, which slows it down",
    0x20: "its temperature",
    0x40: "its temperature, by the hardware",
    0x80: "the power supply",
}
"""Why a GPU's clocks are lower than they could be, by NVML's bits, as far as that is not a choice of its user."""

POLICIES = {0: "its power limit", 1: "its temperature"}
"""The same by NVML's policies, whose time the driver counts."""

NO_DISTURBANCE = 0.05  # a clock that is held down for so small a share of the time
LOOK_SECONDS = 0.5  # between two looks at the processes: each takes a millisecond


class Nvml:
    """The first `count` GPUs of those that CUDA shows."""

    source = "NVML"

    def __init__(self, nvml: Any, count: int) -> None:
        shown = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")  # NVML does not know of it
        names = shown[:count] if shown[0] else map(str, range(count))
        self._nvml = nvml
        self.error: type[Exception] = nvml.NVMLError
        self._devices = [
            nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdecimal() else nvml.nvmlDeviceGetHandleByUUID(name)
            for name in map(str.strip, names)
        ]

    def joules(self) -> float:
        """Of all of them together."""
        return sum(self._nvml.nvmlDeviceGetTotalEnergyConsumption(device) for device in self._devices) / 1000

    def slowed(self) -> list[str]:
        """What keeps the clocks of any of them down at this moment."""
        bits = 0
        for device in self._devices:
            bits |= self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(device)
        return [text for bit, text in SLOWED.items() if bits & bit]

    def slowed_seconds(self) -> dict[str, float]:
        """How long each reason has kept the clocks of one of them down since the driver was loaded, the longest."""
        return {
            text: max(self._nvml.nvmlDeviceGetViolationStatus(d, policy).violationTime for d in self._devices) / 1e9
            for policy, text in POLICIES.items()
        }

    def processes(self) -> set[int]:
        """Those that compute on any of them."""
        return {p.pid for device in self._devices for p in self._nvml.nvmlDeviceGetComputeRunningProcesses(device)}


@contextlib.contextmanager
def gpus(count: int) -> Iterator[Nvml | None]:
    """The first `count` of them; None where nothing answers, or the package is missing."""
    try:
        import pynvml
    except ImportError:
        yield None
        return
    try:
        pynvml.nvmlInit()
        found = Nvml(pynvml, count)
        found.joules(), found.slowed()  # old cards know neither
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield found
    except pynvml.NVMLError:  # it answers no more: whoever uses the GPU will say so
        pass
    finally:
        pynvml.nvmlShutdown()


@contextlib.contextmanager
def watching(count: int) -> Iterator["Watch | None"]:
    """A watch over the first `count` of them; None where nothing answers, or not what it asks."""
    with gpus(count) as nvml:
        watch = None
        if nvml is not None:
            with contextlib.suppress(nvml.error):
                watch = Watch(nvml)
        yield watch


class Watch:
    """What disturbs a row on its GPUs from now on: clocks that are held down, and processes that are none of ours."""

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml
        self._strangers, self._unknown = set[int](), set[int]()  # of all looks, and of the last one
        self._start = self._looked = time.monotonic()
        self._before = nvml.slowed_seconds()
        self._see()

    def look(self) -> None:
        """Sees who is there, if the last look is some time ago."""
        if time.monotonic() - self._looked > LOOK_SECONDS:
            with contextlib.suppress(self._nvml.error):
                self._see()

    def said(self) -> tuple[str, ...]:
        """What there was, one phrase each."""
        seconds, shares = time.monotonic() - self._start, {}
        with contextlib.suppress(self._nvml.error):
            self._see()
            shares = {why: (now - self._before[why]) / seconds for why, now in self._nvml.slowed_seconds().items()}
        found = [
            f"its GPU was slowed down by {why} for {min(share, 1):.0%} of the time"
            for why, share in shares.items()
            if share > NO_DISTURBANCE
        ]
        if self._strangers:
            pids = ", ".join(map(str, sorted(self._strangers)))
            found.append(f"its GPU was shared with other processes ({pids})")
        return tuple(found)

    def _see(self) -> None:
        import psutil

        self._looked = time.monotonic()
        there = self._nvml.processes()
        if there:
            own = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
            # Of one that is not to be seen from here (a container's) nobody knows whose it is, and a worker of ours
            # that has just ended is there for a moment.
            there = {pid for pid in there - own if psutil.pid_exists(pid)}
        self._strangers |= there & self._unknown
        self._unknown = there
