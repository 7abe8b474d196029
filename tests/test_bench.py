"""`pytest bench` as a user runs it: whole sessions in a process of their own."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from faulty import FAULTY

from udaciheadline.store import NOTEBOOK_COLUMNS

ROOT = Path(__file__).parent.parent


def command(results: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "bench", "--results", str(results), "--device", "cpu", *arguments]


def environment(**more: str) -> dict[str, str]:
    """This environment, with `-p faulty` importable, and one thread: two that wait for each other crawl on a busy
    machine."""
    path = os.pathsep.join(filter(None, [str(ROOT / "tests"), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | more


def bench(results: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = command(results, *arguments)
    return subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)


def faulty(folder: Path, techniques: str) -> tuple[str, ...]:
    """Arguments for `techniques`, those of `faulty.py` among them, which have a table without thresholds each."""
    gates = folder / "gates.toml"
    tables = "".join(f"\n[{name}]\n" for name in FAULTY)
    gates.write_text((ROOT / "bench" / "gates.toml").read_text("utf-8") + tables, "utf-8")
    return "-p", "faulty", "--gates", str(gates), "--technique", techniques


def records(results: Path) -> dict[str, dict]:
    lines = (results / "records.jsonl").read_text("utf-8").splitlines()
    return {record["technique"]: record for record in map(json.loads, lines)}


def processes_with(mark: str) -> list[str]:
    """The processes that inherited an environment variable of this value."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in environ.read_bytes():
                found.append(environ.parent.name)
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A session of every technique on a few articles, saved as a user would save it."""
    results = tmp_path_factory.mktemp("whole")
    return results, bench(results, "--articles", "4", "--benchmark-autosave")


def test_a_whole_session_passes_and_prints_no_foreign_warning(whole) -> None:
    _, session = whole
    assert session.returncode == 0, session.stdout
    assert "Warning" not in session.stdout
    assert session.stderr.strip().startswith("Saved benchmark data in")
    assert len(session.stderr.strip().splitlines()) == 1


def test_every_technique_leaves_a_record_with_speed_memory_quality_and_verdicts(whole) -> None:
    results, _ = whole
    found = records(results)
    names = ["baseline", "kv-cache", "pruned", "int8", "fp4", "nf4", "target", "speculative"]
    assert list(found) == names
    for record in found.values():
        assert record["status"] == "ok"
        assert record["measurement"]["count"] == 4
        assert record["memory"]["host_peak_bytes"] > record["build"]["weights_bytes"]
        assert 0 < record["scores"]["rouge"]["rouge1"]["value"] <= 1
        assert record["verdicts"]


def test_exact_techniques_repeat_the_tokens_of_the_row_they_are_exact_to(whole) -> None:
    found = records(whole[0])
    parity = {n: v["status"] for n, r in found.items() for v in r["verdicts"] if v["gate"] == "parity"}
    assert parity == {"baseline": "pass", "kv-cache": "pass", "speculative": "pass"}


def test_speculation_reports_what_was_drafted_and_its_speed_over_the_target(whole) -> None:
    record = records(whole[0])["speculative"]
    assert 0 < record["measurement"]["accepted"] <= record["measurement"]["drafted"]
    assert record["speed_up_over"].keys() == {"baseline", "target"}


def test_the_csv_begins_with_the_columns_of_the_notebook(whole) -> None:
    rows = list(csv.reader((whole[0] / "results.csv").open(encoding="utf-8")))
    assert tuple(rows[0][: len(NOTEBOOK_COLUMNS)]) == NOTEBOOK_COLUMNS
    assert [row[0] for row in rows[1:]][:2] == ["Baseline", "KV Caching"]
    assert rows[-1][0] == "Copy the description"


def test_the_headlines_stand_side_by_side(whole) -> None:
    rows = list(csv.DictReader((whole[0] / "headlines.csv").open(encoding="utf-8")))
    assert len(rows) == 4
    assert {"article", "reference", "Baseline", "Speculative Decoding"} <= rows[0].keys()


def test_the_autosaved_benchmark_carries_the_row_and_the_engines_own_seconds(whole) -> None:
    (saved,) = whole[0].glob("*/0001_*.json")
    data = json.loads(saved.read_text("utf-8"))
    assert data["machine_info"]["udaciheadline"]["torch"]
    latency = {b["name"]: b for b in data["benchmarks"] if b["group"] == "latency"}
    row = latency["test_latency[kv-cache]"]
    assert row["extra_info"]["status"] == "ok"
    assert row["stats"]["mean"] == pytest.approx(row["extra_info"]["Avg Latency"], rel=1e-6)


def test_pytest_benchmark_compare_reads_the_results(whole) -> None:
    tool = Path(sys.executable).with_name("pytest-benchmark")
    output = subprocess.run(
        [tool, "--storage", str(whole[0]), "compare"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert "test_latency[speculative]" in output.stdout


@pytest.fixture(scope="module")
def beset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A session of a sound technique among faulty ones, with a model of one's own, so that there is no target."""
    results = tmp_path_factory.mktemp("beset")
    chosen = faulty(results, "raises,mend,oom,killed,gpu-only,kv-cache,target,hangs")
    model = str(ROOT / "udaciheadline" / "assets" / "main")
    return results, bench(results, *chosen, "--articles", "3", "--timeout", "12", "--model", model, "--profile")


