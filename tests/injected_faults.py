"""Faults that are injected into real sessions of `pytest bench`: what each of them says, and what it leaves.

    python tests/injected_faults.py [WORD...]

runs all of them, or those whose name has one of the words in it, some ten seconds each, and prints a row each of the
table in docs/faults.md: number, name, the sentence, the exit status and the rows that are in `records.jsonl` then. It
says so where one of these is not as it should be, where there is a traceback (but for a crashed worker's own), or where
a process or a file is left behind. Linux only: in a mount namespace of its own, so that a full disk is one.

A session has a row to keep (kv-cache) and then one with the fault (pruned, if not said otherwise).
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import load_file, save_file
from sessions import PATIENCE, ROOT, Hanging, command, environment, faulty

FEW = ("--articles", "3", "--batch-size", "2", "--benchmark-autosave")
CLI = [sys.executable, "-m", "udaciheadline.cli"]
DISK, TRUNCATED = "4m", 100_000  # of the results; bytes of the weights
OK = {"kv-cache": "ok"}
BOTH = OK | {"pruned": "ok"}
NONE: dict[str, str] = {}

Prepare = Callable[[Path], tuple[str, ...]]
"""Damages what is in a folder, and returns the arguments for it."""


@dataclass(frozen=True)
class Fault:
    """`inject` is a call of `fault_plugin`, made `at` a moment of the progress line or in the beginning. The session
    says `said`, ends with `code` and leaves the rows `kept`, by their status."""

    name: str
    said: str
    code: int
    kept: dict[str, str]
    inject: str = ""
    at: str = ""
    techniques: str = "kv-cache,pruned"
    arguments: tuple[str, ...] = ()
    prepare: Prepare = lambda folder: ()
    line: Callable[[Path], list[str]] | None = None  # a command that is no session, and its arguments
    tracebacks: int = field(default=0, kw_only=True)  # of a worker


def crash(row: str = "pruned") -> dict[str, str]:
    return OK | {row: "crash"}


# -- what is there before a session -----------------------------------------------------------------------------------


def weights(damage: Callable[[Path], None]) -> Prepare:
    def prepare(folder: Path) -> tuple[str, ...]:
        embedded = ROOT / "udaciheadline" / "checkpoints" / "embedded" / "main"
        model = Path(shutil.copytree(embedded, folder / "model"))
        damage(model / "model.safetensors")
        return "--model", str(model)

    return prepare


def truncate(path: Path) -> None:
    os.truncate(path, TRUNCATED)


def without_numbers(path: Path) -> None:
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"][:] = float("nan")
    save_file(tensors, path, {"format": "pt"})


def baseline(damage: Callable[[Path], None]) -> Prepare:
    def prepare(folder: Path) -> tuple[str, ...]:
        before = folder / "before"
        line = command(before, *FEW, "--technique", "kv-cache")
        subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, check=True)
        damage(before / "records.jsonl")
        return "--baseline", str(before / "records.jsonl")

    return prepare


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def session_before(folder: Path) -> tuple[str, ...]:
    line = command(folder / "results", *FEW, "--technique", "kv-cache")
    subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, check=True)
    return ()


def promotion(folder: Path) -> list[str]:
    """Into a folder that is full."""
    mount(folder / "baselines", "4k")
    (folder / "baselines" / "filler").write_bytes(bytes(4096))
    return [*CLI, "baseline", "promote", "--results", str(folder / "results"), "--baselines", str(folder / "baselines")]


def comparison(folder: Path) -> list[str]:
    """Into a file on a disk that is full."""
    line = [*CLI, "compare", str(folder / "results"), str(folder / "results")]
    return ["sh", "-c", f"{' '.join(line)} > /dev/full"]


def read_only(folder: Path) -> tuple[str, ...]:
    subprocess.run(["mount", "-o", "remount,ro", str(folder / "results")], check=True)
    return ()


# -- the faults -------------------------------------------------------------------------------------------------------

FULL = "No space left on device"
AGAIN = ": make room, it is tried again with the next row and at the end"
PHASES = {
    "while it prepares": "kv-cache beside it: building",
    "in a build": "pruned: building",
    "in a warm-up": "pruned: warming up",
    "in a round": "pruned: measuring",
    "in a job": "pruned: throughput",
    "while memory is measured": "pruned: memory",
    "while quality is judged": "pruned: quality",
}


def killed(when: str) -> Fault:
    said = "pruned: crash: the worker was killed by SIGKILL"
    return Fault(f"worker killed {when}", said, 1, crash(), "send SIGKILL pruned", PHASES[when])


def hung(when: str) -> Fault:
    kept, limit = OK | {"pruned": "timeout"}, ("--timeout", "20")
    said = "pruned: timeout: no answer within the 20 s of --timeout"
    return Fault(f"worker hung {when}", said, 1, kept, "send SIGSTOP pruned", PHASES[when], arguments=limit)


def signalled(name: str, number: str, when: str) -> Fault:
    said = f"{number}: the row in progress is lost, those that had ended are kept"
    kept = OK if PHASES[when].startswith("pruned") else NONE
    return Fault(f"{name} {when}", said, 2, kept, f"interrupt {number}", PHASES[when])


FILES = {
    "row": "records.jsonl",
    "end": "sessions.jsonl",
    "autosave": "pytest-benchmark's autosave",
    "profile": "trace of a profile",
}


def disk_full(what: str, said: str, *arguments: str) -> Fault:
    return Fault(f"disk full: {FILES.get(what, what)}", said, 1, BOTH, f"full {what}", arguments=arguments)


FAULTS = [
    *map(killed, ("in a build", "in a round", "in a job", "while memory is measured")),
    Fault(
        *("worker killed while energy is measured", "pruned: crash: the worker was killed by SIGKILL", 1, crash()),
        *("send SIGKILL pruned", "pruned: energy"),
    ),
    *map(hung, ("in a build", "in a round")),
    Fault("out of memory in a build", "oom: oom: RuntimeError", 1, OK | {"oom": "oom"}, techniques="kv-cache,oom"),
    Fault(
        *("out of memory in a round", "oom-later: oom: RuntimeError", 1, OK | {"oom-later": "oom"}),
        techniques="kv-cache,oom-later",
    ),
    Fault(
        *("rank lost in a round", "tensor-parallel: crash: rank 1: the worker was killed by SIGKILL", 1),
        *(crash("tensor-parallel"), "send SIGKILL tensor-parallel 1", "tensor-parallel: measuring"),
        techniques="kv-cache,tensor-parallel",
    ),
    Fault("server of the workers killed", "Results: ", 0, BOTH, "kill_server", "kv-cache: measuring"),
    disk_full("row", f"pruned cannot be written ({FULL}){AGAIN}"),
    disk_full("results.csv", f"pruned cannot be written ({FULL}){AGAIN}"),
    disk_full("headlines.csv", f"pruned cannot be written ({FULL}){AGAIN}"),
    disk_full("end", f"the end of this run cannot be written ({FULL})"),
    disk_full("autosave", f"pytest-benchmark cannot save there ({FULL})"),
    disk_full("profile", f"pruned.json.gz: the trace cannot be written ({FULL})", "--profile"),
    Fault("disk full from a round on", f"pruned cannot be written ({FULL})", 1, OK, "full_for_good", "pruned: quality"),
    *(
        signalled(name, number, when)
        for name, number in {"Ctrl-C": "SIGINT", "SIGTERM": "SIGTERM"}.items()
        for when in PHASES
    ),
    Fault("Ctrl-C in the end", "Results: ", 0, BOTH, "interrupt_in_the_end SIGINT"),
    Fault("SIGTERM in the end", "Results: ", 0, BOTH, "interrupt_in_the_end SIGTERM"),
    Fault("pytest killed while it prepares", "", -9, NONE, "kill_session", PHASES["while it prepares"]),
    Fault("pytest killed in a build", "", -9, OK, "kill_session", PHASES["in a build"]),
    Fault(
        *("disk full: promoted baseline", f"it cannot be written ({FULL}): give another --baselines", 4, OK),
        **{"prepare": session_before, "line": promotion},
    ),
    Fault(
        *("disk full: printed comparison", f"what was found cannot be printed ({FULL})", 4, OK),
        **{"prepare": session_before, "line": comparison},
    ),
    Fault("two sessions in one folder at once", "Results: ", 0, BOTH | {"baseline": "ok"}, "start_another baseline"),
    Fault("results removed in a round", "Results: ", 0, BOTH, "remove_results", PHASES["in a round"]),
    Fault("results read-only before", "it cannot be written (Read-only file system)", 4, NONE, prepare=read_only),
    Fault(
        *("results read-only from a round on", "pruned cannot be written (Read-only file system)", 1, OK),
        *("make_read_only", PHASES["in a round"]),
    ),
    Fault("clock that jumps", "Results: ", 0, BOTH, "jump"),
    Fault("truncated weights", "it cannot be loaded as a causal language model", 4, NONE, prepare=weights(truncate)),
    Fault(
        "weights that are no numbers",
        "not a number, as a broken model gives",
        1,
        BOTH,
        prepare=weights(without_numbers),
    ),
    Fault("truncated baseline", "line 1: it is cut off or damaged", 4, NONE, prepare=baseline(cut_off)),
    Fault(
        *("baseline without a row", "Only in the current run, so not compared: pruned.", 0, BOTH),
        prepare=baseline(lambda path: None),
    ),
    Fault(
        *("temporary folder removed", "pruned: crash: rank 0 cannot be started: ", 1, crash()),
        *("remove_temporary_folder", "kv-cache: quality"),
        tracebacks=1,  # of Python itself, at exit
    ),
    Fault(
        *("temporary folder full", "raises: crash: ValueError: the weights are upside down", 1, crash("raises")),
        *("full_temporary_folder", "kv-cache: quality", "kv-cache,raises"),
        tracebacks=1,
    ),
]


# -- a session with one of them ---------------------------------------------------------------------------------------


def mount(folder: Path, size: str) -> None:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)


def start(fault: Fault, folder: Path) -> Hanging:
    mount(folder / "results", DISK)
    mount(folder / "temporary", "64m")  # torch's trace passes through it
    mark, results = uuid.uuid4().hex, folder / "results"
    arguments = *FEW, *faulty(folder, fault.techniques), *fault.arguments, *fault.prepare(folder)
    line = fault.line(folder) if fault.line else command(results, "-p", "fault_plugin", *arguments)
    more = {"FAULT": fault.inject, "FAULT_AT": fault.at, "FAULT_RESULTS": str(results)}
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(
            line,
            cwd=ROOT,
            env=environment(MARK_OF_THIS_TEST=mark, TMPDIR=str(folder / "temporary"), **more),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Hanging(folder, mark, process)


def outcome(fault: Fault, folder: Path) -> tuple[list[str], int, dict[str, str], str]:
    """What is wrong with the session, its exit status, the rows that it left, and its sentence."""
    session = start(fault, folder)
    try:
        code = session.process.wait(PATIENCE)
        left = session.left()
    finally:
        session.kill()
    said, path = session.output(), folder / "results" / "records.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    kept = {row["technique"]: row["status"] for row in map(json.loads, lines)}
    wrong = [f"exit status {code}"] * (code != fault.code) + [f"rows {kept}"] * (kept != fault.kept)
    wrong += [f"{len(left)} processes are left"] * bool(left)
    temporary = folder / "temporary"
    files = [path.name for path in temporary.iterdir() if path.name != "filler"] if temporary.exists() else []
    wrong += [f"{files} are left"] * bool(files)
    sentences = [line.strip() for line in said.splitlines() if fault.said in line]
    wrong += ["it does not say so"] * (not sentences)
    wrong += ["there is a traceback"] * (said.count("Traceback (most") > fault.tracebacks)
    wrong += [f"{p.name} is left" for p in (folder / "results").glob(".*.tmp")]
    sentence = sentences[0].replace(f"{folder}/", "") if fault.said and sentences else ""
    return wrong, code, kept, sentence


def main(words: list[str]) -> int:
    failed = 0
    for number, fault in enumerate(FAULTS, 1):
        if words and not any(word in fault.name for word in words):
            continue
        folder = Path(tempfile.mkdtemp(prefix="fault-"))
        wrong, code, kept, sentence = outcome(fault, folder)
        rows = ", ".join(f"{name} {status}" for name, status in kept.items()) or "none"
        print(f"| {number} | {fault.name} | {sentence} | {code} | {rows} |", flush=True)
        failed += bool(wrong)
        if wrong:
            print(f"    {'; '.join(wrong)}: {folder}/output.txt", flush=True)
        else:
            for name in ("results", "temporary"):
                subprocess.run(["umount", "-l", str(folder / name)], capture_output=True, check=False)
            shutil.rmtree(folder, ignore_errors=True)
    return int(bool(failed))


if __name__ == "__main__":
    if os.environ.get("IN_NAMESPACE") != "yes":
        os.environ["IN_NAMESPACE"] = "yes"
        os.execvp("unshare", ["unshare", "--map-root-user", "--mount", sys.executable, *sys.argv])
    sys.exit(main(sys.argv[1:]))
