"""A whole session of `pytest bench`, and what it leaves."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from sessions import ROOT, bench, gates, records

from udaciheadline.session.store import NOTEBOOK_COLUMNS
from udaciheadline.techniques import techniques

ARTICLES = 3


def whole_session(results: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A session of every technique on a few articles, saved as a user would save it. The only one here that compiles:
    that takes longer than all the rest of it."""
    few = "--articles", str(ARTICLES), "--quality-articles", str(ARTICLES)
    return results, bench(results, *few, *gates(results), "--benchmark-autosave", "--details")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    return whole_session(tmp_path_factory.mktemp("whole"))


def test_a_whole_session_passes_and_prints_no_foreign_warning(whole) -> None:
    _, session = whole
    assert session.returncode == 0, session.stdout
    assert "Warning" not in session.stdout
    assert session.stderr.strip().startswith("Saved benchmark data in")
    assert len(session.stderr.strip().splitlines()) == 1


def test_the_verdict_comes_last_below_a_table_of_100_columns_and_all_figures_where_they_are_asked_for(whole) -> None:
    _, _, said = whole[1].stdout.partition("= headlines =")
    headlines, _, rest = said.partition("= details =")
    details, _, rest = rest.partition("= techniques =")
    table, _, verdict = rest.partition("= verdict =")
    assert verdict.splitlines()[1].startswith(("deploy ", "undecided between "))
    rows = table.partition("\n\n")[0].splitlines()[1:]
    assert rows[0].startswith("technique")
    assert max(map(len, rows)) <= 100
    assert "true headline: " in headlines
    assert "x baseline" in details
    assert "static-cache: skipped: it needs a CUDA GPU." in details


def test_every_technique_leaves_a_record_with_speed_memory_quality_and_verdicts(whole) -> None:
    results, _ = whole
    found = records(results)
    assert list(found) == list(techniques())
    for name in [name for name, technique in techniques().items() if technique.needs_cuda]:
        skipped = found.pop(name)
        assert (skipped["status"], skipped["reason"]) == ("skipped", "it needs a CUDA GPU")
    for name, record in found.items():
        assert record["status"] == "ok"
        assert record["measurement"] is None if name == "compiled-batch" else record["measurement"]["count"] == ARTICLES
        assert (record["throughput"] is not None) == techniques()[name].batches
        assert record["memory"]["host_peak_bytes"] > record["build"]["weights_bytes"]
        assert 0 < record["scores"]["rouge"]["rouge1"]["value"] <= 1
        assert record["verdicts"]


def test_a_session_leaves_a_page_on_its_rows_and_the_articles_once(whole) -> None:
    results, session = whole
    assert f"Report: {results / 'report.html'}" in session.stdout
    text = (results / "report.md").read_text("utf-8")
    assert all(f"({name})" in text for name, record in records(results).items() if record["status"] == "ok")
    assert "True headline:" in text or "Every row wrote the headlines of kv-cache" in text
    assert len((results / "articles.jsonl").read_text("utf-8").splitlines()) == 1


def test_the_rows_of_the_compiled_engine_say_so(whole) -> None:
    engines = {name: record["engine"] for name, record in records(whole[0]).items()}
    ours = {name for name, technique in techniques().items() if technique.engines == ("compiled",)}
    assert {"compiled", "compiled-batch", "pipeline-parallel"} < ours
    assert {name for name, engine in engines.items() if engine == "compiled"} == ours


def test_the_parallel_rows_have_two_ranks_and_say_what_each_of_them_has(whole) -> None:
    found = {name: record for name, record in records(whole[0]).items() if record["parallel"]}
    assert list(found) == ["tensor-parallel", "pipeline-parallel"]
    figures = "weights_bytes", "peak_bytes", "communication_share", "job_communication_share"
    for record in found.values():
        assert [len(record["parallel"][name]) for name in figures] == [2] * 4
        assert record["throughput"]["times_over"]["compiled-batch"] > 0


def test_what_the_device_could_do_is_measured_once_and_stands_beside_each_row(whole) -> None:
    found = records(whole[0])
    assert all(t["limit_per_second"] > 0 for record in found.values() if (t := record["throughput"]))
    limits = {name: found[name]["measurement"]["limit_seconds"] for name in ("kv-cache", "compiled", "target")}
    assert 0 < limits["compiled"] < limits["target"]
    assert limits["kv-cache"] == pytest.approx(limits["compiled"], rel=0.01)  # the same weights as often


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
        "compiled-target",
        "speculative",
    )
    assert parity == dict.fromkeys(exact, "pass")


def test_speculation_reports_what_was_drafted_and_its_speed_over_the_target(whole) -> None:
    record = records(whole[0])["speculative"]
    assert 0 < record["measurement"]["accepted"] <= record["measurement"]["drafted"]
    assert record["speed_up_over"].keys() == {"baseline", "target"}


def test_what_optimises_the_compiled_engine_answers_in_turn_with_it(whole) -> None:
    found = records(whole[0])
    optimising = [name for name, technique in techniques().items() if technique.optimises == "compiled"]
    compared = [name for name in optimising if found[name]["status"] == "ok"]
    assert {"compiled-bf16", "compiled-int8", "compiled-int4", "depth-pruned", "width-pruned"} <= set(compared)
    assert all(found[name]["in_turn"] == ["compiled"] for name in compared)
    assert all(found[name]["speed_up_over"].keys() == {"baseline", "compiled"} for name in compared)


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
