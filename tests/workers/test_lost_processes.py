"""Processes that lose what they need: their parent, their log, their server."""

import gzip
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faulty import FAULTY

from udaciheadline.records import EngineSpec
from udaciheadline.techniques import techniques
from udaciheadline.workers import processes
from udaciheadline.workers.serving import write_trace
from udaciheadline.workers.worker import Worker, WorkerError

SESSION = """
import json, os, signal, time
from multiprocessing.forkserver import _forkserver
from udaciheadline.workers import processes

def is_deaf():
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())

def sleeps():
    print(os.getpid(), flush=True)
    time.sleep(3600)

if __name__ == "__main__":
    processes.PRELOAD.clear()  # nothing here needs torch
    print(json.dumps([processes.elsewhere(is_deaf), is_deaf()]))
    os.kill(_forkserver._forkserver_pid, signal.SIGKILL)
    os.waitid(os.P_PID, _forkserver._forkserver_pid, os.WEXITED | os.WNOWAIT)
    print(processes.elsewhere(os.getppid) == _forkserver._forkserver_pid, flush=True)
    processes.elsewhere(sleeps)
"""


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What a session has written before it was killed while a process answered its question: that is the last line."""
    folder = tmp_path_factory.mktemp("session")
    script = folder / "session.py"
    script.write_text(SESSION, "utf-8")
    path = os.pathsep.join([str(folder), str(Path(processes.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    line, variables = [sys.executable, str(script)], {**os.environ, "PYTHONPATH": path}
    with subprocess.Popen(line, env=variables, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip() for _ in range(3)]
        process.kill()
    return lines


def test_a_process_that_answers_a_question_does_not_hear_ctrl_c_and_its_parent_does(session: list[str]) -> None:
    assert session[0] == "[true, false]"


def test_a_server_that_is_killed_is_started_anew(session: list[str]) -> None:
    assert session[1] == "True"


def test_a_process_that_answers_a_question_ends_with_its_parent(session: list[str]) -> None:
    process = Path("/proc") / session[2]
    for _ in range(100):
        if not process.exists():
            break
        time.sleep(0.1)
    assert not process.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no /dev/full")
def test_a_worker_without_room_for_its_log_still_says_why_it_fails(
    spec: EngineSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes.tempfile, "TemporaryFile", lambda: Path("/dev/full").open("r+b", buffering=0))  # noqa: SIM115
    with pytest.raises(WorkerError, match=r"^ValueError: the weights are upside down$"):
        Worker(FAULTY["raises"], spec, timeout=120)


def test_without_a_temporary_folder_no_worker_is_started_and_the_reason_is_one_sentence(
    spec: EngineSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(processes.tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(WorkerError, match=r"^rank 0 cannot be started: .*No such file or directory") as caught:
        Worker(techniques()["kv-cache"], spec, timeout=120)
    assert caught.value.status == "crash"


class Profiler:
    """Has a trace of this text, or cannot write it."""

    def __init__(self, text: str | OSError) -> None:
        self._text = text

    def export_chrome_trace(self, path: str) -> None:
        if isinstance(self._text, OSError):
            raise self._text
        Path(path).write_bytes(gzip.compress(self._text.encode()))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "^$"),
        ("", r"trace\.json\.gz: the trace cannot be written \(TMPDIR \S+ has no room for it\)$"),
        (
            OSError(28, "No space left on device"),
            r"trace\.json\.gz: the trace cannot be written \(No space left on device\)$",
        ),
    ],
    ids=["written", "lost on the way", "no room"],
)
def test_a_trace_that_is_not_written_is_said_to_be(tmp_path: Path, text: str | OSError, said: str) -> None:
    assert re.search(said, write_trace(Profiler(text), tmp_path / "profile" / "trace.json.gz"))


def test_an_interrupted_build_leaves_no_process(spec: EngineSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    pids: list[int] = []

    def interrupted(self: Worker, ranks: object) -> None:
        pids.extend(self.pids)
        raise KeyboardInterrupt

    monkeypatch.setattr(Worker, "_receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Worker(techniques()["kv-cache"], spec, timeout=120)
    assert len(pids) == 1
    assert not Path(f"/proc/{pids[0]}").exists()
