"""Sessions of `pytest bench` in which something goes wrong: rows that fail, and sessions that are cut short."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sessions import PATIENCE, ROOT, bench, faulty, hanging_session, records

CutShort = dict[int, tuple[Path, int, list[str]]]


def beset_session(results: Path) -> tuple[Path, int, str]:
    """A session of a sound technique among faulty ones, with a model of one's own, so that there is no target: its
    results, exit code and output."""
    chosen = faulty(results, "raises,mend,oom,killed,gpu-only,unsupported,kv-cache,target,hangs")
    model = str(ROOT / "udaciheadline" / "checkpoints" / "embedded" / "main")
    session = bench(
        results, *chosen, "--articles", "3", "--timeout", "30", "--batch-size", "auto", "--model", model, "--profile"
    )
    return results, session.returncode, session.stdout


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[Path, int, str], CutShort]:
    """All of them side by side: they wait more than they compute."""
    with ThreadPoolExecutor(1) as pool:
        beset = pool.submit(beset_session, tmp_path_factory.mktemp("beset"))
        cut_short = sessions_cut_short(tmp_path_factory.mktemp("cut_short"))
        return beset.result(), cut_short


@pytest.fixture(scope="module")
def beset(sessions) -> tuple[Path, int, str]:
    return sessions[0]


def test_a_faulty_technique_costs_its_own_row_only(beset) -> None:
    results, code, _ = beset
    assert {name: record["status"] for name, record in records(results).items()} == {
        "raises": "crash",
        "mend": "error",
        "oom": "oom",
        "killed": "crash",
        "gpu-only": "skipped",
        "unsupported": "skipped",
        "kv-cache": "ok",
        "target": "skipped",
        "hangs": "timeout",
    }
    assert code == 1


def test_a_row_that_ends_is_one_failure_and_its_other_tests_are_skipped(beset) -> None:
    output = beset[2]
    failed = [line.split(" - ")[0] for line in output.splitlines() if line.startswith("FAILED ")]
    assert failed == [
        f"FAILED bench/test_latency.py::test_latency[{n}]" for n in ("raises", "mend", "oom", "killed", "hangs")
    ]


def test_a_row_that_ends_says_why_once_without_a_trace_of_the_harness(beset) -> None:
    _, _, failures = beset[2].partition(" FAILURES ")
    failures, _, _ = failures.partition(" verdict ")
    assert failures.count("mend: error: the checkpoint is torn: mend it\n___") == 1
    assert (
        failures.count("raises: crash: ValueError: the weights are upside down\nTraceback (most recent call last)") == 1
    )
    assert "I am waiting for something that never comes" in failures
    assert "conftest.py" not in failures
    assert "row.py" not in failures


def test_the_report_says_why_a_row_is_missing(beset) -> None:
    output = beset[2]
    assert "\nhangs: timeout: no answer within the 5 s of --timeout.\n" in output
    skipped = [
        "gpu-only (it needs a CUDA GPU)",
        "unsupported (its layers are round, and this takes square ones)",
        "target (it needs a target model: name one with --target)",
    ]
    assert f"\nSkipped: {'; '.join(skipped)}.\n" in output


def test_a_technique_that_is_not_for_the_model_says_so_in_its_record(beset) -> None:
    record = records(beset[0])["unsupported"]
    assert record["reason"] == "its layers are round, and this takes square ones"
    assert record["measurement"] is record["throughput"] is record["scores"] is None


def test_profile_writes_a_trace_and_a_table(beset) -> None:
    folder = beset[0] / "profile"
    assert (folder / "kv-cache.json.gz").stat().st_size > 0
    assert "Self CPU" in (folder / "kv-cache.txt").read_text("utf-8")


def sessions_cut_short(folder: Path) -> CutShort:
    """Of one session for each of two signals, side by side: its results, its exit code and the processes it left."""
    sessions = {number: hanging_session(folder / str(number)) for number in (signal.SIGINT, signal.SIGKILL)}
    ended = {}
    try:
        for number, session in sessions.items():
            session.reach("hangs")
            pid = session.process.pid
            os.killpg(pid, number) if number == signal.SIGINT else os.kill(pid, number)
            ended[number] = session.results, session.process.wait(PATIENCE), session.left()
    finally:
        for session in sessions.values():
            session.kill()
    return ended


@pytest.fixture(scope="module")
def cut_short(sessions) -> CutShort:
    return sessions[1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 2), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_session_cut_short_keeps_the_finished_rows_and_leaves_no_process_and_no_file_behind(
    cut_short, number: int, code: int
) -> None:
    results, returned, left = cut_short[number]
    assert returned == code
    assert left == []
    assert list((results / "temporary").iterdir()) == []
    (record,) = records(results).values()
    assert (record["technique"], record["throughput"]["batch_size"]) == ("kv-cache", 1)
    saved = [json.loads(path.read_text("utf-8")) for path in results.glob("*/*.json")]
    names = [[benchmark["name"] for benchmark in file["benchmarks"]] for file in saved]
    both = ["test_latency[kv-cache]", "test_throughput[kv-cache]"]
    assert names == ([both] if number == signal.SIGINT else [])
