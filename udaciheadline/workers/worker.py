"""Every engine lives in a worker process of its own, or in several: started, called, timed out and killed from here.

A process is the only thing that frees a model for certain, keeps one technique's memory out of another's peak, and can
be killed when it hangs. The parent talks to it over a connection, one call at a time; the worker answers with a value
or with the reason why there is none.

A parallel technique has several ranks, one process and one device each, which all get every call and work on it
together; the first one's answer counts. Whatever happens to one of them ends them all. They are on this host, or spread
over those that `torchrun --nnodes` started (`hosts.py`): what is done with them is the same.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from udaciheadline.records import BuildInfo, EngineSpec, UsageError
from udaciheadline.techniques import Technique
from udaciheadline.workers.processes import Here, Process, cuda, elsewhere, redact
from udaciheadline.workers.serving import Place

if TYPE_CHECKING:
    from udaciheadline.workers.hosts import Host, RemoteProcess

DEATH_SECONDS = 0.5  # until the death of a process is seen after another one has complained of it
MOST_RANKS = 4  # unless more are asked for: each all-reduce costs more, and each part is smaller
HERE = (Here(),)


class WorkerError(Exception):
    """A worker gave no answer. `status` is "crash", "oom", "timeout", "error" (something the user can mend) or
    "skipped" (the technique is not for this model); the message is one sentence, `details` the worker's traceback or
    last output, if any."""

    def __init__(self, status: str, reason: str, details: str = "") -> None:
        super().__init__(reason)
        self.status, self.reason, self.details = status, reason, details


@dataclass(frozen=True, eq=False)
class _Rank:
    """One process of an engine and the connection to it; `name` is what messages call it."""

    name: str
    connection: Connection
    process: "Process | RemoteProcess"


class Worker:
    """One engine, in one process or spread over several ranks. Use `call`; after a WorkerError all of it is gone.

    `timeout` seconds are for all calls together, the build included, until `renew`: it bounds a technique, not a call.
    """

    def __init__(
        self, technique: Technique, spec: EngineSpec, timeout: float, hosts: Sequence["Here | Host"] = HERE
    ) -> None:
        self._left = self._timeout = timeout
        self._ranks: list[_Rank] = []
        start = time.perf_counter()
        try:
            for host, place in placed(technique.ranks(spec), hosts):
                name = f"rank {place.rank}" + (f" on {host.name}" if host.name else "")
                try:
                    self._ranks.append(_Rank(name, *host.start(technique, spec, place)))
                except OSError as error:
                    raise WorkerError("crash", redact(f"{name} cannot be started: {error}")) from None
            if len(self._ranks) > 1:
                # Rank 0 opens the port on which the others find it, and says which: a free one was given to it.
                (port,) = self._receive(self._ranks[:1])
                self._send(self._ranks[1:], port)
            self.infos: list[BuildInfo] = self._receive(self._ranks)
        except BaseException:
            self.close()
            raise
        self.build_seconds = time.perf_counter() - start

    @property
    def info(self) -> BuildInfo:
        """What the engine says of itself, in its first rank."""
        return self.infos[0]

    @property
    def pids(self) -> list[int]:
        """The processes of the engine, each by its number on its host."""
        return [rank.process.pid for rank in self._ranks]

    @property
    def seconds_left(self) -> float:
        """What is left of the time-out."""
        return self._left

    def call(self, method: str, *args: Any) -> Any:
        """The answer of `Server.method(*args)` in the first rank; all are asked. Raises WorkerError."""
        return self.call_all(method, *args)[0]

    def call_all(self, method: str, *args: Any) -> list[Any]:
        """The answers of all ranks. Raises WorkerError."""
        self.begin(method, *args)
        return self._receive(self._ranks)

    def begin(self, method: str, *args: Any) -> None:
        """Begins a call, whose answer `end` gives: meanwhile others have something to do here. Raises WorkerError."""
        self._send(self._ranks, (method, args))

    def end(self) -> Any:
        """The first rank's answer of the call that was begun. Raises WorkerError."""
        return self._receive(self._ranks)[0]

    def renew(self) -> None:
        """Grants the whole time again: the reference engine outlives the techniques that it is compared with."""
        self._left = self._timeout

    def close(self) -> None:
        """Ends the processes, whatever they are doing, and waits until they are gone. May be called again."""
        for rank in self._ranks:
            rank.process.kill()
        for rank in self._ranks:
            rank.process.close()
            rank.connection.close()

    def _send(self, ranks: list[_Rank], message: Any) -> None:
        for rank in ranks:
            try:
                rank.connection.send(message)
            except OSError:
                raise self._death(rank) from None

    def _receive(self, ranks: list[_Rank]) -> list[Any]:
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

    def _answer(self, rank: _Rank) -> Any:
        try:
            kind, value = rank.connection.recv()
        except (EOFError, OSError):
            raise self._death(rank) from None
        except Exception as error:  # what other code answers may be of a type that there is not here
            said = f"what it answers cannot be read ({type(error).__name__}: {error})"
            raise self._end(WorkerError("crash", self._of(rank) + redact(said))) from None
        if kind == "value":
            return value
        if dead := self._dead_partner():
            raise self._death(dead)
        raise self._end(WorkerError(kind, self._of(rank) + redact(value[0]), redact(value[1])))

    def _dead_partner(self) -> _Rank | None:
        """The rank whose death made another one fail, if so; it may take a moment to be seen."""
        end = time.perf_counter() + DEATH_SECONDS
        while len(self._ranks) > 1 and time.perf_counter() < end:
            for rank in self._ranks:
                if rank.process.death():
                    return rank
            time.sleep(DEATH_SECONDS / 20)
        return None

    def _timed_out(self, missing: list[_Rank]) -> WorkerError:
        within = f"within the {self._timeout:g} s of --timeout"
        if len(self._ranks) == 1:
            return self._end(WorkerError("timeout", f"no answer {within}", self._ranks[0].process.output()))
        for rank in missing:
            rank.process.say_where_it_is()
        # Who waits for another rank is inside torch; who is somewhere else has kept the others waiting.
        late = [rank for rank in missing if not rank.process.is_in_torch()] or missing
        names = ", ".join(rank.name for rank in late)
        details = "\n".join(f"{rank.name}:\n{rank.process.output()}" for rank in self._ranks)
        return self._end(WorkerError("timeout", f"no answer from {names} {within}", details))

    def _death(self, rank: _Rank) -> WorkerError:
        status, reason = rank.process.death(5) or ("crash", "the worker closed its connection")
        return self._end(WorkerError(status, self._of(rank) + reason, rank.process.output()))

    def _of(self, rank: _Rank) -> str:
        return f"{rank.name}: " if len(self._ranks) > 1 else ""

    def _end(self, error: WorkerError) -> WorkerError:
        self.close()
        return error