def test_a_faulty_technique_costs_its_own_row_only(beset) -> None:
    results, session = beset
    assert {name: record["status"] for name, record in records(results).items()} == {
        "raises": "crash",
        "mend": "error",
        "oom": "oom",
        "killed": "crash",
        "gpu-only": "skipped",
        "kv-cache": "ok",
        "target": "skipped",
        "hangs": "timeout",
    }
    assert session.returncode == 1


def test_the_tests_of_a_faulty_technique_fail_and_those_of_the_others_do_not(beset) -> None:
    output = beset[1].stdout
    assert "FAILED bench/test_latency.py::test_latency[hangs]" in output
    assert "FAILED bench/test_quality.py::test_rouge[killed]" in output
    assert "[kv-cache] - " not in output


def test_the_report_says_why_a_row_is_missing(beset) -> None:
    output = beset[1].stdout
    assert "hangs: timeout: no answer within the 12 s of --timeout." in output
    assert "gpu-only: skipped: it needs a CUDA GPU." in output
    assert "target: skipped: it needs a target model: name one with --target." in output


def test_profile_writes_a_trace_and_a_table(beset) -> None:
    folder = beset[0] / "profile"
    assert (folder / "kv-cache.json.gz").stat().st_size > 0
    assert "Self CPU" in (folder / "kv-cache.txt").read_text("utf-8")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 2), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_session_cut_short_keeps_the_finished_rows_and_leaves_no_process(
    tmp_path: Path, number: int, code: int
) -> None:
    mark = uuid.uuid4().hex
    session = subprocess.Popen(
        command(tmp_path, *faulty(tmp_path, "kv-cache,hangs"), "--articles", "2"),
        cwd=ROOT,
        env=environment(MARK_OF_THIS_TEST=mark),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        kept = tmp_path / "records.jsonl"
        for _ in range(600):
            if kept.exists() and kept.read_text("utf-8"):
                break
            time.sleep(0.1)
        time.sleep(1)  # into the row that hangs
        os.killpg(session.pid, number) if number == signal.SIGINT else session.kill()
        assert session.wait(timeout=30) == code
        for _ in range(100):
            if not processes_with(mark):
                break
            time.sleep(0.1)
        assert processes_with(mark) == []
    finally:
        for pid in processes_with(mark):
            os.kill(int(pid), signal.SIGKILL)
    assert list(records(tmp_path)) == ["kv-cache"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--technique", "teleport"], "--technique 'teleport': there is no such technique: choose from baseline"),
        (["--dataset", "missing.jsonl"], "missing.jsonl: there is no such file"),
        (["--articles", "0"], "--articles 0: give at least 1"),
        (["--model", "./nowhere/at/all"], "--model ./nowhere/at/all: there is no such folder"),
        (["--target", "bench"], "--target bench: it has no config.json"),
    ],
)
def test_bad_input_ends_the_session_at_once_with_one_sentence(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    session = bench(tmp_path, *arguments)
    assert session.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: {message}" in session.stdout + session.stderr
    assert "Traceback" not in session.stdout + session.stderr


def test_collecting_the_benchmarks_imports_no_torch() -> None:
    script = (
        "import sys, pytest; code = pytest.main(['bench', '--collect-only', '-q']); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, timeout=60).returncode == 0
