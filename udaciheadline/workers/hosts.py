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
import secrets
import socket
import time
from contextlib import suppress
from dataclasses import replace
from importlib.resources import files
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from udaciheadline.records import EngineSpec, UsageError
from udaciheadline.techniques import Technique
from udaciheadline.workers.processes import Here, elsewhere
from udaciheadline.workers.serving import Place
from udaciheadline.workers.torchrun import JOIN_SECONDS, LEAVE, Hello, Torchrun, store, versions, watch

ANSWER_SECONDS = 15.0  # that an agent gets to answer


class Arrivals:
    """What connects to this process and knows its key, each with the first message, which says what it is: agents, and
    processes that they have started. They come over the network, by a port of all of the host's addresses, or from this
    `host_only`, by a socket like those that this host's own processes have."""

    def __init__(self, host_only: bool = False) -> None:
        key = secrets.token_bytes(32)
        where: dict[str, Any] = {"family": "AF_UNIX"} if host_only else {"address": ("", 0)}
        self._listener = Listener(**where, backlog=64, authkey=key)
        place = self._listener.address if host_only else self._listener.address[1]
        self.ticket = f"{place} {key.hex()}"  # what an agent must be told: path or port, and key
        self._came: SimpleQueue[tuple[Any, Connection]] = SimpleQueue()
        Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            with suppress(AuthenticationError, EOFError, OSError):
                connection = self._listener.accept()
                self._came.put((connection.recv(), connection))

    def next(self, seconds: float) -> tuple[Any, Connection]:
        """The next one, waited for that long. Raises Empty."""
        return self._came.get(timeout=max(seconds, 0))


class Hosts:
    """What host 0 has of the other hosts. Raises UsageError where torchrun's store cannot be reached."""

    def __init__(self, torchrun: Torchrun) -> None:
        self._count, self._arrivals = torchrun.count, Arrivals()
        self._others: list[Host] = []
        elsewhere(_publish, torchrun, self._arrivals.ticket)

    def gather(self) -> list["Here | Host"]:
        """All hosts in their order. Raises UsageError where one does not come, or has other versions."""
        found: dict[int, Host] = {}
        end = time.monotonic() + JOIN_SECONDS
        while missing := [number for number in range(1, self._count) if number not in found]:
            try:
                hello, control = self._arrivals.next(end - time.monotonic())
            except Empty:
                raise UsageError(
                    f"host {missing[0]} of 0 to {self._count - 1} has not joined within {JOIN_SECONDS:g} s: "
                    "run the same command there, and read what it says"
                ) from None
            found[hello.number] = Host(hello, control, self._arrivals)
            self._others.append(found[hello.number])
            if (theirs := hello.versions) != (ours := versions()):
                name = next(name for name in ours if theirs.get(name) != ours[name])
                raise UsageError(
                    f"{found[hello.number].name} has {name} {theirs.get(name)}, and host 0 has {ours[name]}: "
                    "install the same versions on all hosts"
                )
        here = Here(f"host 0 ({socket.gethostname()})", watch(found[1].control))
        return [here, *(found[number] for number in range(1, self._count))]

    def close(self) -> None:
        """Lets the agents end, those too that nobody has waited for."""
        controls = [host.control for host in self._others]
        with suppress(Empty):
            while True:
                controls.append(self._arrivals.next(0)[1])
        for control in controls:
            let_go(control)


def let_go(control: Connection) -> None:
    """Lets the agent at the other end of this connection end."""
    with suppress(OSError):
        control.send_bytes(LEAVE)
        control.close()


class Host:
    """Another host, seen from host 0: what messages call it, its address, and the processes it can be asked for."""

    def __init__(self, hello: Hello, control: Connection, arrivals: Arrivals, other_code: str = "") -> None:
        """`other_code` is what messages call this very host's processes with other code, which declares its techniques
        itself."""
        self.name, self._has_other_code = other_code or f"host {hello.number} ({hello.name})", bool(other_code)
        self.address, self.gpus, self._package = hello.address, hello.gpus, hello.package
        self.control, self._arrivals = control, arrivals
        watch(control)

    def start(self, technique: Technique, spec: EngineSpec, place: Place) -> tuple[Connection, "RemoteProcess"]:
        """A process there, and the connection to it. Raises ConnectionError."""
        asked = technique.name if self._has_other_code else technique
        ticket, pid = self.ask("start", asked, self._localised(spec), place)
        arrived = None
        while arrived != ticket:  # others are of starts that failed half-way
            try:
                arrived, connection = self._arrivals.next(ANSWER_SECONDS)
            except Empty:
                raise ConnectionError("its process has not connected") from None
        watch(connection)
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
        here = str(files("udaciheadline")) + os.sep

        def there(path: Any) -> Any:
            inside = path and path.startswith(here)
            return str(Path(self._package) / path.removeprefix(here)) if inside else path

        pruned = {name: there(path) for name, path in spec.pruned.items()}
        models = {name: there(getattr(spec, name)) for name in ("model", "target", "draft")}
        return replace(spec, pruned=pruned, **models)


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


def _publish(torchrun: Torchrun, text: str) -> None:
    """Leaves the text in torchrun's store. Raises UsageError."""
    with store(torchrun) as kept:
        kept.set(f"udaciheadline/{torchrun.attempt}", text)
