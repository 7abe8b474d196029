"""`pytest bench` in a process of its own, as a user runs it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from faulty import FAULTY

ROOT = Path(__file__).parent.parent
GATES = ROOT / "bench" / "gates.toml"


PATIENCE = 1800  # seconds: for a session that hangs; how fast a machine is decides nothing here


def command(results: Path, *arguments: str) -> list[str]:
    tests = str(ROOT / "bench")
    options = ["--results", str(results), "--device", "cpu", "--launches", "1"]
    return [sys.executable, "-m", "pytest", tests, *options, *arguments]


FEW = ("--articles", "2", "--quality-articles", "3")  # of sessions in which it is not about the articles

# Neither Triton's interpreter nor a worker of pytest-xdist, in which pytest-benchmark measures nothing.
NOT_PASSED_ON = ("TRITON_INTERPRET", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID")


def environment(**more: str) -> dict[str, str]:
    """This environment, with the plugins of this folder importable, and one thread: two that wait for each other crawl
    on a busy machine."""
    path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH")]))
    kept = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
    return kept | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | more


def bench(results: Path, *arguments: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    line = command(results, *arguments)
    return subprocess.run(line, cwd=cwd, env=environment(**env), capture_output=True, text=True, timeout=PATIENCE)


# Forks a process for each command line, which runs as `python -m pytest` would after its imports. What every session
# imports is paid once; each has its modules, its options, its exit status and its output for itself all the same.
FORKS = """
import json, os, sys
from pathlib import Path

import conftest, pytest, pytest_benchmark.plugin

for number, arguments in enumerate(json.load(sys.stdin)):
    sys.stdout.flush()
    if (pid := os.fork()) == 0:
        for stream, name in (1, "stdout"), (2, "stderr"):
            os.dup2(os.open(f"{sys.argv[1]}/{number}.{name}", os.O_CREAT | os.O_WRONLY), stream)
        del sys.modules["conftest"]
        sys.argv[1:] = arguments
        sys.exit(pytest.console_main())
    Path(sys.argv[1], f"{number}.code").write_text(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
"""


def forked(results: Path, lines: list[list[str]]) -> list[subprocess.CompletedProcess[str]]:
    """What `bench` gives for each of these lists of arguments, for sessions that end before they start a process."""
    commands = [command(results, *arguments)[3:] for arguments in lines]
    folder = results / "forked"
    folder.mkdir()
    run = [sys.executable, "-c", FORKS, str(folder)]
    subprocess.run(
        run, cwd=ROOT, env=environment(), input=json.dumps(commands), text=True, check=True, timeout=PATIENCE
    )

    def left(number: int, name: str) -> str:
        return (folder / f"{number}.{name}").read_text("utf-8")

    return [
        subprocess.CompletedProcess(line, int(left(i, "code")), left(i, "stdout"), left(i, "stderr"))
        for i, line in enumerate(commands)
    ]


def gates(folder: Path, *more: str) -> tuple[str, str]:
    """The option for the suite's gates but those of speed, which a busy machine may fail, with `more` empty tables."""
    path = folder / "gates.toml"
    kept = [line for line in GATES.read_text("utf-8").splitlines() if not line.startswith("speed_")]
    path.write_text("\n".join([*kept, *(f"[{name}]" for name in more)]), "utf-8")
    return "--gates", str(path)


def faulty(folder: Path, chosen: str) -> tuple[str, ...]:
    """Arguments for the `chosen` techniques; those of `faulty.py` have a table without thresholds each."""
    return "-p", "faulty", *gates(folder, *FAULTY), "--technique", chosen


def records(results: Path) -> dict[str, dict]:
    lines = (results / "records.jsonl").read_text("utf-8").splitlines()
    return {record["technique"]: record for record in map(json.loads, lines)}


@dataclass
class Hanging:
    """A session with a row to keep and then one that hangs."""

    results: Path
    mark: str  # all its processes carry it in their environment
    process: subprocess.Popen[bytes]

    def output(self) -> str:
        return (self.results / "output.txt").read_text("utf-8")

    def reach(self, row: str) -> None:
        """Waits until the row that hangs is being built."""
        while f"{row}: building" not in self.output():
            assert self.process.poll() is None, self.output()
            time.sleep(0.1)

    def left(self) -> list[str]:
        """The processes that are still there after a while that is long enough for all to end."""
        for _ in range(100):
            if not self.processes():
                break
            time.sleep(0.1)
        return self.processes()

    def processes(self) -> list[str]:
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self.mark.encode() in environ.read_bytes():
                    found.append(environ.parent.name)
            except OSError:
                continue
        return found

    def kill(self) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        self.process.wait(PATIENCE)


def hanging_session(results: Path) -> Hanging:
    temporary = results / "temporary"
    temporary.mkdir(parents=True)
    mark, chosen = uuid.uuid4().hex, faulty(results, "kv-cache,hangs")
    with (results / "output.txt").open("w") as output:
        process = subprocess.Popen(
            command(results, *chosen, *FEW, "--max-new-tokens", "6", "--batch-size", "1", "--benchmark-autosave"),
            cwd=ROOT,
            env=environment(MARK_OF_THIS_TEST=mark, TMPDIR=str(temporary)),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Hanging(results, mark, process)
