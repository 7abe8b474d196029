"""The processes that workers are made of, on this host: forked, looked at and ended from here.

They are forked from a server process that has already imported torch and transformers, but touched no device: a
technique then starts in a fraction of a second instead of many. Where something has touched a GPU in that server all
the same, nothing that is forked from it can use one: then each process is started anew.
"""

import contextlib
import multiprocessing
import os
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import reduction, resource_tracker, util
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from udaciheadline.checkpoints import home
from udaciheadline.records import EngineSpec, UsageError
from udaciheadline.techniques import Technique
from udaciheadline.workers.serving import LOOPBACK, Place, end_with_parent, serve

# GNU OpenMP lets a thread that waits spin for milliseconds, on the core that another process may need: beside one busy
# process, headlines then took 3 times as long. Spinning a thirtieth of that costs nothing where the cores are free.
SET_HERE: list[str] = []  # variables that all processes inherit, and other code has to set for itself
if "OMP_WAIT_POLICY" not in os.environ and "GOMP_SPINCOUNT" not in os.environ:
    os.environ["GOMP_SPINCOUNT"] = "10000"
    SET_HERE.append("GOMP_SPINCOUNT")

# What torch.compile makes takes half a minute, on a GPU: it is kept where it outlives a restart of the machine, as
# torch's own default, a temporary folder, does not. Where there is no such place, that default stands.
if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
    with contextlib.suppress(OSError):
        if _cache := home.folder("inductor"):
            _cache.mkdir(parents=True, exist_ok=True)
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(_cache)
            SET_HERE.append("TORCHINDUCTOR_CACHE_DIR")

PRELOAD = ["udaciheadline.workers.preload"]  # what the server imports

STACK_SECONDS = 0.3  # that a process gets to write where it is

# Of the temporary folder: the server's socket adds 32 bytes, and a socket's path has 104 on macOS, 108 on Linux.
LONGEST_FOLDER = 70
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


class Log:
    """A file without a name, which goes with the last process that has it open, however that ends.

    It can be handed over to a process that is being started: what arrives there is a file descriptor.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115, see close

    def __reduce__(self) -> tuple[Any, ...]:
        return _detach, (reduction.DupFd(self._file.fileno()),)

    def read(self) -> str:
        """All of it, without moving the place at which the process writes on."""
        descriptor = self._file.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode("utf-8", "replace")

    @property
    def closed(self) -> bool:
        """Whether it is closed here."""
        return self._file.closed

    def close(self) -> None:
        """May be called again."""
        self._file.close()


def _detach(descriptor: Any) -> int:
    return descriptor.detach()


class Process:
    """A process that holds an engine, or one rank of it, and writes to a log."""

    def __init__(self, technique: Technique, spec: EngineSpec, place: Place, connection: Connection) -> None:
        """`connection` is handed over to the process: it then holds the only one, so that its death ends a wait at the
        other end at once."""
        self._oom_kills = _oom_kills()
        with connection:
            self._log = Log()
            self._process = _context().Process(  # type: ignore[attr-defined]
                target=serve, args=(connection, self._log, technique, spec, place), name=technique.name, daemon=True
            )
            with _deaf_to_interrupts():
                self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def death(self, seconds: float = 0) -> tuple[str, str] | None:
        """The status and the sentence of its end, waited for that long; None while it lives."""
        self._process.join(seconds)
        code = self._process.exitcode
        if code is None:
            return None
        if code >= 0:
            return "crash", f"the worker ended with exit code {code}"
        if -code == signal.SIGKILL and _oom_kills() > self._oom_kills:
            return "oom", "the kernel killed the worker: the host's memory ran out"
        return "crash", f"the worker was killed by {signal.Signals(-code).name}"

    def output(self, lines: int = 20) -> str:
        """The last that it wrote."""
        return "" if self._log.closed else redact("\n".join(self._log.read().splitlines()[-lines:]))

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

    def kill(self) -> None:
        """Ends it, whatever it is doing: it has nothing to save, and a clean exit of CUDA and torch takes longer."""
        self._process.kill()

    def close(self) -> None:
        """Waits until it is gone. May be called again."""
        self._process.join()
        self._log.close()


@dataclass(frozen=True)
class Here:
    """This host, where a worker's processes are unless there are others (`hosts.py`): what messages call it, and its
    address, as others reach it."""

    name: str = ""
    address: str = LOOPBACK

    @property
    def gpus(self) -> int:
        """The CUDA devices that torch finds."""
        return elsewhere(cuda)[0]

    def start(self, technique: Technique, spec: EngineSpec, place: Place) -> tuple[Connection, Process]:
        """A process, and the connection to it."""
        ours, its = multiprocessing.Pipe()
        return ours, Process(technique, spec, place, its)


def elsewhere(function: Callable[..., Any], *args: Any) -> Any:
    """The function's value from a short-lived process, which may import torch and touch the GPU."""
    return _in(_context(), function, *args)


def forks() -> bool:
    """Whether processes are forked from the server: else each of them takes some seconds to start."""
    return _context().get_start_method() == "forkserver"


@cache
def _context() -> BaseContext:
    """How processes are made, from the first to the last. Raises UsageError."""
    _find_place_for_socket()
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(PRELOAD)
    return multiprocessing.get_context("spawn") if _in(server, _is_without_cuda) else server


def _find_place_for_socket() -> None:
    """Has multiprocessing put its sockets into a short folder where the temporary one is too long. Raises UsageError
    where there is none."""
    longest = tempfile.gettempdir()
    if len(os.fsencode(longest)) <= LONGEST_FOLDER:
        return
    for folder in SHORT_FOLDERS:
        with contextlib.suppress(OSError):
            tempfile.tempdir = folder
            try:
                util.get_temp_dir()  # it makes one of its own there, keeps to it, and removes it in the end
            finally:
                tempfile.tempdir = longest
            return
    raise UsageError(f"TMPDIR {longest}: it is too long for a socket's path: give a folder with a shorter one")


def _in(context: BaseContext, function: Callable[..., Any], *args: Any) -> Any:
    with ProcessPoolExecutor(max_workers=1, mp_context=context, initializer=end_with_parent) as pool:
        with _deaf_to_interrupts():
            future = pool.submit(function, *args)
        return future.result()


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes that are started here, the server too, are deaf to Ctrl-C from their first moment: it reaches the whole
    group, and the parent decides."""
    resource_tracker.ensure_running()  # it would end this
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _is_without_cuda() -> bool:
    """Whether there are GPUs that this process cannot use, as the one that it was forked from has."""
    import torch

    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError):  # there may be no GPU, or no torch for one
        return torch.cuda._is_in_bad_fork() or torch.cuda.device_count() > 0
    return False


def cuda() -> tuple[int, bool]:
    """How many CUDA devices torch finds, and whether they have bfloat16."""
    import torch

    return torch.cuda.device_count(), torch.cuda.is_available() and torch.cuda.is_bf16_supported()


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
