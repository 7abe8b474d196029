"""Ctrl-C and SIGTERM while a session of `pytest bench` is at this and that."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sessions import PATIENCE, ROOT, environment, hanging_session, records

PHASES = ("preparing", "building", "warming up", "measuring", "throughput", "memory", "quality", "saving", "ending")
END = PHASES[-2:]
# The same is done at both signals: one of them in each phase, and the other where it is heard and where it is not.
SESSIONS = [(phase, signal.SIGTERM) for phase in PHASES] + [("measuring", signal.SIGINT), ("ending", signal.SIGINT)]

# Sessions one after the other in a process of their own, with workers that are none; the signals are real.
SCRIPT = """
import json, os, signal, sys, time
from pathlib import Path

import pytest
from fake_workers import FakeWorker
from pytest_benchmark.storage.file import FileStorage
from udaciheadline.report.progress import Progress
from udaciheadline.session import run, session
from udaciheadline.session.store import Store

class Worker(FakeWorker):
    started = []

signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts this in the background has it ignored
run.Worker, run.machine = Worker, lambda device: {}
session.worker.choose_device, session.processes.forks = lambda *_: ("cpu", "float32"), lambda: True
waiting = []  # the phase in which the signal comes, until it has come, and the signal

def at(phase):
    if waiting and waiting[0] == phase:
        _, number = waiting
        waiting.clear()
        os.kill(os.getpid(), number)
        time.sleep(0.01)

def seen(function, phase):
    def call(*args):
        at(phase)
        return function(*args)
    return call

def show(self, technique, doing, done, of):
    at("preparing" if "beside" in technique else doing if technique == "pruned" else "")

Progress.__call__, FileStorage.save, Store.end = show, seen(FileStorage.save, "saving"), seen(Store.end, "ending")
folder, found = Path(sys.argv[1]), {}
for phase, number in json.loads(sys.argv[2]):
    results = folder / f"{phase}-{number}"
    waiting[:] = phase, number
    options = ["--results", str(results), "--technique", "kv-cache,pruned", "--articles", "4", "--launches", "1"]
    code = pytest.main(["bench", "-p", "no:cacheprovider", "--benchmark-autosave", *options])
    assert not waiting, phase
    assert signal.getsignal(number) == {signal.SIGINT: signal.default_int_handler}.get(number, signal.SIG_DFL)
    found[results.name] = int(code)
Path(sys.argv[3]).write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def signalled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int], str]:
    """Of a session for each phase and signal: their folders of results, their exit status, and all that they said."""
    folder = tmp_path_factory.mktemp("signalled")
    arguments = str(folder), json.dumps(SESSIONS), str(folder / "codes")
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return folder, json.loads((folder / "codes").read_text("utf-8")), run.stdout + run.stderr


def ended(results: Path) -> Any:
    return json.loads((results / "sessions.jsonl").read_text("utf-8"))["exit_status"]


@pytest.mark.parametrize(("phase", "number"), [case for case in SESSIONS if case[0] not in END])
def test_a_signal_ends_the_session_in_order(signalled, phase: str, number: int) -> None:
    folder, codes, _ = signalled
    results = folder / f"{phase}-{number}"
    assert codes[results.name] == 2
    if phase == "preparing":
        assert (results / "records.jsonl").read_bytes() == b""
        return
    assert list(records(results)) == ["kv-cache"]
    assert ended(results) == 2
    assert len(list(results.glob("*/0001_*.json"))) == 1


@pytest.mark.parametrize(("phase", "number"), [case for case in SESSIONS if case[0] in END])
def test_a_signal_in_the_end_does_not_cut_off_what_is_left(signalled, phase: str, number: int) -> None:
    folder, codes, _ = signalled
    results = folder / f"{phase}-{number}"
    assert list(records(results)) == ["kv-cache", "pruned"]
    assert ended(results) == codes[results.name]
    assert codes[results.name] in (0, 1)  # as the gates say
    assert len(list(results.glob("*/0001_*.json"))) == 1


def test_a_signal_is_one_sentence_and_no_traceback(signalled) -> None:
    _, _, said = signalled
    kept = "the row in progress is lost, those that had ended are kept"
    assert [said.count(f"{number.name}: {kept}") for number in (signal.SIGTERM, signal.SIGINT)] == [7, 1]
    assert "Traceback" not in said


def test_sigterm_leaves_no_process_and_no_file_behind(tmp_path: Path) -> None:
    session = hanging_session(tmp_path / "results")
    try:
        session.reach("hangs")
        os.kill(session.process.pid, signal.SIGTERM)
        code, left = session.process.wait(PATIENCE), session.left()
    finally:
        session.kill()
    assert (code, left) == (2, [])
    assert list((session.results / "temporary").iterdir()) == []
    assert list(records(session.results)) == ["kv-cache"]
    assert len(list(session.results.glob("*/0001_*.json"))) == 1
