"""Does damage to a session of `pytest bench`, as its plugin (`-p fault_plugin`): see `injected_faults.py`.

FAULT names one of the functions here, with its arguments behind it; FAULT_AT is where: a technique and what the
progress line would say it is doing, or nothing for the beginning of the session.
"""

import atexit
import contextlib
import importlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.forkserver import _forkserver
from pathlib import Path
from typing import Any

from pytest_benchmark.storage.file import FileStorage

from udaciheadline.report.progress import Progress
from udaciheadline.session import row, store
from udaciheadline.workers import power, processes


def pytest_configure(config: Any) -> None:
    name, *arguments = os.environ["FAULT"].split() or ["nothing"]
    inject = lambda: globals()[name](*arguments)  # noqa: E731
    if not (at := os.environ["FAULT_AT"]):
        inject()
        return
    if at.endswith("energy"):
        count_joules()
    waiting, show = [inject], Progress.__call__

    def call(self: Progress, technique: str, doing: str, done: int, of: int) -> None:
        show(self, technique, doing, done, of)
        if waiting and f"{technique}: {doing}" == at:
            waiting.pop()()

    Progress.__call__ = call  # type: ignore[method-assign]


def nothing() -> None:
    """The damage was done before."""


def results() -> Path:
    return Path(os.environ["FAULT_RESULTS"])


# -- processes --------------------------------------------------------------------------------------------------------


def send(signal_name: str, technique: str, rank: str = "0") -> None:
    """To the worker of a row; where it has none yet, as soon as it does."""

    def workers() -> list[int]:
        return [child.pid for child in multiprocessing.active_children() if child.name == technique and child.pid]

    def kill() -> None:
        while len(workers()) <= int(rank):
            time.sleep(0.01)
        os.kill(sorted(workers())[int(rank)], signal.Signals[signal_name])

    if workers():
        kill()
    else:
        threading.Thread(target=kill, daemon=True).start()


def interrupt(signal_name: str) -> None:
    """The session, a moment later. As Ctrl-C does, SIGINT reaches the whole group."""
    number = signal.Signals[signal_name]
    kill = (os.killpg, 0) if number == signal.SIGINT else (os.kill, os.getpid())
    threading.Timer(0.05, lambda: kill[0](kill[1], number)).start()


def kill_session() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt_in_the_end(signal_name: str) -> None:
    """While pytest-benchmark saves, and once more while the end is noted."""

    def before(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            interrupt(signal_name)
            time.sleep(0.2)
            return function(*args)

        return call

    FileStorage.save = before(FileStorage.save)
    store.Store.end = before(store.Store.end)  # type: ignore[method-assign]


def start_another(technique: str) -> None:
    """A session into the same folder of results."""
    options = "--articles 3 --batch-size 2 --launches 1 --device cpu --benchmark-autosave --technique".split()
    line = [sys.executable, "-m", "pytest", "bench", "--results", str(results()), *options, technique]
    subprocess.Popen(line, env=os.environ | {"FAULT": ""}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def count_joules() -> None:
    """As a processor does whose counter stands still."""
    power.RAPL = Path(tempfile.mkdtemp())
    package = power.RAPL / "intel-rapl:0"
    package.mkdir()
    for name in ("energy_uj", "max_energy_range_uj"):
        (package / name).write_text("1", "utf-8")
    atexit.register(shutil.rmtree, power.RAPL)


def kill_server() -> None:
    """The process that workers are forked from."""
    os.kill(_forkserver._forkserver_pid, signal.SIGKILL)  # type: ignore[attr-defined]


# -- files ------------------------------------------------------------------------------------------------------------


def fill(folder: Path) -> None:
    with contextlib.suppress(OSError), (folder / "filler").open("ab", buffering=0) as filler:
        while True:
            filler.write(bytes(512))


def full(what: str) -> None:
    """The disk of the results is full whenever this is written."""
    owner: Any
    owner, name = {
        "row": (store.Store, "append"),
        "end": (store.Store, "end"),
        "autosave": (FileStorage, "save"),
        "profile": (row.Row, "profile"),
    }.get(what) or (store, "replace_file")
    write = getattr(owner, name)

    def call(*args: Any, **options: Any) -> Any:
        if name == "replace_file" and args[0].name != what:
            return write(*args, **options)
        fill(results())
        try:
            return write(*args, **options)
        finally:
            (results() / "filler").unlink()

    setattr(owner, name, call)


def full_for_good() -> None:
    fill(results())


def full_temporary_folder() -> None:
    fill(Path(tempfile.gettempdir()))


def remove(folder: Path) -> None:
    """All that is in it, and the folder: unmounted, it is empty."""
    subprocess.run(["umount", "-l", str(folder)], check=True)
    folder.rmdir()


def remove_temporary_folder() -> None:
    remove(Path(tempfile.gettempdir()))


def remove_results() -> None:
    remove(results())


def make_read_only() -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(results())], check=True)


# -- clocks -----------------------------------------------------------------------------------------------------------


def jump() -> None:
    """The time of day, here and in all workers."""
    importlib.import_module("jumping_clock")
    processes.PRELOAD.append("jumping_clock")
