"""All figures of a run, in the wide table of `--details`."""

import math
from dataclasses import replace

import pytest
from rows import MEASUREMENT, OFFLINE, RECORD, SCORES, SKIPPED, SPECULATIVE, broken
from tables import cells, legend, text

from udaciheadline.records import Estimate, Memory, Verdict
from udaciheadline.report.details import details
from udaciheadline.report.table import COPY_TITLE


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("avg", "125.0"),
        ("first", "31.2"),
        ("x kv-cache", "2.00 ±0.10"),
        ("x baseline", "3.00 ±0.50"),
        ("offline", "40"),
        ("limit", "25.0%"),
        ("left", "93.8"),
        ("weights", "3.0"),
        ("peak", "700"),
        ("ROUGE-1", "0.500"),
        ("difference", "-0.040 ±0.020"),
        ("NLL", "1.750"),
        ("same", "75%"),
        ("gates", "pass"),
    ],
)
def test_a_row_shows_speed_memory_and_quality_side_by_side(column: str, cell: str) -> None:
    assert cells(text(RECORD), "pruned")[column] == cell


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("avg", ""),
        ("p99", ""),
        ("first", ""),
        ("x kv-cache", ""),
        ("x baseline", ""),
        ("offline", "80"),
        ("limit", "25.0%"),
        ("left", "9.4"),
        ("peak", "700"),
        ("ROUGE-1", "0.500"),
        ("gates", "pass"),
    ],
)
def test_an_offline_row_has_no_latency_and_is_held_against_the_limit_of_its_rate(column: str, cell: str) -> None:
    """80 of 320 headlines a second: 12.5 ms each, where 3.125 ms would do."""
    assert cells(text(OFFLINE), "compiled-batch")[column] == cell


def test_a_row_without_a_limit_shows_neither_its_share_nor_what_is_left() -> None:
    without = replace(RECORD, measurement=replace(MEASUREMENT, limit_seconds=None))
    offline = replace(OFFLINE, throughput=replace(OFFLINE.throughput, limit_per_second=None))
    for record in (without, offline):
        row = cells(text(record), record.technique)
        assert (row["limit"], row["left"]) == ("", "")


def test_a_measured_row_is_held_against_the_limit_of_its_latency_and_not_of_its_offline_rate() -> None:
    both = replace(RECORD, throughput=OFFLINE.throughput)
    assert cells(text(both), "pruned")["left"] == "93.8"


def test_rows_stand_in_the_order_given_and_copying_the_description_is_the_last() -> None:
    rows = text(SPECULATIVE, RECORD).partition("\n\n")[0].splitlines()[3:]
    assert [row.split("  ")[0] for row in rows] == ["speculative", "pruned", "Copy the description"]


def test_the_row_of_copying_shows_its_rouge_in_the_column_of_rouge() -> None:
    copied = cells(text(RECORD), "Copy the description")
    assert {name: cell for name, cell in copied.items() if cell} == {
        "technique": "Copy the description",
        "ROUGE-1": "0.234",
    }


@pytest.mark.parametrize(
    ("statuses", "cell"),
    [
        ({"rouge1": "pass", "work": "pass"}, "pass"),
        ({"rouge1": "fail", "work": "pass"}, "FAIL rouge1"),
        ({"rouge1": "fail", "likelihood": "inconclusive", "work": "fail"}, "FAIL rouge1,work"),
        ({"rouge1": "inconclusive", "work": "pass"}, "~ rouge1"),
        ({"rouge1": "pass", "parity": "not judged"}, "~ parity"),
        ({}, "-"),
    ],
    ids=["all pass", "one fails", "two fail", "inconclusive", "not judged", "no gates"],
)
def test_the_gates_column_names_what_did_not_pass(statuses: dict[str, str], cell: str) -> None:
    verdicts = [Verdict(gate, status, 0.9, 0.97, "what was found") for gate, status in statuses.items()]
    assert cells(text(replace(RECORD, verdicts=verdicts)), "pruned")["gates"] == cell


