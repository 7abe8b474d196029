"""The other side of `worker.py`: the life of a process that holds an engine, or one rank of it."""

import contextlib
import faulthandler
import gzip
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import traceback
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from tqdm import tqdm

from udaciheadline.engines.codec import Limit
from udaciheadline.engines.device import MemoryMeter, device_limits, free_cached, is_out_of_memory
from udaciheadline.evidence.profiling import communication_share, micro_batches, profiled
from udaciheadline.records import BuildInfo, EngineSpec, Generation, Limits, Span, Unsupported, UsageError
from udaciheadline.techniques import Technique

LOOPBACK = "127.0.0.1"
RESTING_SHARE = 0.05  # of the device's memory, that an engine may keep while others are measured (`run.MOST_RESTING`)


@dataclass(frozen=True)
class Place:
    """Which of `ranks` processes this is, and which of those on its own host; the address of that host, and of the one
    of rank 0, as other hosts reach them."""

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0
    local_ranks: int = 1
    address: str = LOOPBACK
    first_address: str = LOOPBACK


class Server:
    """What a worker can be asked, beside what its engine offers."""

    def __init__(self, technique: Technique, spec: EngineSpec, place: Place) -> None:
        self._device, self._rank, self._ranks = spec.device, place.rank, place.ranks
        self._memory = MemoryMeter(spec.device)
        self.engine = technique.build(spec)
        texts = self.engine.texts
        self._met: set[int] = set()  # shapes of prompts
        self.check, self.fitting, self.likelihood = texts.check, texts.fitting, texts.likelihood
        self.preferences, self.rounding = texts.preferences, texts.rounding
        self.reset_memory = self._memory.reset
        self.peak_memory = self._memory.peak

    def warm_up(self, prompts: list[str]) -> tuple[float, float]:
        """Answers the longest of these prompts, for which an engine has to make most room: the seconds that this takes,
        and those of `answer` on average, at least: what a first answer of a shape takes more is not known yet."""
        longest = prompts[self.longest(prompts)]
        self._met.add(self.engine.shape(longest))
        first = last = self.generate([longest])[0].seconds
        further = {self.engine.shape(prompt) for prompt in prompts} - self._met
        if further:  # then the first answer of a shape is no measure of the others
            last = self.generate([longest])[0].seconds
        return first + (last if further else 0.0), last * (1 + len(further) / len(prompts))

    def answer(self, prompt: str) -> tuple[Generation, float]:
        """The headline of one prompt, from an engine that is warm: the first prompt of a shape is answered twice, and
        the seconds of its first answer stand beside it."""
        untimed, shape = 0.0, self.engine.shape(prompt)
        if shape not in self._met:
            self._met.add(shape)
            untimed = self.generate([prompt])[0].seconds
        (generation,) = self.generate([prompt])
        return generation, untimed

    def met(self, prompts: list[str]) -> list[int]:
        """Numbers of those of these prompts whose shapes were answered; the longest is answered first if none was."""
        if not self._met:
            self.warm_up(prompts)
        return [i for i, prompt in enumerate(prompts) if self.engine.shape(prompt) in self._met]

    def longest(self, prompts: list[str]) -> int:
        """The number of the longest of these prompts."""
        return self.engine.texts.longest(prompts, 1)[0]

    def generate(self, prompts: list[str], batch_size: int | None = None) -> list[Generation]:
        """The engine's headlines; ranks begin together, so that none waits in the time for another one's call."""
        self._meet()
        return self.engine.generate(prompts, batch_size)

    def job(self, prompts: list[list[int]], batch_size: int | None = None) -> tuple[list[tuple[int, ...]], float, int]:
        """The new tokens after each of these prompts in tokens, the engine's seconds, and how many at a time it were:
        what goes between two processes while the device waits, and no more."""
        self._meet()
        made = self.engine.generate_from(prompts, batch_size)
        return [generation.token_ids for generation in made], made[0].seconds, made[0].batch_size

    def limit(self) -> Limit:
        """The longest text that the engine takes."""
        limit: Limit = self.engine.texts.limit
        return limit

    def info(self) -> BuildInfo:
        """What the engine says of itself."""
        return self.engine.info

    def rest(self) -> bool:
        """Frees what is cached beside the weights; whether those are so few that they may stay while others are
        measured."""
        return self.engine.info.weights_bytes <= RESTING_SHARE * free_cached(self._device)

    def limits(self, dtype: str) -> Limits:
        """What the device can do, with memory as large as this engine's weights."""
        return device_limits(self._device, dtype, self.engine.info.weights_bytes)

    def communication_share(self, prompts: list[str], batch_size: int | None = None) -> float:
        """The share of the time in which this rank does nothing but talk to others or wait for them, while it makes
        these headlines: as a job with a batch size, one by one without."""
        jobs = [prompts] if batch_size else [[prompt] for prompt in prompts]
        return communication_share(self._profiled(jobs, batch_size), self._device)

    def profile(self, jobs: list[list[str]], batch_size: int, trace: str) -> tuple[str, list[Span], str]:
        """Generates for each job (a list of prompts), `batch_size` at a time, under torch.profiler, after a warm-up;
        writes a Chrome trace to `trace`, with "rank1." and so on before the name where this is not the first rank.
        Returns the table of the operators that took longest, when this rank worked on which micro-batch, and why the
        trace could not be written, if so: that is no reason to lose the row."""
        for job in jobs:
            self.generate(job, batch_size)
        profiler = self._profiled(jobs, batch_size)
        path = Path(trace)
        if self._rank:
            path = path.with_name(f"rank{self._rank}.{path.name}")
        unwritten = write_trace(profiler, path)
        order = f"self_{self._device}_time_total"
        table = profiler.key_averages().table(sort_by=order, row_limit=20, max_name_column_width=60)
        return str(table), micro_batches(profiler, self._device), unwritten

    def _profiled(self, jobs: list[list[str]], batch_size: int | None) -> Any:
        return profiled([partial(self.engine.generate, job, batch_size) for job in jobs], self._meet, self._device)

    def _meet(self) -> None:
        if self._ranks > 1:
            from torch import distributed

            distributed.barrier()


