"""`pytest bench` as a user runs it: whole sessions in a process of their own."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest
from faulty import FAULTY

from udaciheadline.session.store import NOTEBOOK_COLUMNS
from udaciheadline.techniques import techniques

ROOT = Path(__file__).parent.parent
ARTICLES = 3


def command(results: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "bench", "--results", str(results), "--device", "cpu", *arguments]


OURS = dict(os.environ)  # before a test changes it: sessions run beside tests


def environment(**more: str) -> dict[str, str]:
    """This environment, with `-p faulty` importable, and one thread: two that wait for each other crawl on a busy
    machine. Triton compiles there."""
    path = os.pathsep.join(filter(None, [str(ROOT / "tests"), OURS.get("PYTHONPATH")]))
    kept = {name: value for name, value in OURS.items() if name != "TRITON_INTERPRET"}
    return kept | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | more


def bench(results: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = command(results, *arguments)
    return subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)


def faulty(folder: Path, chosen: str) -> tuple[str, ...]:
    """Arguments for the `chosen` techniques; those of `faulty.py` have a table without thresholds each."""
    gates = folder / "gates.toml"
    tables = "".join(f"\n[{name}]\n" for name in FAULTY)
    gates.write_text((ROOT / "bench" / "gates.toml").read_text("utf-8") + tables, "utf-8")
    return "-p", "faulty", "--gates", str(gates), "--technique", chosen


def records(results: Path) -> dict[str, dict]:
    lines = (results / "records.jsonl").read_text("utf-8").splitlines()
    return {record["technique"]: record for record in map(json.loads, lines)}


def whole_session(results: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A session of every technique on a few articles, saved as a user would save it. The only one here that compiles:
    that takes longer than all the rest of it."""
    return results, bench(results, "--articles", str(ARTICLES), "--benchmark-autosave")


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
def whole(beside) -> tuple[Path, subprocess.CompletedProcess[str]]:
    return beside("whole")


def test_a_whole_session_passes_and_prints_no_foreign_warning(whole) -> None:
    _, session = whole
    assert session.returncode == 0, session.stdout
    assert "Warning" not in session.stdout
    assert session.stderr.strip().startswith("Saved benchmark data in")
    assert len(session.stderr.strip().splitlines()) == 1


def test_every_technique_leaves_a_record_with_speed_memory_quality_and_verdicts(whole) -> None:
    results, _ = whole
    found = records(results)
    assert list(found) == list(techniques())
    for name in ("static-cache", "layer-placement"):
        skipped = found.pop(name)
        assert (skipped["status"], skipped["reason"]) == ("skipped", "it needs a CUDA GPU")
    for name, record in found.items():
        assert record["status"] == "ok"
        assert record["measurement"] is None if name == "compiled-batch" else record["measurement"]["count"] == ARTICLES
        assert (record["throughput"] is not None) == techniques()[name].batches
        assert record["memory"]["host_peak_bytes"] > record["build"]["weights_bytes"]
        assert 0 < record["scores"]["rouge"]["rouge1"]["value"] <= 1
        assert record["verdicts"]


def test_the_rows_of_the_compiled_engine_say_so(whole) -> None:
    engines = {name: record["engine"] for name, record in records(whole[0]).items()}
    ours = {"compiled", "compiled-batch", "pipeline-parallel"}
    assert {name for name, engine in engines.items() if engine == "compiled"} == ours


def test_the_parallel_rows_have_two_ranks_and_say_what_each_of_them_has(whole) -> None:
    found = {name: record for name, record in records(whole[0]).items() if record["parallel"]}
    assert list(found) == ["tensor-parallel", "pipeline-parallel"]
    figures = "weights_bytes", "peak_bytes", "communication_share", "job_communication_share"
    for record in found.values():
        assert [len(record["parallel"][name]) for name in figures] == [2] * 4
        assert record["throughput"]["times_over"]["compiled-batch"] > 0


def test_the_share_of_what_the_device_could_do_is_that_of_a_possible_device(whole) -> None:
    """A row above the limit would mean that the limit, or the time, is wrong."""
    for record in records(whole[0]).values():
        if (m := record["measurement"]) and m["limit_seconds"] is not None:
            assert 0 < m["limit_seconds"] < m["average_seconds"]
        if t := record["throughput"]:
            assert t["limit_per_second"] > t["headlines_per_second"] > 0


