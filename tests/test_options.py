"""Options of `pytest bench` that cannot be used, and what it costs to collect its tests."""

import subprocess
import sys
from pathlib import Path

import pytest
from test_bench import ROOT, bench

UNUSABLE = [
    (["--technique", "teleport"], "--technique 'teleport': there is no such technique: choose from baseline"),
    (["--dataset", "missing.jsonl"], "missing.jsonl: there is no such file"),
    (["--articles", "0"], "--articles 0: give at least 1"),
    (["--batch-size", "0"], "--batch-size 0: give at least 1"),
    (["--model", "./nowhere/at/all"], "--model ./nowhere/at/all: there is no such folder"),
    (["--target", "bench"], "--target bench: it has no config.json"),
]
UNREADABLE = [
    (["--batch-size", "x"], "argument --batch-size: 'x' is neither a number nor auto"),
    (["--engine", "nonsense"], "argument --engine: invalid choice: 'nonsense' (choose from "),
]


def refused_sessions(results: Path) -> dict[str, subprocess.CompletedProcess[str]]:
    """One of each of these options."""
    return {" ".join(arguments): bench(results, *arguments) for arguments, _ in UNUSABLE + UNREADABLE}


BESIDE = {"refused": refused_sessions}


@pytest.fixture(scope="module")
def refused(beside) -> dict[str, subprocess.CompletedProcess[str]]:
    return beside("refused")


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


def test_collecting_the_benchmarks_imports_no_torch() -> None:
    script = (
        "import sys, pytest; code = pytest.main(['bench', '--collect-only', '-q']); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, timeout=60).returncode == 0