def placed(ranks: int, hosts: Sequence["Here | Host"]) -> list[tuple["Here | Host", Place]]:
    """Where each rank goes: a block of ranks that follow each other on every host, as equal as can be."""
    of = [hosts[rank * len(hosts) // ranks] for rank in range(ranks)]
    return [
        (host, Place(rank, ranks, rank - of.index(host), of.count(host), host.address, hosts[0].address))
        for rank, host in enumerate(of)
    ]


def choose_device(device: str, dtype: str) -> tuple[str, str]:
    """The device and the dtype's name that "auto" stands for; the same for every row.

    A GPU where there is one; bfloat16 on a GPU that has it, else float32. Raises UsageError for a missing GPU.
    """
    gpus, has_bf16 = elsewhere(cuda)
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


def choose_ranks(ranks: int | None, device: str, hosts: Sequence["Here | Host"] = HERE) -> int:
    """The number of ranks of a parallel technique: those asked for, else one a GPU, up to 4, and 2 on a CPU; of several
    hosts each has as many as the others, and one at least.

    Raises UsageError for more on a host than it has GPUs.
    """
    if device == "cpu":
        return ranks or max(2, len(hosts))
    gpus = [host.gpus for host in hosts]
    chosen = ranks or len(hosts) * max(1, min(MOST_RANKS // len(hosts), *gpus))
    of = [host for host, _ in placed(chosen, hosts)]
    for host, has in zip(hosts, gpus, strict=True):
        if (count := of.count(host)) > has:
            where = f"on {host.name}, where {count} of them would be" if host.name else "here"
            raise UsageError(
                f"--ranks {chosen}: PyTorch finds {has} CUDA GPUs {where}, and each rank needs one: ask for fewer"
            )
    return chosen