def test_below_the_table_each_gate_that_did_not_pass_says_why() -> None:
    verdicts = [
        Verdict("rouge1", "fail", 0.9, 0.97, "90.0% of the reference's kept"),
        Verdict("likelihood", "inconclusive", 0.1, 0.02, "within chance"),
        Verdict("work", "pass", 0.0, 0.1, "the same work"),
    ]
    below = legend(text(replace(RECORD, verdicts=verdicts)))
    assert "pruned: rouge1: fail: 90.0% of the reference's kept" in below
    assert "pruned: likelihood: inconclusive: within chance" in below
    assert "the same work" not in below


@pytest.mark.parametrize(
    ("status", "reason"),
    [("skipped", "it needs a CUDA GPU"), ("timeout", "no answer within 600 s"), ("oom", "out of memory")],
)
def test_a_row_that_broke_off_shows_its_status_and_below_its_reason(status: str, reason: str) -> None:
    written = text(RECORD, broken(status, reason))
    row = cells(written, "speculative")
    assert row["avg"] == status
    assert {name for name, cell in row.items() if cell} == {"technique", "avg"}
    assert f"speculative: {status}: {reason}." in legend(written).splitlines()


def test_a_table_of_skipped_rows_only_is_still_a_table() -> None:
    written = text(SKIPPED)
    assert cells(written, "speculative")["avg"] == "skipped"
    assert "n = " not in written


def test_a_p99_of_few_articles_is_marked_and_the_mark_explained() -> None:
    written = text(RECORD)
    assert cells(written, "pruned")["p99"] == "250.0*"
    assert "* p99 of fewer than 299 values" in legend(written)


def test_a_p99_of_many_articles_has_no_mark() -> None:
    written = text(replace(RECORD, measurement=replace(MEASUREMENT, p99_is_reliable=True)))
    assert cells(written, "pruned")["p99"] == "250.0"
    assert "*" not in written


@pytest.mark.parametrize(
    ("memory", "peak", "said"),
    [
        (Memory((), (), 3 * 2**20), "3", "resident memory of the worker process"),
        (Memory((3 * 2**20, 2**20), (2**30, 2**30), 2**30), "4", "allocated on all GPUs"),
        (Memory((), (), None), "", "resident memory of the worker process"),
        (None, "", "resident memory of the worker process"),
    ],
    ids=["CPU", "two GPUs", "a kernel that cannot tell", "not measured"],
)
def test_the_peak_is_of_the_devices_or_else_of_the_process(memory: Memory | None, peak: str, said: str) -> None:
    written = text(replace(RECORD, memory=memory))
    assert cells(written, "pruned")["peak"] == peak
    assert f"Peak: {said}" in legend(written)


def test_an_interval_that_one_article_cannot_give_is_not_shown_as_a_number() -> None:
    one = replace(MEASUREMENT, count=1, speed_up=Estimate(2.0, math.nan, math.nan))
    assert cells(text(replace(RECORD, measurement=one)), "pruned")["x kv-cache"].startswith("2.00")
    assert "nan" not in text(replace(RECORD, measurement=one))


def test_quality_that_is_no_number_is_a_dash_in_every_row() -> None:
    unknown = Estimate(math.nan, math.nan, math.nan)
    unseen = dict.fromkeys(SCORES.rouge, unknown)
    scores = replace(SCORES, rouge=unseen, rouge_difference=unseen, nll=unknown)
    written = details([replace(RECORD, scores=scores)], unseen)
    row = cells(written, "pruned")
    assert [row["ROUGE-1"], row["difference"], row["NLL"]] == ["-", "-", "-"]
    assert cells(written, COPY_TITLE)["ROUGE-1"] == "-"
    assert "nan" not in written


def test_a_reason_that_nothing_could_be_judged_for_stands_once_for_all_its_rows_and_gates() -> None:
    unseen = [Verdict(gate, "not judged", math.nan, 0.99, "ROUGE sees no word") for gate in ("rouge1", "rougeL")]
    missing = Verdict("parity", "not judged", math.nan, 1.0, "no such row")
    rows = [replace(RECORD, technique=name, verdicts=[*unseen, missing]) for name in ("int8", "nf4")]
    found = [
        line for line in legend(text(replace(RECORD, verdicts=unseen), *rows)).splitlines() if "not judged" in line
    ]
    assert found == [
        "pruned, int8, nf4: rouge1, rougeL: not judged: ROUGE sees no word.",
        "int8, nf4: parity: not judged: no such row.",
    ]
