"""Several machines: under `torchrun --nnodes`, host 0 runs pytest, and pytest on every other host starts ranks for it.

torchrun starts the same command on each host, and keeps a store that all of them reach. Host 0 leaves a port and a
random key there. Every other host is an agent: it connects with them, says what it is, and then does what host 0 asks
over this connection: start a process, say what it wrote or how it ended, kill it. A process that it starts has a
connection to host 0 of its own, so no message is passed on, and its death is seen there at once. When host 0 is gone,
or cannot be reached any more, an agent kills what it has started and ends; when an agent ends, so does what it started.

Whoever can read torchrun's store can read the key, and whoever has the key can have an agent run anything: the network
must be one on which torch.distributed may be used, which trusts it as much.
"""

import os
import pickle
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib.metadata import version
from importlib.resources import files
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from udaciheadline import __version__
from udaciheadline.processes import Here, Process, cuda, elsewhere
from udaciheadline.records import EngineSpec, UsageError
from udaciheadline.serving import Place
from udaciheadline.techniques import Technique

JOIN_SECONDS = 120.0  # that agents get to start
ANSWER_SECONDS = 15.0  # that an agent gets to answer

# When the other end has lost its power or its network, the kernel says so within 40 seconds. macOS has not all of them.
_WATCH = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 40_000}
_LEAVE = b"leave"
_VARIABLES = "RANK LOCAL_RANK GROUP_RANK ROLE_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_WORLD_SIZE ROLE_WORLD_SIZE \
    ROLE_NAME MASTER_ADDR MASTER_PORT".split()


@dataclass(frozen=True)
class Torchrun:
    """What torchrun says of this host: its `number` of `count`, where host 0 keeps the store, and which start of the
    session this is."""

    number: int
    count: int
    address: str
    port: int
    attempt: str

    @classmethod
    def from_environment(cls) -> "Torchrun":
        """Takes torchrun's variables out of the environment: a worker must not take itself for a rank of torchrun's.

        Raises UsageError for several processes a host.
        """
        found = {n: os.environ.pop(n) for n in list(os.environ) if n in _VARIABLES or n.startswith("TORCHELASTIC_")}
        if (processes := found["LOCAL_WORLD_SIZE"]) != "1":
            raise UsageError(f"--nproc-per-node {processes}: give 1: pytest itself starts the ranks, as --ranks says")
        return cls(
            int(found["RANK"]),
            int(found["WORLD_SIZE"]),
            found["MASTER_ADDR"],
            int(found["MASTER_PORT"]),
            found["TORCHELASTIC_RESTART_COUNT"],
        )


@dataclass(frozen=True)
class Hello:
    """What an agent says of its host when it joins. `package` is the folder of its installation."""

    number: int
    name: str
    address: str
    gpus: int
    versions: dict[str, str]
    package: str


class Hosts:
    """What host 0 has of the other hosts. Raises UsageError where torchrun's store cannot be reached."""

    def __init__(self, torchrun: Torchrun) -> None:
        self._count = torchrun.count
        key = secrets.token_bytes(32)
        self._listener = Listener(("", 0), backlog=64, authkey=key)
        self._arrivals: SimpleQueue[tuple[Any, Connection]] = SimpleQueue()
        self._others: list[Host] = []
        Thread(target=self._accept, daemon=True).start()
        elsewhere(_publish, torchrun, f"{self._listener.address[1]} {key.hex()}")

    def _accept(self) -> None:
        """Keeps what connects and knows the key, each with the first message, which says what it is."""
        while True:
            with suppress(AuthenticationError, EOFError, OSError):
                connection = self._listener.accept()
                self._arrivals.put((connection.recv(), connection))

    def gather(self) -> list["Here | Host"]:
        """All hosts in their order. Raises UsageError where one does not come, or has other versions."""
        found: dict[int, Host] = {}
        end = time.monotonic() + JOIN_SECONDS
        while missing := [number for number in range(1, self._count) if number not in found]:
            try:
                hello, control = self._arrivals.get(timeout=max(end - time.monotonic(), 0))
            except Empty:
                raise UsageError(
                    f"host {missing[0]} of 0 to {self._count - 1} has not joined within {JOIN_SECONDS:g} s: "
                    "run the same command there, and read what it says"
                ) from None
            found[hello.number] = Host(hello, control, self._arrivals)
            self._others.append(found[hello.number])
            if (theirs := hello.versions) != (ours := _versions()):
                name = next(name for name in ours if theirs.get(name) != ours[name])
                raise UsageError(
                    f"{found[hello.number].name} has {name} {theirs.get(name)}, and host 0 has {ours[name]}: "
                    "install the same versions on all hosts"
                )
        here = Here(f"host 0 ({socket.gethostname()})", _watch(found[1].control))
        return [here, *(found[number] for number in range(1, self._count))]

    def close(self) -> None:
        """Lets the agents end."""
        with suppress(Empty):
            while True:
                self._others.append(Host(*self._arrivals.get_nowait(), self._arrivals))
        for host in self._others:
            with suppress(OSError):
                host.control.send_bytes(_LEAVE)
                host.control.close()


