"""Options of `pytest bench` that cannot be used, and what it costs to collect its tests."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sessions import ROOT, bench, forked

from udaciheadline.checkpoints.models import resolve

UNUSABLE = [
    (["--technique", "teleport"], "--technique 'teleport': there is no such technique: choose from baseline"),
    (["--dataset", "missing.jsonl"], "missing.jsonl: there is no such file"),
    (["--articles", "0"], "--articles 0: give at least 1"),
    (["--budget", "p99<50"], "--budget 'p99<50': the p99 latency is given in ms, s, us: write it as in p99<50ms"),
    (["--batch-size", "0"], "--batch-size 0: give at least 1"),
    (["--model", "./nowhere/at/all"], "--model ./nowhere/at/all: there is no such folder"),
    (["--target", "bench"], "--target bench: it has no config.json"),
    (["-p", "no:benchmark"], "pytest-benchmark is missing here: install it, and leave out -p no:benchmark"),
    (["-p", "no:benchmark", "--benchmark-autosave"], "pytest-benchmark is missing here"),
    (["-p", "no:terminal"], "-p no:terminal: the report of the run is shown there"),
    (["--benchmark-compare=0001"], "--benchmark-compare=0001: there is no such run in "),
    (["--benchmark-compare-fail=mean:5%"], "--benchmark-compare-fail: there is nothing to compare with"),
    (["-n", "2"], "-n: side by side, techniques would measure each other: run without pytest-xdist"),
]
UNREADABLE = [
    (["--batch-size", "x"], "argument --batch-size: 'x' is neither a number nor auto"),
    (["--goal", "cheap"], "argument --goal: invalid choice: 'cheap' (choose from "),
    (["--engine", "nonsense"], "argument --engine: invalid choice: 'nonsense' (choose from "),
]


def refused_sessions(results: Path) -> dict[str, subprocess.CompletedProcess[str]]:
    """One of each of these options: the first of each kind as a user starts it."""
    anew = [cases[0][0] for cases in (UNUSABLE, UNREADABLE)]
    rest = [arguments for arguments, _ in UNUSABLE[1:] + UNREADABLE[1:]]
    sessions = [bench(results, *arguments) for arguments in anew] + forked(results, rest)
    return {" ".join(arguments): session for arguments, session in zip(anew + rest, sessions, strict=True)}


def unbuildable_session(folder: Path) -> tuple[str, subprocess.CompletedProcess[str]]:
    """Of a model with weights that end too soon, and its folder."""
    model = Path(shutil.copytree(resolve("embedded", "--model"), folder / "model"))
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return str(model), bench(folder, "--model", str(model), "--articles", "1")


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> dict[str, subprocess.CompletedProcess[str]]:
    return refused_sessions(tmp_path_factory.mktemp("refused"))


@pytest.mark.parametrize(("arguments", "message"), UNUSABLE)
def test_bad_input_ends_the_session_at_once_with_one_sentence(refused, arguments: list[str], message: str) -> None:
    session = refused[" ".join(arguments)]
    assert session.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: {message}" in session.stdout + session.stderr
    assert "Traceback" not in session.stdout + session.stderr


@pytest.mark.parametrize(("arguments", "message"), UNREADABLE)
def test_an_option_that_cannot_be_read_is_one_sentence_below_the_usage(
    refused, arguments: list[str], message: str
) -> None:
    session = refused[" ".join(arguments)]
    assert session.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"error: {message}" in session.stderr
    assert "Traceback" not in session.stdout + session.stderr


@pytest.fixture(scope="module")
def unbuildable(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, subprocess.CompletedProcess[str]]:
    return unbuildable_session(tmp_path_factory.mktemp("unbuildable"))


def test_a_reference_that_cannot_be_built_ends_the_session_at_once_with_one_sentence(unbuildable) -> None:
    model, session = unbuildable
    assert session.returncode == pytest.ExitCode.USAGE_ERROR
    (line,) = session.stderr.strip().splitlines()
    assert line.startswith("ERROR: ")
    assert model in line
    assert "Traceback" not in session.stdout


def test_collecting_the_benchmarks_imports_no_torch() -> None:
    script = (
        "import sys, pytest; code = pytest.main(['bench', '--collect-only', '-q']); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, timeout=60).returncode == 0
