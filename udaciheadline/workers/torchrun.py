"""What torchrun says of a host, and what host 0 and the agents on the others (see `hosts.py`) have in common."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from multiprocessing.connection import Connection
from typing import Any

from udaciheadline import __version__
from udaciheadline.records import UsageError
from udaciheadline.workers.serving import LOOPBACK

JOIN_SECONDS = 120.0  # that hosts get to find each other
CALLS = 1  # the version of what `serving.Server` is asked and answers: another one is for another --against
LEAVE = b"leave"  # the last that an agent hears; all else is pickled

# When the other end has lost its power or its network, the kernel says so within 40 seconds. macOS has not all of them.
_WATCH = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 40_000}
_VARIABLES = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"),
)


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
    """What an agent says of its host when it joins. `package` is the folder of its installation, and `calls` the
    version of what its processes can be asked."""

    number: int
    name: str
    address: str
    gpus: int
    versions: dict[str, str]
    package: str
    calls: int = CALLS


def versions() -> dict[str, str]:
    """What must be the same on all hosts."""
    return {"udaciheadline": __version__} | {name: version(name) for name in ("torch", "transformers")}


@contextmanager
def store(torchrun: Torchrun) -> Iterator[Any]:
    """torchrun's store, which waits for what is not there yet. Raises UsageError where it is gone, or waits in vain."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    try:
        yield TCPStore(torchrun.address, torchrun.port, is_master=False, timeout=timedelta(seconds=JOIN_SECONDS))
    except RuntimeError as error:
        raise UsageError(
            f"host {torchrun.number} does not find host 0's session through torchrun's store at {torchrun.address}:"
            f"{torchrun.port} ({str(error).splitlines()[0]}): run the same command on every host"
        ) from None


def watch(connection: Connection) -> str:
    """Has the kernel look after a connection, where that is over the network (see `_WATCH`); the address of this end of
    it."""
    with socket.socket(fileno=os.dup(connection.fileno())) as end:
        if end.family == socket.AF_UNIX:  # between processes of this host, whose deaths are seen at once
            return LOOPBACK
        end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _WATCH.items():
            if hasattr(socket, name):
                end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        return str(end.getsockname()[0])