def write_trace(profiler: Any, path: Path) -> str:
    """Writes a Chrome trace (`.json.gz`); why that cannot be done, if so."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # on another host it may not be there
        profiler.export_chrome_trace(str(path))
        with gzip.open(path) as written:
            if written.read(1):
                return ""
    except OSError as error:
        return f"{path}: the trace cannot be written ({error.strerror})"
    # Torch writes it in the temporary folder first, and does not say that it could not.
    return f"{path}: the trace cannot be written (TMPDIR {tempfile.gettempdir()} has no room for it)"


def serve(connection: Connection, log: int, technique: Technique, spec: EngineSpec, place: Place) -> None:
    """The life of a process: builds the engine, answers calls, ends when the connection or the parent does.

    It writes its output, and at SIGUSR1 where it is, to the file descriptor `log`.
    """
    _settle(log)
    try:
        if place.ranks > 1:
            _join(connection, place, spec.device)
        server = Server(technique, spec, place)
        connection.send(("value", server.engine.info))
        while True:
            method, args = connection.recv()
            connection.send(("value", getattr(server, method)(*args)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    except BaseException as error:
        with contextlib.suppress(OSError):  # where there is no room for its log, its answer must come all the same
            traceback.print_exc()
        connection.send((_status(error), (_sentence(error), traceback.format_exc())))
        with contextlib.suppress(EOFError, OSError):
            connection.recv()  # until the parent ends it: were it gone, the other ranks would complain of that


def _join(connection: Connection, place: Place, device: str) -> None:
    """Makes this process one of several ranks that know each other, with a device or a share of the cores of its own.

    Rank 0 opens a port that is free and tells the parent, which tells the others. The variables are torchrun's, for
    libraries that look for them.
    """
    import torch
    from torch import distributed
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    os.environ |= {"RANK": str(place.rank), "WORLD_SIZE": str(place.ranks)}
    os.environ |= {"LOCAL_RANK": str(place.local_rank), "LOCAL_WORLD_SIZE": str(place.local_ranks)}
    if device == "cuda":
        torch.cuda.set_device(place.local_rank)
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // place.local_ranks))
    if (interface := _interface(place.address)) is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)  # gloo would take what the host's name stands for
    first = place.rank == 0
    port = 0 if first else connection.recv()
    store = TCPStore(place.first_address, port, place.ranks, is_master=first, wait_for_workers=False)
    if first:
        connection.send(("value", store.port))
    backend = "nccl" if device == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=place.rank, world_size=place.ranks)


def _interface(address: str) -> str | None:
    """The name of this host's network interface with that address, or None."""
    import psutil

    addresses = psutil.net_if_addrs().items()
    return next((name for name, each in addresses if any(a.address == address for a in each)), None)


def _settle(log: int) -> None:
    """Makes the process a quiet, expendable child of its parent."""
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    faulthandler.register(signal.SIGUSR1, file=sys.stderr)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it has a line for every int8 product
    tqdm.set_lock(threading.RLock())  # its default is a semaphore of the system, which a killed process leaves behind
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")  # when memory runs out, the row dies, not the session
    end_with_parent()


def end_with_parent() -> None:
    """Has this process end as soon as its parent does, however that ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait_for_parent() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait_for_parent, daemon=True).start()


def _status(error: BaseException) -> str:
    if isinstance(error, Unsupported):
        return "skipped"
    if isinstance(error, UsageError):
        return "error"
    return "oom" if is_out_of_memory(error) else "crash"


def _sentence(error: BaseException) -> str:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return first if isinstance(error, UsageError | Unsupported) else f"{type(error).__name__}: {first}"
