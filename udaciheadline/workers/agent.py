"""What pytest is on every host but the first (see `hosts.py`): it starts processes as host 0 asks, and ends with it."""

import pickle
import socket
from importlib.resources import files
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from typing import Any

from udaciheadline.records import EngineSpec, UsageError
from udaciheadline.techniques import Technique
from udaciheadline.workers.processes import Process, cuda, elsewhere
from udaciheadline.workers.serving import Place
from udaciheadline.workers.torchrun import LEAVE, Hello, Torchrun, store, versions, watch


def work(torchrun: Torchrun) -> None:
    """The life of an agent, until the session of host 0 ends. Raises UsageError where that cannot be reached, or goes
    away before."""
    port, key = elsewhere(_look_up, torchrun).split()
    address = torchrun.address, int(port)
    name, (gpus, _) = socket.gethostname(), elsewhere(cuda)
    try:
        control = Client(address, authkey=bytes.fromhex(key))
        own = watch(control)
        control.send(Hello(torchrun.number, name, own, gpus, versions(), str(files("udaciheadline"))))
    except (AuthenticationError, EOFError, OSError) as error:
        raise UsageError(
            f"host {torchrun.number} cannot connect to host 0 at {torchrun.address}:{port} ({error}): "
            "allow connections between the hosts on all ports"
        ) from None
    print(f"host {torchrun.number} ({name}) starts ranks for host 0 ({torchrun.address})", flush=True)
    agent = _Agent(address, bytes.fromhex(key), torchrun.number)
    try:
        while (request := control.recv_bytes()) != LEAVE:
            control.send(agent.answer(request))
    except (EOFError, OSError):
        raise UsageError(
            f"host 0 ({torchrun.address}) has gone before the end of its session: see what it says"
        ) from None
    finally:
        agent.close()


class _Agent:
    """The processes that host 0 has had started on this host, each by its ticket."""

    def __init__(self, address: tuple[str, int], key: bytes, number: int) -> None:
        self._address, self._key, self._number = address, key, number
        self._processes: dict[object, Process] = {}
        self._started = 0

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

    def _start(self, technique: Technique, spec: EngineSpec, place: Place) -> tuple[object, int]:
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
