"""What the figures of a run depend on beside what it was asked for: processors, graphics cards, versions, commit."""

import contextlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from udaciheadline.workers.processes import elsewhere

PACKAGES = "torch transformers accelerate bitsandbytes datasets evaluate rouge_score triton gguf".split()
GPU_QUERY = "driver_version,power.limit,clocks.max.sm,clocks.max.memory,compute_mode"
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
QUOTA = Path("/sys/fs/cgroup/cpu.max")


def machine(device: str) -> dict[str, str]:
    """Names and values; what cannot be read here is left out. torch is asked in a process of its own."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found | _processor() | elsewhere(_in_torch, device) | _commit() | (_graphics() if device == "cuda" else {})


def _processor() -> dict[str, str]:
    found = {"cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())}
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        found["cpu"] = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    with contextlib.suppress(OSError):
        found["governor"] = GOVERNOR.read_text("utf-8").strip()
    with contextlib.suppress(OSError, ValueError):
        quota, period = QUOTA.read_text("utf-8").split()
        if quota != "max":
            found["cpu_quota"] = f"{int(quota) / int(period):g} cores"
    return found


def _in_torch(device: str) -> dict[str, str]:
    import torch

    found = {"threads": str(torch.get_num_threads())}
    if device == "cuda":
        found["gpu"] = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        found["cuda"] = str(torch.version.cuda)
    return found


def _commit() -> dict[str, str]:
    """That of the package, where it lies in a checkout."""
    here = str(Path(__file__).parent)
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        commit = _output("git", "-C", here, "rev-parse", "--short=12", "HEAD")
        changed = _output("git", "-C", here, "status", "--porcelain", "--untracked-files=no")
        return {"commit": commit + (" with changes" if changed else "")}
    return {}


def _graphics() -> dict[str, str]:
    """What the driver says of the first GPU."""
    with contextlib.suppress(OSError, subprocess.SubprocessError, IndexError):
        values = _output("nvidia-smi", f"--query-gpu={GPU_QUERY}", "--format=csv,noheader").splitlines()[0].split(",")
        names = ("gpu_" + name.removesuffix("_version").replace(".", "_") for name in GPU_QUERY.split(","))
        found = dict(zip(names, map(str.strip, values), strict=False))
        # Asked before any worker of ours is there.
        others = _output("nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader").split()
        return found | ({"gpu_other_processes": ", ".join(others)} if others else {})
    return {}


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
