"""What pytest is on every host but the first (see `hosts.py`): it starts processes as host 0 asks, and ends with it. So
are processes with other code than a session's own started (see `installation.py`)."""

import contextlib
import pickle
import socket
import sys
from dataclasses import replace
from importlib.resources import files
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from typing import Any

from udaciheadline.records import EngineSpec, UsageError
from udaciheadline.techniques import Technique, techniques
from udaciheadline.workers.processes import Process, cuda, elsewhere
from udaciheadline.workers.serving import Place
from udaciheadline.workers.torchrun import LEAVE, Hello, Torchrun, store, versions, watch


def work(torchrun: Torchrun) -> None:
    """The life of an agent, until the session of host 0 ends. Raises UsageError where that cannot be reached, or goes
    away before."""
    port, key = elsewhere(_look_up, torchrun).split()
    try:
        agent = Agent((torchrun.address, int(port)), key, torchrun.number)
    except (AuthenticationError, EOFError, OSError) as error:
        raise UsageError(
            f"host {torchrun.number} cannot connect to host 0 at {torchrun.address}:{port} ({error}): "
            "allow connections between the hosts on all ports"
        ) from None
    print(f"host {torchrun.number} ({socket.gethostname()}) starts ranks for host 0 ({torchrun.address})", flush=True)
    try:
        agent.serve()
    except (EOFError, OSError):
        raise UsageError(
            f"host 0 ({torchrun.address}) has gone before the end of its session: see what it says"
        ) from None


class Agent:
    """The processes that a session elsewhere has had started here, each by its ticket. The session awaits it at this
    address, with this key (`hosts.Arrivals`). Raises OSError, EOFError or AuthenticationError where it does not."""

    def __init__(self, address: tuple[str, int] | str, key: str, number: int) -> None:
        self._address, self._key, self._number = address, bytes.fromhex(key), number
        self._processes: dict[object, Process] = {}
        self._started = 0
        gpus, _ = elsewhere(cuda)
        self._control = Client(self._address, authkey=self._key)
        own, package = watch(self._control), str(files("udaciheadline"))
        self._control.send(Hello(number, socket.gethostname(), own, gpus, versions(), package))

    def serve(self) -> None:
        """Does as the session asks, until it ends. Raises OSError or EOFError where that goes away before."""
        try:
            while (request := self._control.recv_bytes()) != LEAVE:
                self._control.send(self.answer(request))
        finally:
            self.close()

    def answer(self, request: bytes) -> tuple[bool, Any]:
        """The answer to a request, or else why there is none: host 0 says it in the row."""
        try:
            method, *args = pickle.loads(request)
            return True, self._start(*args) if method == "start" else self._ask(method, *args)
        except Exception as error:
            return False, f"{type(error).__name__}: {error}"

    def close(self) -> None:
        """Ends them all."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.close()

    def _start(self, technique: Technique | str, spec: EngineSpec, place: Place) -> tuple[object, int]:
        if isinstance(technique, str):  # of a session with other code: this one says itself what it is
            if technique not in techniques():
                raise LookupError(f"there is no {technique}")
            technique = techniques()[technique]
            spec = replace(spec, engine=technique.engine_for(spec))
        self._started += 1
        ticket = self._number, self._started
        connection = Client(self._address, authkey=self._key)
        watch(connection)
        connection.send(ticket)
        process = self._processes[ticket] = Process(technique, spec, place, connection)
        return ticket, process.pid

    def _ask(self, method: str, ticket: object, *args: Any) -> Any:
        process = self._processes[ticket] if method != "close" else self._processes.pop(ticket)
        return getattr(process, method)(*args)


def _look_up(torchrun: Torchrun) -> str:
    """The text that host 0 left, once it has. Raises UsageError."""
    with store(torchrun) as kept:
        return kept.get(f"udaciheadline/{torchrun.attempt}").decode()


if __name__ == "__main__":  # of a session on this host, with other code than its own: see installation.py
    path, _, key = sys.stdin.readline().strip().rpartition(" ")
    with contextlib.suppress(EOFError, OSError):
        Agent(path, key, 1).serve()
