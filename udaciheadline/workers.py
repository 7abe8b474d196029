"""Every engine lives in a worker process of its own, or in several: started, called, timed out and killed from here.

A process is the only thing that frees a model for certain, keeps one technique's memory out of another's peak, and can
be killed when it hangs. The parent talks to it over a pipe, one call at a time; the worker answers with a value or
with the reason why there is none. Workers are forked from a server process that has already imported torch and
transformers, but touched no device: a technique then starts in a fraction of a second instead of many.

A parallel technique has several ranks, one process and one device each, which all get every call and work on it
together; the first one's answer counts. Whatever happens to one of them ends them all.
"""

import contextlib
import multiprocessing
import os
import platform
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from udaciheadline.records import BuildInfo, EngineSpec, UsageError
from udaciheadline.serving import serve
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


DEATH_SECONDS = 0.5  # until the death of a process is seen after another one has complained of it
MOST_RANKS = 4  # unless more are asked for: each all-reduce costs more, and each part is smaller
STACK_SECONDS = 0.3  # that a process gets to write where it is


class WorkerError(Exception):
    """A worker gave no answer. `status` is "crash", "oom", "timeout", "error" (something the user can mend) or
    "skipped" (the technique is not for this model); the message is one sentence, `details` the worker's traceback or
    last output, if any."""

    def __init__(self, status: str, reason: str, details: str = "") -> None:
        super().__init__(reason)
        self.status, self.reason, self.details = status, reason, details


class Worker:
    """One engine, in one process or spread over several ranks. Use `call`; after a WorkerError all of it is gone.

    `timeout` seconds are for all calls together, the build included, until `renew`: it bounds a technique, not a call.
    """

    def __init__(self, technique: Technique, spec: EngineSpec, timeout: float) -> None:
        self._left = self._timeout = timeout
        self._oom_kills = _oom_kills()
        self._ranks: list[_Rank] = []
        start = time.perf_counter()
        try:
            for rank in range(technique.ranks(spec)):
                self._ranks.append(_Rank(technique, spec, rank))
            if len(self._ranks) > 1:
                # Rank 0 opens the port on which the others find it, and says which: a free one was given to it.
                (port,) = self._receive(self._ranks[:1])
                self._send(self._ranks[1:], port)
        except BaseException:
            self.close()
            raise
        self.infos: list[BuildInfo] = self._receive(self._ranks)
        self.build_seconds = time.perf_counter() - start

    @property
    def info(self) -> BuildInfo:
        """What the engine says of itself, in its first rank."""
        return self.infos[0]

    @property
    def pids(self) -> list[int]:
        """The processes of the engine."""
        return [rank.pid for rank in self._ranks]

    @property
    def seconds_left(self) -> float:
        """What is left of the time-out."""
        return self._left

    def call(self, method: str, *args: Any) -> Any:
        """The answer of `Server.method(*args)` in the first rank; all are asked. Raises WorkerError."""
        return self.call_all(method, *args)[0]

    def call_all(self, method: str, *args: Any) -> list[Any]:
        """The answers of all ranks. Raises WorkerError."""
        self._send(self._ranks, (method, args))
        return self._receive(self._ranks)

    def renew(self) -> None:
        """Grants the whole time again: the reference engine outlives the techniques that it is compared with."""
        self._left = self._timeout

    def close(self) -> None:
        """Ends the processes, whatever they are doing, and waits until they are gone. May be called again."""
        for rank in self._ranks:
            rank.process.kill()  # it has nothing to save, and a clean exit of CUDA and torch takes longer
        for rank in self._ranks:
            rank.process.join()
            rank.connection.close()
            rank.log.close()

    def _send(self, ranks: list["_Rank"], message: Any) -> None:
        for rank in ranks:
            try:
                rank.connection.send(message)
            except OSError:
                raise self._death(rank) from None

    def _receive(self, ranks: list["_Rank"]) -> list[Any]:
        """One answer from each of these ranks; the first that has none to give ends them all."""
        answers: dict[_Rank, Any] = {}
        while missing := [rank for rank in ranks if rank not in answers]:
            start = time.perf_counter()
            ready = wait([rank.connection for rank in missing], max(self._left, 0))
            self._left -= time.perf_counter() - start
            if not ready:
                raise self._timed_out(missing)
            for rank in missing:
                if rank.connection in ready:
                    answers[rank] = self._answer(rank)
        return [answers[rank] for rank in ranks]

    def _answer(self, rank: "_Rank") -> Any:
        try:
            kind, value = rank.connection.recv()
        except (EOFError, OSError):
            raise self._death(rank) from None
        if kind == "value":
            return value
        # A rank whose partner died fails too: the death is the reason. It may take a moment to be seen.
        if len(self._ranks) > 1 and wait([other.process.sentinel for other in self._ranks], DEATH_SECONDS):
            raise self._death(next(other for other in self._ranks if other.process.exitcode is not None))
        raise self._end(WorkerError(kind, self._name(rank) + redact(value[0]), redact(value[1])))

    def _timed_out(self, missing: list["_Rank"]) -> WorkerError:
        within = f"within the {self._timeout:g} s of --timeout"
        if len(self._ranks) == 1:
            return self._end(WorkerError("timeout", f"no answer {within}", self._ranks[0].output()))
        for rank in missing:
            rank.say_where_it_is()
        # Who waits for another rank is inside torch; who is somewhere else has kept the others waiting.
        late = [rank for rank in missing if not rank.is_in_torch()] or missing
        names = ", ".join(str(rank.number) for rank in late)
        details = "\n".join(f"rank {rank.number}:\n{rank.output()}" for rank in self._ranks)
        noun = "rank" if len(late) == 1 else "ranks"
        return self._end(WorkerError("timeout", f"no answer from {noun} {names} {within}", details))

    def _death(self, rank: "_Rank") -> WorkerError:
        rank.process.join(5)
        code = rank.process.exitcode
        name = self._name(rank)
        if code is not None and code < 0:
            signal_name = signal.Signals(-code).name
            if -code == signal.SIGKILL and _oom_kills() > self._oom_kills:
                return self._end(WorkerError("oom", f"{name}the kernel killed the worker: the host's memory ran out"))
            reason = f"{name}the worker was killed by {signal_name}"
        else:
            reason = f"{name}the worker ended with exit code {code}"
        return self._end(WorkerError("crash", reason, rank.output()))

    def _name(self, rank: "_Rank") -> str:
        return f"rank {rank.number}: " if len(self._ranks) > 1 else ""

    def _end(self, error: WorkerError) -> WorkerError:
        self.close()
        return error


