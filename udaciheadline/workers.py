"""Every engine lives in a worker process of its own: started, called, timed out and killed from here.

A process is the only thing that frees a model for certain, keeps one technique's memory out of another's peak, and can
be killed when it hangs. The parent talks to it over a pipe, one call at a time; the worker answers with a value or
with the reason why there is none. Workers are forked from a server process that has already imported torch and
transformers, but touched no device: a technique then starts in a fraction of a second instead of many.
"""

import contextlib
import logging
import multiprocessing
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from tqdm import tqdm

from udaciheadline.measure import MemoryMeter, device_limits, is_out_of_memory
from udaciheadline.records import BuildInfo, EngineSpec, Limits, Unsupported, UsageError
from udaciheadline.techniques import Technique

# GNU OpenMP lets a thread that waits spin for milliseconds, on the core that another process may need: beside one busy
# process, headlines then took 3 times as long. Spinning a thirtieth of that costs nothing where the cores are free.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# What torch.compile makes takes half a minute: it is kept where it outlives a restart of the machine, as torch's own
# default, a temporary folder, does not. Where there is no such place, that default stands.
if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
    with contextlib.suppress(OSError, RuntimeError):
        _cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "udaciheadline" / "inductor"
        _cache.mkdir(parents=True, exist_ok=True)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(_cache)

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["udaciheadline.engines.transformers"])


class WorkerError(Exception):
    """A worker gave no answer. `status` is "crash", "oom", "timeout", "error" (something the user can mend) or
    "skipped" (the technique is not for this model); the message is one sentence, `details` the worker's traceback or
    last output, if any."""

    def __init__(self, status: str, reason: str, details: str = "") -> None:
        super().__init__(reason)
        self.status, self.reason, self.details = status, reason, details


class Worker:
    """One engine in one process. Use `call`; after a WorkerError the process is gone.

    `timeout` seconds are for all calls together, the build included, until `renew`: it bounds a technique, not a call.
    """

    def __init__(self, technique: Technique, spec: EngineSpec, timeout: float) -> None:
        self._left = self._timeout = timeout
        self._log = tempfile.NamedTemporaryFile(prefix="udaciheadline-", suffix=".log")  # noqa: SIM115, see close
        self._oom_kills = _oom_kills()
        self._connection, child = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(
            target=_serve, args=(child, self._log.name, technique, spec), name=technique.name, daemon=True
        )
        start = time.perf_counter()
        try:
            self._process.start()
        finally:
            child.close()  # the worker holds the only other end, so its death ends a wait at once
        self.info: BuildInfo = self._receive()
        self.build_seconds = time.perf_counter() - start

    def call(self, method: str, *args: Any) -> Any:
        """The answer of `_Server.method(*args)` in the worker. Raises WorkerError."""
        try:
            self._connection.send((method, args))
        except OSError:
            raise self._death() from None
        return self._receive()

    @property
    def pid(self) -> int:
        """The process of the engine."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def seconds_left(self) -> float:
        """What is left of the time-out."""
        return self._left

    def renew(self) -> None:
        """Grants the whole time again: the reference engine outlives the techniques that it is compared with."""
        self._left = self._timeout

    def close(self) -> None:
        """Ends the process, whatever it is doing, and waits until it is gone. May be called again."""
        self._process.kill()  # it has nothing to save, and a clean exit of CUDA and torch takes longer
        self._process.join()
        self._connection.close()
        self._log.close()

    def _receive(self) -> Any:
        start = time.perf_counter()
        try:
            answered = self._connection.poll(max(self._left, 0))
            self._left -= time.perf_counter() - start
            if not answered:
                reason = f"no answer within the {self._timeout:g} s of --timeout"
                raise self._end(WorkerError("timeout", reason, self._output()))
            kind, value = self._connection.recv()
        except (EOFError, OSError):
            raise self._death() from None
        if kind == "value":
            return value
        raise self._end(WorkerError(kind, redact(value[0]), redact(value[1])))

    def _death(self) -> WorkerError:
        self._process.join(5)
        code = self._process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            if -code == signal.SIGKILL and _oom_kills() > self._oom_kills:
                return self._end(WorkerError("oom", "the kernel killed the worker: the host's memory ran out"))
            reason = f"the worker was killed by {name}"
        else:
            reason = f"the worker ended with exit code {code}"
        return self._end(WorkerError("crash", reason, self._output()))

    def _end(self, error: WorkerError) -> WorkerError:
        self.close()
        return error

    def _output(self, lines: int = 20) -> str:
        with contextlib.suppress(OSError):
            text = Path(self._log.name).read_text("utf-8", "replace")
            return redact("\n".join(text.splitlines()[-lines:]))
        return ""


def redact(text: str) -> str:
    """The text without Hugging Face tokens: the value of HF_TOKEN and whatever looks like one."""
    token = os.environ.get("HF_TOKEN")
    text = text.replace(token, "***") if token else text
    return re.sub(r"\bhf_[A-Za-z0-9]{8,}\b", "***", text)


def _oom_kills() -> int:
    """How many processes the kernel has killed for memory since it started; 0 where it does not tell."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text("ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