class Host:
    """Another host, seen from host 0: what messages call it, its address, and the processes it can be asked for."""

    def __init__(self, hello: Hello, control: Connection, arrivals: "SimpleQueue[tuple[Any, Connection]]") -> None:
        self.name = f"host {hello.number} ({hello.name})"
        self.address, self.gpus, self._package = hello.address, hello.gpus, hello.package
        self.control, self._arrivals = control, arrivals
        _watch(control)

    def start(self, technique: Technique, spec: EngineSpec, place: Place) -> tuple[Connection, "RemoteProcess"]:
        """A process there, and the connection to it. Raises ConnectionError."""
        ticket, pid = self.ask("start", technique, self._localised(spec), place)
        arrived = None
        while arrived != ticket:  # others are of starts that failed half-way
            try:
                arrived, connection = self._arrivals.get(timeout=ANSWER_SECONDS)
            except Empty:
                raise ConnectionError("its process has not connected") from None
        _watch(connection)
        return connection, RemoteProcess(self, ticket, pid)

    def ask(self, *request: Any) -> Any:
        """What the agent answers. Raises ConnectionError where it does not, or says that it cannot."""
        try:
            self.control.send(request)
            if not self.control.poll(ANSWER_SECONDS):
                raise TimeoutError
            done, value = self.control.recv()
        except (EOFError, OSError):
            self.control.close()  # an answer that comes late must not be taken for the next one
            raise ConnectionError("pytest there has ended, or cannot be reached") from None
        if not done:
            raise ConnectionError(value)
        return value

    def _localised(self, spec: EngineSpec) -> EngineSpec:
        """The embedded models are part of the package, which may be installed in another folder there."""
        package = str(files("udaciheadline"))
        paths = {name: getattr(spec, name) for name in ("model", "target", "draft")}
        there = {n: self._package + p.removeprefix(package) for n, p in paths.items() if p and p.startswith(package)}
        return replace(spec, **there)


class RemoteProcess:
    """A `Process` of another host, seen from host 0. Where the agent is gone, so is the process."""

    def __init__(self, host: Host, ticket: object, pid: int) -> None:
        self._host, self._ticket, self.pid = host, ticket, pid

    def death(self, seconds: float = 0) -> tuple[str, str] | None:
        """As of `Process`."""
        try:
            return self._host.ask("death", self._ticket, seconds)
        except ConnectionError as error:
            return "crash", str(error)

    def output(self, lines: int = 20) -> str:
        """As of `Process`."""
        return self._ask("output", lines) or ""

    def say_where_it_is(self) -> None:
        """As of `Process`."""
        self._ask("say_where_it_is")

    def is_in_torch(self) -> bool:
        """As of `Process`."""
        return bool(self._ask("is_in_torch"))

    def kill(self) -> None:
        """As of `Process`."""
        self._ask("kill")

    def close(self) -> None:
        """As of `Process`."""
        self._ask("close")

    def _ask(self, method: str, *args: object) -> Any:
        with suppress(ConnectionError):
            return self._host.ask(method, self._ticket, *args)


def work(torchrun: Torchrun) -> None:
    """The life of an agent, until the session of host 0 ends. Raises UsageError where that cannot be reached, or goes
    away before."""
    port, key = elsewhere(_look_up, torchrun).split()
    address = torchrun.address, int(port)
    try:
        control = Client(address, authkey=bytes.fromhex(key))
        own = _watch(control)
        package = str(files("udaciheadline"))
        name, gpus = socket.gethostname(), elsewhere(cuda)[0]
        control.send(Hello(torchrun.number, name, own, gpus, _versions(), package))
    except (AuthenticationError, EOFError, OSError) as error:
        raise UsageError(
            f"host {torchrun.number} cannot connect to host 0 at {torchrun.address}:{port} ({error}): "
            "allow connections between the hosts on all ports"
        ) from None
    print(f"host {torchrun.number} ({name}) starts ranks for host 0 ({torchrun.address})", flush=True)
    agent = _Agent(address, bytes.fromhex(key), torchrun.number)
    try:
        while (request := control.recv_bytes()) != _LEAVE:
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
        _watch(connection)
        connection.send(ticket)
        process = self._processes[ticket] = Process(technique, spec, place, connection)
        return ticket, process.pid

    def _ask(self, method: str, ticket: object, *args: Any) -> Any:
        process = self._processes[ticket] if method != "close" else self._processes.pop(ticket)
        return getattr(process, method)(*args)


def _versions() -> dict[str, str]:
    """What must be the same on all hosts."""
    return {"udaciheadline": __version__} | {name: version(name) for name in ("torch", "transformers")}


def _publish(torchrun: Torchrun, text: str) -> None:
    """Leaves the text in torchrun's store. Raises UsageError."""
    with _store(torchrun) as store:
        store.set(f"udaciheadline/{torchrun.attempt}", text)


def _look_up(torchrun: Torchrun) -> str:
    """The text that host 0 left, once it has. Raises UsageError."""
    with _store(torchrun) as store:
        return store.get(f"udaciheadline/{torchrun.attempt}").decode()


@contextmanager
def _store(torchrun: Torchrun) -> Iterator[Any]:
    """torchrun's store; it waits for what is not there yet."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    try:
        yield TCPStore(torchrun.address, torchrun.port, is_master=False, timeout=timedelta(seconds=JOIN_SECONDS))
    except RuntimeError as error:
        raise UsageError(
            f"host {torchrun.number} finds nothing of host 0's session in torchrun's store at "
            f"{torchrun.address}:{torchrun.port} ({str(error).splitlines()[0]}): run the same command on every host"
        ) from None


def _watch(connection: Connection) -> str:
    """Has the kernel look after a connection over the network (see `_WATCH`); the address of this end of it."""
    with socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _WATCH.items():
            if hasattr(socket, name):
                end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        return str(end.getsockname()[0])