def test_an_offline_rows_headlines_and_figures_stand_beside_the_others(whole) -> None:
    headlines = list(csv.DictReader((whole[0] / "headlines.csv").open(encoding="utf-8")))
    assert [row["Compiled, Offline"] for row in headlines] == [row["KV Caching"] for row in headlines]
    (saved,) = whole[0].glob("*/0001_*.json")
    benchmarks = {b["name"]: b for b in json.loads(saved.read_text("utf-8"))["benchmarks"]}
    assert "test_latency[compiled-batch]" not in benchmarks
    info = benchmarks["test_throughput[compiled-batch]"]["extra_info"]
    assert info["status"] == "ok"
    assert info["batch_size"] == info["throughput.batch_size"] == ARTICLES


def test_exact_techniques_repeat_the_tokens_of_the_row_they_are_exact_to(whole) -> None:
    found = records(whole[0])
    parity = {n: v["status"] for n, r in found.items() for v in r["verdicts"] if v["gate"] == "parity"}
    exact = (
        "baseline",
        "kv-cache",
        "compiled",
        "compiled-batch",
        "tensor-parallel",
        "pipeline-parallel",
        "speculative",
    )
    assert parity == dict.fromkeys(exact, "pass")


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
    assert len(rows) == ARTICLES
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
def beset(beside) -> tuple[Path, int, str]:
    return beside("beset")


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
    failures, _, _ = failures.partition(" headlines ")
    assert failures.count("mend: error: the checkpoint is torn: mend it\n___") == 1
    assert (
        failures.count("raises: crash: ValueError: the weights are upside down\nTraceback (most recent call last)") == 1
    )
    assert "I am waiting for something that never comes" in failures
    assert "conftest.py" not in failures
    assert "row.py" not in failures


def test_the_report_says_why_a_row_is_missing(beset) -> None:
    output = beset[2]
    assert "hangs: timeout: no answer within the 30 s of --timeout." in output
    assert "gpu-only: skipped: it needs a CUDA GPU." in output
    assert "unsupported: skipped: its layers are round, and this takes square ones." in output
    assert "target: skipped: it needs a target model: name one with --target." in output


def test_a_technique_that_is_not_for_the_model_says_so_in_its_record(beset) -> None:
    record = records(beset[0])["unsupported"]
    assert record["reason"] == "its layers are round, and this takes square ones"
    assert record["measurement"] is record["throughput"] is record["scores"] is None


def test_profile_writes_a_trace_and_a_table(beset) -> None:
    folder = beset[0] / "profile"
    assert (folder / "kv-cache.json.gz").stat().st_size > 0
    assert "Self CPU" in (folder / "kv-cache.txt").read_text("utf-8")


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
        self.process.wait()


def hanging_session(results: Path) -> Hanging:
    results.mkdir()
    mark, chosen = uuid.uuid4().hex, faulty(results, "kv-cache,hangs")
    with (results / "output.txt").open("w") as output:
        process = subprocess.Popen(
            command(results, *chosen, "--articles", "2", "--batch-size", "1", "--benchmark-autosave"),
            cwd=ROOT,
            env=environment(MARK_OF_THIS_TEST=mark),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Hanging(results, mark, process)


def sessions_cut_short(folder: Path) -> dict[int, tuple[Path, int, list[str]]]:
    """Of one session for each of two signals, side by side: its results, its exit code and the processes it left."""
    sessions = {number: hanging_session(folder / str(number)) for number in (signal.SIGINT, signal.SIGKILL)}
    ended = {}
    try:
        for number, session in sessions.items():
            session.reach("hangs")
            pid = session.process.pid
            os.killpg(pid, number) if number == signal.SIGINT else os.kill(pid, number)
            ended[number] = session.results, session.process.wait(timeout=60), session.left()
    finally:
        for session in sessions.values():
            session.kill()
    return ended


@pytest.fixture(scope="module")
def cut_short(beside) -> dict[int, tuple[Path, int, list[str]]]:
    return beside("cut_short")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 2), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_session_cut_short_keeps_the_finished_rows_and_leaves_no_process(cut_short, number: int, code: int) -> None:
    results, returned, left = cut_short[number]
    assert returned == code
    assert left == []
    (record,) = records(results).values()
    assert (record["technique"], record["throughput"]["batch_size"]) == ("kv-cache", 1)
    saved = [json.loads(path.read_text("utf-8")) for path in results.glob("*/*.json")]
    names = [[benchmark["name"] for benchmark in file["benchmarks"]] for file in saved]
    both = ["test_latency[kv-cache]", "test_throughput[kv-cache]"]
    assert names == ([both] if number == signal.SIGINT else [])


BESIDE = {"whole": whole_session, "beset": beset_session, "cut_short": sessions_cut_short}