class _Server:
    """What a worker can be asked, beside what its engine offers."""

    def __init__(self, technique: Technique, spec: EngineSpec) -> None:
        self._device = spec.device
        self._memory = MemoryMeter(spec.device)
        self.engine = technique.build(spec)
        self.generate = self.engine.generate
        self.likelihood = self.engine.likelihood
        self.reset_memory = self._memory.reset
        self.peak_memory = self._memory.peak

    def info(self) -> BuildInfo:
        """What the engine says of itself."""
        return self.engine.info

    def limits(self, dtype: str) -> Limits:
        """What the device can do, with memory as large as this engine's weights."""
        return device_limits(self._device, dtype, self.engine.info.weights_bytes)

    def profile(self, jobs: list[list[str]], trace: str) -> str:
        """Generates for each job (a list of prompts) under torch.profiler, after a warm-up; writes a Chrome trace to
        `trace` and returns the table of the operators that took longest."""
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU]
        if self._device == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self.engine.generate(jobs[0])
        with profile(activities=activities) as profiler:
            for job in jobs:
                self.engine.generate(job)
        profiler.export_chrome_trace(trace)
        order = f"self_{self._device}_time_total"
        return str(profiler.key_averages().table(sort_by=order, row_limit=20, max_name_column_width=60))


def machine(device: str) -> dict[str, str]:
    """What the numbers depend on: versions, threads, and the GPU with its driver and CUDA version."""
    return _elsewhere(_machine, device)


def choose_device(device: str, dtype: str) -> tuple[str, str]:
    """The device and the dtype's name that "auto" stands for; the same for every row.

    A GPU where there is one; bfloat16 on a GPU that has it, else float32. Raises UsageError for a missing GPU.
    """
    has_cuda, has_bf16 = _elsewhere(_cuda)
    if device == "auto":
        device = "cuda" if has_cuda else "cpu"
    if device == "cuda" and not has_cuda:
        raise UsageError(
            "--device cuda: PyTorch finds no CUDA GPU here: use --device cpu, or install a CUDA build of torch"
        )
    if dtype == "auto":
        dtype = "bfloat16" if device == "cuda" and has_bf16 else "float32"
    return device, dtype


def _elsewhere(function: Callable[..., Any], *args: Any) -> Any:
    """The function's value from a short-lived process, which may import torch and touch the GPU."""
    with ProcessPoolExecutor(max_workers=1, mp_context=_CONTEXT) as pool:
        return pool.submit(function, *args).result()


def _cuda() -> tuple[bool, bool]:
    import torch

    return torch.cuda.is_available(), torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def _machine(device: str) -> dict[str, str]:
    import torch

    names = ("torch", "transformers", "accelerate", "bitsandbytes", "datasets", "evaluate", "rouge_score")
    found = {"python": platform.python_version()} | {name: version(name) for name in names}
    found["threads"] = str(torch.get_num_threads())
    if device == "cuda":
        found["gpu"] = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        found["cuda"] = str(torch.version.cuda)
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
            output = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout
            found["gpu_driver"] = output.splitlines()[0].strip()
    return found


def _serve(connection: Connection, log: str, technique: Technique, spec: EngineSpec) -> None:
    """The life of a worker: builds the engine, answers calls, ends when the pipe or the parent does."""
    _settle(log)
    try:
        server = _Server(technique, spec)
        connection.send(("value", server.engine.info))
        while True:
            method, args = connection.recv()
            connection.send(("value", getattr(server, method)(*args)))
    except (EOFError, BrokenPipeError):
        pass
    except BaseException as error:
        traceback.print_exc()
        connection.send((_status(error), (_sentence(error), traceback.format_exc())))


def _settle(log: str) -> None:
    """Makes the process a quiet, expendable child of its parent."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it has a line for every int8 product
    tqdm.set_lock(threading.RLock())  # its default is a semaphore of the system, which a killed process leaves behind
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")  # when memory runs out, the row dies, not the session
    parent = multiprocessing.parent_process()
    assert parent is not None

    def die_with_parent() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=die_with_parent, daemon=True).start()


def _status(error: BaseException) -> str:
    if isinstance(error, Unsupported):
        return "skipped"
    if isinstance(error, UsageError):
        return "error"
    return "oom" if is_out_of_memory(error) else "crash"


def _sentence(error: BaseException) -> str:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return first if isinstance(error, UsageError | Unsupported) else f"{type(error).__name__}: {first}"