class _Rank:
    """One process of an engine, seen from the parent."""

    def __init__(self, technique: Technique, spec: EngineSpec, number: int) -> None:
        self.number = number
        self.log = tempfile.NamedTemporaryFile(prefix="udaciheadline-", suffix=".log")  # noqa: SIM115, see Worker.close
        self.connection, child = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(
            target=serve, args=(child, self.log.name, technique, spec, number), name=technique.name, daemon=True
        )
        try:
            self.process.start()
        finally:
            child.close()  # the process holds the only other end, so its death ends a wait at once

    @property
    def pid(self) -> int:
        """Its number in the system."""
        assert self.process.pid is not None
        return self.process.pid

    def output(self, lines: int = 20) -> str:
        """The last that it wrote."""
        with contextlib.suppress(OSError):
            return redact("\n".join(Path(self.log.name).read_text("utf-8", "replace").splitlines()[-lines:]))
        return ""

    def say_where_it_is(self) -> None:
        """Has it write its stack (`serving.serve` arranged for that) to its log."""
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGUSR1)
        time.sleep(STACK_SECONDS)

    def is_in_torch(self) -> bool:
        """Whether the innermost call of the stack that it wrote is one of torch's."""
        stack = self.output(200).rpartition("(most recent call first)")[2]
        frames = [line for line in stack.splitlines() if line.lstrip().startswith("File ")]
        return bool(frames) and "/torch/" in frames[0]


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


def machine(device: str) -> dict[str, str]:
    """What the numbers depend on: versions, threads, and the GPU with its driver and CUDA version."""
    return _elsewhere(_machine, device)


def choose_device(device: str, dtype: str) -> tuple[str, str]:
    """The device and the dtype's name that "auto" stands for; the same for every row.

    A GPU where there is one; bfloat16 on a GPU that has it, else float32. Raises UsageError for a missing GPU.
    """
    gpus, has_bf16 = _elsewhere(_cuda)
    has_cuda = gpus > 0
    if device == "auto":
        device = "cuda" if has_cuda else "cpu"
    if device == "cuda" and not has_cuda:
        raise UsageError(
            "--device cuda: PyTorch finds no CUDA GPU here: use --device cpu, or install a CUDA build of torch"
        )
    if dtype == "auto":
        dtype = "bfloat16" if device == "cuda" and has_bf16 else "float32"
    return device, dtype


def choose_ranks(ranks: int | None, device: str) -> int:
    """The number of ranks of a parallel technique: those asked for, else one a GPU, up to 4, and 2 on a CPU.

    Raises UsageError for more than there are GPUs.
    """
    if device == "cpu":
        return ranks or 2
    gpus, _ = _elsewhere(_cuda)
    if ranks is not None and ranks > gpus:
        raise UsageError(
            f"--ranks {ranks}: PyTorch finds {gpus} CUDA GPUs here, and each rank needs one: ask for fewer"
        )
    return ranks or min(gpus, MOST_RANKS)


def _elsewhere(function: Callable[..., Any], *args: Any) -> Any:
    """The function's value from a short-lived process, which may import torch and touch the GPU."""
    with ProcessPoolExecutor(max_workers=1, mp_context=_CONTEXT) as pool:
        return pool.submit(function, *args).result()


def _cuda() -> tuple[int, bool]:
    import torch

    return torch.cuda.device_count(), torch.cuda.is_available() and torch.cuda.is_bf16_supported()


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
