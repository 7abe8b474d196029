"""Other code on the same host: a checkout, or a Python that has another version installed. Its processes answer in turn
with the session's own, since a machine differs by more from one session to the next than most changes of code make.

An agent (`agent.py`) is started there, with that code, or with that Python's torch and transformers, too. It is asked
for processes as an agent on another host is, and the two versions meet in calls and their answers alone.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty

from udaciheadline.records import UsageError
from udaciheadline.workers import processes
from udaciheadline.workers.hosts import Arrivals, Host, let_go
from udaciheadline.workers.torchrun import CALLS, JOIN_SECONDS, Hello

PACKAGE = Path("udaciheadline")
LEAVE_SECONDS = 10.0  # that it gets to end
LOOK_SECONDS = 0.5  # between two looks at whether it is still there


class Installation:
    """That of a checkout's folder, run by this Python, or of another Python's file: a `host` to start processes on, and
    the `versions` that there are. Raises UsageError where there is none, or it does not come up."""

    def __init__(self, source: str) -> None:
        self._source, path = source, Path(source).absolute()
        folder = path if (path / PACKAGE / "__init__.py").is_file() else None
        if folder is None and not (path.is_file() and os.access(path, os.X_OK)):
            raise UsageError(
                f"--against {source}: it is neither a checkout of udaciheadline nor a Python that has it installed"
            )
        environment = {k: value for k, value in os.environ.items() if k not in ("PYTHONPATH", *processes.SET_HERE)}
        if folder is not None:
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
        self._said = tempfile.TemporaryFile()  # noqa: SIM115, see close
        arrivals = Arrivals(host_only=True)
        # -P: what is in the present folder is not that code. A group of its own: Ctrl-C is for the session, which ends
        # this one. No session of its own: Linux can schedule those apart (autogroup).
        self._agent = subprocess.Popen(
            [sys.executable if folder else str(path), "-P", "-m", "udaciheadline.workers.agent"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            env=environment,
            process_group=0,
        )
        assert self._agent.stdin is not None
        with contextlib.suppress(OSError), self._agent.stdin as told:
            told.write(arrivals.ticket.encode() + b"\n")
        hello, self._control = self._wait_for(arrivals)
        self.versions: dict[str, str] = hello.versions
        if folder is not None and Path(hello.package).parent.resolve() != folder.resolve():
            self.close()
            raise UsageError(f"--against {source}: its code is hidden by {hello.package}: leave PYTHONPATH unset")
        if hello.calls != CALLS:
            self.close()
            raise UsageError(
                f"--against {source}: its processes are asked in another way: name a version nearer to this"
            )
        self.host = Host(hello, self._control, arrivals, f"--against {source}")

    def _wait_for(self, arrivals: Arrivals) -> tuple[Hello, Connection]:
        end, why = time.monotonic() + JOIN_SECONDS, f"within {JOIN_SECONDS:g} s"
        while time.monotonic() < end:
            with contextlib.suppress(Empty):
                return arrivals.next(LOOK_SECONDS)
            if self._agent.poll() is not None:
                self._said.seek(0)
                said = self._said.read().decode("utf-8", "replace").strip()
                why = processes.redact(said.rpartition("\n")[2]) or "it ended at once"
                break
        self._agent.kill()
        self._agent.wait()
        self._said.close()
        raise UsageError(
            f"--against {self._source}: no process of it comes up ({why}): name a version that has this option, with "
            "all that it needs"
        )

    def close(self) -> None:
        """Ends it, and what it has started."""
        let_go(self._control)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._agent.wait(LEAVE_SECONDS)
        self._agent.kill()
        self._agent.wait()
        self._said.close()
