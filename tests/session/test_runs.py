"""Runs of earlier sessions: which is meant, what is refused, and what can be promoted."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rows import OFFLINE, RECORD, broken, curve

from udaciheadline.records import Record, UsageError
from udaciheadline.session.runs import baseline_name, latest, load, promote
from udaciheadline.session.store import Store, plain

EARLIER, LATER = replace(RECORD, run="earlier"), replace(RECORD, run="later")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """An earlier run and a later one, both over and passed."""
    return written(tmp_path / "results", EARLIER, replace(OFFLINE, run="earlier"), LATER)


def written(folder: Path, *records: Record, exit_status: int | None = 0) -> Path:
    store = Store(folder)
    for record in records:
        store.append(record)
    for run in dict.fromkeys(record.run for record in records):
        if exit_status is not None:
            store.end(run, exit_status)
    return folder


def saved(path: Path, *records: Record) -> Path:
    """As pytest-benchmark saves them, beside a benchmark of somebody else."""
    benchmarks: list[dict[str, Any]] = [{"extra_info": {"record": plain(record)}} for record in records]
    path.write_text(json.dumps({"benchmarks": [*benchmarks, {"extra_info": {}}]}), "utf-8")
    return path


# -- which run is meant ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reference",
    [
        lambda results: str(results),
        lambda results: str(results / "records.jsonl"),
        lambda results: "later",
        lambda results: str(saved(results / "0001.json", LATER)),
    ],
    ids=["folder", "records", "name", "saved by pytest-benchmark"],
)
def test_a_run_is_found_by_each_of_its_names_and_read_with_all_that_it_holds(
    results: Path, reference: Callable[[Path], str]
) -> None:
    assert load(reference(results), results) == [LATER]


def test_an_earlier_run_is_found_by_its_name_with_all_rows(results: Path) -> None:
    assert [record.technique for record in load("earlier", results)] == ["pruned", "compiled-batch"]


def test_what_was_not_a_number_is_read_back_as_such(tmp_path: Path) -> None:
    record = replace(RECORD, build_seconds=None, settings={"thresholds": [0.5], "x": None})
    assert latest(written(tmp_path / "r", record)) == [record]


def test_a_curve_is_read_back_and_a_row_of_before_there_were_any_has_none(tmp_path: Path) -> None:
    with_curve = replace(RECORD, batch_curve=curve(2.0, 6.0, job_batch_size=4, left_out=((16, "too long"),)))
    assert latest(written(tmp_path / "new", with_curve)) == [with_curve]
    old = plain(RECORD)
    del old["batch_curve"]
    path = tmp_path / "old.jsonl"
    path.write_text(json.dumps(old), "utf-8")
    assert load(str(path), tmp_path) == [RECORD]


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_curve_with_a_rate_that_is_none_is_refused(tmp_path: Path, rate: float) -> None:
    with pytest.raises(UsageError, match="a rate of its curve is none"):
        latest(written(tmp_path / "r", replace(RECORD, batch_curve=curve(rate))))


def test_a_line_that_a_killed_run_left_is_passed_over_in_results_but_not_in_a_baseline(results: Path) -> None:
    records = results / "records.jsonl"
    records.write_bytes(records.read_bytes()[:-20])
    assert [record.run for record in latest(results)] == ["earlier"] * 2
    with pytest.raises(UsageError, match=r"records\.jsonl, line 3: it is cut off or damaged: name a whole file"):
        load(str(records), results)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("empty.jsonl", "", "there is no run in it"),
        ("list.jsonl", "[]\n", "row 1 is not one that `pytest bench` has written"),
        ("other.jsonl", '{"a": 1}\n', "row 1 is not one that `pytest bench` has written"),
        ("binary.jsonl", "\udcff", "cannot be read"),
        ("other.json", "{}", "it is no run that pytest-benchmark has saved"),
        ("cut.json", '{"benchmarks": [{"extra_info', "it is no run that pytest-benchmark has saved"),
        ("deep.jsonl", "[" * 100_000, "cut off or damaged"),
    ],
)
def test_a_file_that_is_no_run_is_refused_in_one_sentence_that_names_it(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match=said) as caught:
        load(str(path), tmp_path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_that_an_earlier_version_left_do_not_stand_in_the_way_of_later_runs(results: Path) -> None:
    records = results / "records.jsonl"
    records.write_text('{"run": "old", "speed": 1}\n' + records.read_text("utf-8"), "utf-8")
    assert latest(results) == load("later", results) == [LATER]
    with pytest.raises(UsageError, match="row 1 is not one"):
        load("old", results)


def test_a_name_that_is_nothing_is_refused(results: Path) -> None:
    with pytest.raises(UsageError, match="none: this is neither a file, nor a folder, nor a run in"):
        load("none", results)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("launches", 0),
        ("launches", 99),
        ("log_ratios", [None] * 8),
        ("log_ratios", [1e308] * 8),
        ("nll", [1e308] * 8),
        ("rouge1", []),
        ("nll", ["1.75"] * 8),
        ("seconds", [0.0] * 8),
        ("seconds", [1e308] * 8),
        ("headlines", ["one of eight"]),
    ],
)
def test_figures_that_no_session_has_are_refused(tmp_path: Path, field: str, value: Any) -> None:
    row = plain(RECORD)
    row["per_article"][field] = value
    path = tmp_path / "wrong.jsonl"
    path.write_text(json.dumps(row), "utf-8")
    with pytest.raises(UsageError, match=r"wrong\.jsonl: row 1 is not one"):
        load(str(path), tmp_path)


# -- baselines -------------------------------------------------------------------------------------------------------


def test_a_promoted_run_is_the_one_that_runs_of_the_same_settings_and_gpu_find(results: Path, tmp_path: Path) -> None:
    assert promote(None, results, tmp_path / "b") == tmp_path / "b" / baseline_name([LATER])
    assert load(str(tmp_path / "b"), results, [EARLIER]) == [LATER]


def test_another_promotion_takes_the_place_of_the_first(results: Path, tmp_path: Path) -> None:
    promote("later", results, tmp_path / "b")
    promote("earlier", results, tmp_path / "b")
    assert [record.run for record in load(str(tmp_path / "b"), results, [LATER])] == ["earlier"] * 2
    assert len(list((tmp_path / "b").iterdir())) == 1


@pytest.mark.parametrize(
    "other", [{"environment": {"gpu": "NVIDIA H100"}}, {"settings": {"dtype": "bfloat16"}}], ids=["gpu", "settings"]
)
def test_a_run_of_another_kind_finds_no_baseline(results: Path, tmp_path: Path, other: dict[str, Any]) -> None:
    promote(None, results, tmp_path / "b")
    with pytest.raises(UsageError, match="no baseline for these settings and this device: promote a run"):
        load(str(tmp_path / "b"), results, [replace(LATER, **other)])


@pytest.mark.parametrize("status", [1, 2, 3, 4, None])
def test_a_run_that_failed_or_did_not_end_is_not_promoted(tmp_path: Path, status: int | None) -> None:
    results = written(tmp_path / "results", RECORD, exit_status=status)
    with pytest.raises(UsageError, match="it did not come to its end" if status is None else "it failed"):
        promote(None, results, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_run_in_which_a_row_broke_off_is_not_promoted(tmp_path: Path) -> None:
    results = written(tmp_path / "results", RECORD, replace(broken("oom", "too large"), run=RECORD.run))
    with pytest.raises(UsageError, match="speculative broke off"):
        promote(None, results, tmp_path / "b")


def test_baselines_that_cannot_be_written_are_named(results: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"file\S*: it cannot be written"):
        promote(None, results, tmp_path / "file")
