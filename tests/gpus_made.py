"""NVML of two GPUs that are none."""

from types import SimpleNamespace


class Gpus:
    """They take 50 J each between two looks at them."""

    class NVMLError(Exception):
        """What NVML raises."""

    def __init__(self, reasons: tuple[int, int] = (0, 0)) -> None:
        self.reasons, self.looks = reasons, 0
        self.slowed_seconds = [[0.0, 0.0], [0.0, 0.0]]  # of each policy: each GPU
        self.pids: list[list[int]] = [[], []]

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetHandleByUUID(self, name: str) -> int:
        return int(name.removeprefix("GPU-"))

    def nvmlDeviceGetTotalEnergyConsumption(self, device: int) -> int:
        self.looks += 1
        return (self.looks - 1) // 2 * 50_000

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, device: int) -> int:
        return self.reasons[device]

    def nvmlDeviceGetViolationStatus(self, device: int, policy: int) -> SimpleNamespace:
        return SimpleNamespace(violationTime=int(self.slowed_seconds[policy][device] * 1e9))

    def nvmlDeviceGetComputeRunningProcesses(self, device: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid) for pid in self.pids[device]]
