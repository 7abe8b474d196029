"""`pytest bench` beside runs that it has saved, as a user runs it: whole sessions, outside the checkout, the first of
which cannot fork its workers, while the second has an optional library and a long temporary folder."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from sessions import FEW, bench

Compared = tuple[Path, list[subprocess.CompletedProcess[str]]]


def compared_sessions(folder: Path) -> Compared:
    """The results of two sessions, and both. Nothing is saved before the first, and its workers cannot be forked; the
    second is compared with a first one that is made much faster than it was."""
    few = *FEW, "--technique", "tensor-parallel", "--batch-size", "2", "--benchmark-compare-fail=mean:5%"
    first = "-p", "cuda_taken", "--benchmark-autosave", "--benchmark-compare"
    sessions = [bench(folder / "r", *few, *first, cwd=folder)]
    (path,) = folder.glob("r/*/0001_*.json")
    run = json.loads(path.read_text("utf-8"))
    for benchmark in run["benchmarks"]:
        benchmark["stats"]["mean"] /= 1000
    path.write_text(json.dumps(run), "utf-8")
    again = "--launches", "2", "--benchmark-compare=0001", "--baseline", "r"
    temporary = folder / "temporary".ljust(95 - len(str(folder)), "y")
    temporary.mkdir()
    path = os.pathsep.join([str(with_torchao(folder)), os.environ.get("PYTHONPATH", "")])
    sessions.append(bench(Path("r"), *few, *again, cwd=folder, TMPDIR=str(temporary), PYTHONPATH=path))
    return folder / "r", sessions


def with_torchao(folder: Path) -> Path:
    """Where a library is that transformers would import."""
    packages = folder / "packages"
    (packages / "torchao").mkdir(parents=True)
    (packages / "torchao" / "__init__.py").write_text(f"open({str(packages / 'imported')!r}, 'w').close()\n", "utf-8")
    (packages / "torchao-99.0.dist-info").mkdir()
    (packages / "torchao-99.0.dist-info" / "METADATA").write_text("Name: torchao\nVersion: 99.0\n", "utf-8")
    return packages


def rows(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (results / "records.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    return compared_sessions(tmp_path_factory.mktemp("compared"))


def test_a_row_is_launched_as_often_as_was_asked_for(compared: Compared) -> None:
    results, _ = compared
    assert [row["measurement"] and row["measurement"]["launches"] for row in rows(results)] == [1, 2]


def test_a_first_run_that_is_to_be_compared_says_that_there_is_none_to_compare_it_with(compared: Compared) -> None:
    results, (first, _) = compared
    assert first.returncode == 0, first.stdout + first.stderr
    assert f"No run is saved in {results} yet: this one is compared with none." in first.stdout
    assert "Warning" not in first.stdout + first.stderr


def test_workers_that_cannot_be_forked_serve_a_whole_session(compared: Compared) -> None:
    results, (first, second) = compared
    assert "Workers were started anew" in first.stdout
    assert "Workers were started anew" not in second.stdout
    anew, forked = rows(results)
    assert [(row["status"], row["reason"]) for row in (anew, forked)] == [("ok", "")] * 2
    assert len(anew["parallel"]["weights_bytes"]) == 2
    for figure in ("rouge1", "nll"):
        assert anew["per_article"][figure][:2] == forked["per_article"][figure][:2]


def test_an_optional_library_is_not_imported_where_workers_are_forked(compared: Compared) -> None:
    assert not (compared[0].parent / "packages" / "imported").exists()


def test_a_session_leaves_nothing_in_a_long_temporary_folder(compared: Compared) -> None:
    (temporary,) = compared[0].parent.glob("temporary*")
    assert list(temporary.iterdir()) == []


def test_a_saved_run_outside_the_checkout_is_that_of_the_same_machine(compared: Compared) -> None:
    _, (_, second) = compared
    assert re.search(r"^Compared with \S+/0001_\S+\.json\.$", second.stdout, re.MULTILINE)
    assert "test_latency[tensor-parallel] (0001" in second.stdout
    assert "machine_info" not in second.stdout + second.stderr


def test_a_run_that_is_worse_than_the_limit_fails_without_a_trace_of_the_harness(compared: Compared) -> None:
    _, (_, second) = compared
    assert second.returncode == 1
    _, _, section = second.stdout.partition(" regressions ")
    assert re.search(r"^test_latency\[tensor-parallel\] \(0001_\w+\): Field 'mean' has failed", section, re.MULTILINE)
    assert "Traceback" not in second.stdout + second.stderr


def test_a_run_is_compared_with_its_baseline_and_how_each_ended_is_noted(compared: Compared) -> None:
    results, (_, second) = compared
    _, _, section = second.stdout.partition("= baseline =")
    assert re.search(r"^tensor-parallel\s+speed\s.*\snot judged$", section, re.MULTILINE)
    assert "No regression. Run" in section
    ended = [json.loads(line) for line in (results / "sessions.jsonl").read_text("utf-8").splitlines()]
    assert [session["exit_status"] for session in ended] == [0, 1]
