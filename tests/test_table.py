import math
import re
from dataclasses import replace
from typing import Any

import pytest
from rows import ARTICLES, MEASUREMENT, OFFLINE, RECORD, broken

from udaciheadline.records import BuildInfo, Memory, Parallel, Record, Throughput, Verdict
from udaciheadline.report.table import samples, table
from udaciheadline.statistics import Estimate

COPY_ROUGE = dict.fromkeys(("rouge1", "rouge2", "rougeL", "rougeLsum"), Estimate(0.234, 0.2, 0.3))
SKIPPED = broken("skipped", "it needs a target model: name one with --target")
SPECULATIVE = replace(
    RECORD,
    technique="speculative",
    measurement=replace(MEASUREMENT, drafted=200, accepted=150, acceptance_rate=0.75),
    speed_up_over={"baseline": Estimate(3.0, 2.5, 3.5), "target": Estimate(1.5, 1.375, 1.625)},
)


def text(*records: Record) -> str:
    return table(records, COPY_ROUGE, ["A note about the run."])


def cells(written: str, technique: str) -> dict[str, str]:
    """The cells of a technique's row by the names of their columns: a column ends where its name ends."""
    header, _, _, *rows = written.splitlines()
    row = next(row for row in rows if row.startswith(technique))
    found, start = {"technique": technique}, len(technique)
    for column in list(re.finditer(r"\S+(?: \S+)*", header))[1:]:
        found[column[0]] = row[start : column.end()].strip()
        start = column.end()
    return found


def legend(written: str) -> str:
    return written.partition("\n\n")[2]


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


def test_notes_come_last() -> None:
    assert text(RECORD).endswith("\nA note about the run.")


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


def test_the_number_of_articles_stands_below() -> None:
    assert "n = 8 articles" in legend(text(SKIPPED, RECORD))


def test_the_legend_explains_offline_and_limit_and_says_how_many_articles_were_written_at_a_time() -> None:
    below = legend(text(RECORD, OFFLINE))
    assert "Offline: headlines a second, all articles as one job; " in below
    assert "articles at a time: pruned 16, compiled-batch 8." in below
    assert "Limit: share of what the device, measured in this session, would do" in below
    assert "left: milliseconds a headline above that." in below


def test_without_an_offline_job_the_legend_does_not_speak_of_it() -> None:
    assert "Offline:" not in text(replace(RECORD, throughput=None))


def test_a_batch_size_that_did_not_fit_in_memory_is_told() -> None:
    refused = replace(OFFLINE, throughput=replace(OFFLINE.throughput, refused_batch_size=64))
    line = "compiled-batch: 64 articles at a time did not fit in memory."
    assert line in legend(text(refused)).splitlines()
    assert "did not fit" not in text(RECORD, OFFLINE)


def test_the_legend_says_which_rows_ran_on_the_compiled_engine() -> None:
    pruned = replace(RECORD, engine="compiled")
    line = "On the compiled engine: pruned, compiled-batch; the others on transformers."
    assert line in legend(text(SKIPPED, pruned, OFFLINE)).splitlines()
    assert "compiled engine" not in text(RECORD)


def offline(**times_over: float) -> Record:
    assert OFFLINE.throughput is not None
    return replace(OFFLINE, throughput=replace(OFFLINE.throughput, times_over=times_over))


def test_an_offline_row_is_compared_with_the_offline_rate_of_the_reference() -> None:
    line = "compiled-batch: 2.00 times the offline rate of kv-cache."
    assert line in legend(text(offline(**{"kv-cache": 2.0}))).splitlines()
    assert "times the offline rate" not in text(RECORD)


def test_without_the_reference_rate_an_offline_row_is_compared_with_nothing() -> None:
    assert "times the offline rate" not in text(offline())


SPLIT = replace(
    RECORD,
    technique="tensor-parallel",
    parallel=Parallel("nccl", (2 * 2**20, 3 * 2**20), (5 * 2**20, None), (0.25, 0.5), (0.125, 0.0)),
)


def test_a_parallel_row_says_what_each_rank_has_and_costs() -> None:
    line = "tensor-parallel: 2 ranks (nccl); on each, in MiB: weights 2.0, 3.0, peak 5.0, ?; "
    line += "nothing but communication: 25%, 50% of the time, of a job's 12%, 0%."
    assert line in legend(text(SPLIT)).splitlines()


def test_a_row_of_stages_says_how_many_layers_each_has_and_why_one_article_gains_nothing() -> None:
    assert SPLIT.parallel is not None
    stages = replace(SPLIT, technique="pipeline-parallel", parallel=replace(SPLIT.parallel, layers=(17, 15)))
    lines = legend(text(stages))
    assert "peak 5.0, ?; layers 17, 15; nothing but" in lines
    assert "pipeline-parallel: one article at a time cannot be faster than on one rank" in lines


@pytest.mark.parametrize(
    ("changes", "measured"),
    [
        ({}, "2.00 ±0.10 times the speed of kv-cache; for its offline rate, add kv-cache to --technique"),
        (
            {"engine": "compiled", "throughput": None, "speed_up_over": {"compiled": Estimate(1.5, 1.25, 1.75)}},
            "1.50 ±0.25 times the speed of compiled",
        ),
        (
            {"engine": "compiled", "throughput": Throughput(8, 3, 80.0, 640.0, times_over={"compiled-batch": 1.75})},
            "1.75 times the offline rate of compiled-batch",
        ),
        (
            {"engine": "compiled", "throughput": Throughput(8, 3, 80.0, 640.0)},
            "not measured; for its offline rate, add compiled-batch to --technique",
        ),
        ({"engine": "compiled", "throughput": None}, "not measured"),
    ],
)
def test_a_parallel_row_is_compared_with_one_rank_on_its_engine(changes: dict[str, Any], measured: str) -> None:
    lines = legend(text(replace(SPLIT, **changes))).splitlines()
    assert f"tensor-parallel: against one rank: {measured}." in lines


def test_on_a_cpu_it_is_said_that_only_one_rank_runs_a_compiled_program() -> None:
    assert SPLIT.parallel is not None
    on_cpu = replace(SPLIT, engine="compiled", parallel=replace(SPLIT.parallel, backend="gloo"))
    on_cpu = replace(on_cpu, speed_up_over={"compiled": Estimate(0.5, 0.25, 0.75)})
    assert ". On a CPU one rank runs a compiled program, and several do not." in legend(text(on_cpu))


def test_a_row_says_what_it_was_not_compared_with_and_why() -> None:
    lines = legend(text(replace(RECORD, not_compared={"compiled": "oom: no memory is left"}))).splitlines()
    assert "pruned: not compared with compiled: oom: no memory is left." in lines


def test_a_ratio_by_way_of_the_reference_is_called_one() -> None:
    assert "x baseline goes by way of the reference" in legend(text(RECORD))
    assert "by way of" not in legend(text(replace(RECORD, speed_up_over={})))


def test_speculative_decoding_says_how_much_was_accepted_and_what_it_gains_over_its_target() -> None:
    line = "speculative: 200 tokens drafted, 150 accepted (75.0%); 1.50 ±0.12 times the speed of the target alone."
    assert line in legend(text(SPECULATIVE)).splitlines()


def test_without_the_target_row_the_acceptance_stands_alone() -> None:
    line = "speculative: 200 tokens drafted, 150 accepted (75.0%)."
    assert line in legend(text(replace(SPECULATIVE, speed_up_over={}))).splitlines()


def test_a_row_without_a_draft_says_nothing_of_acceptance() -> None:
    assert "accepted" not in text(RECORD)


def test_a_pruned_row_says_how_much_is_zero() -> None:
    build = BuildInfo(1000, 2**20, details={"sparsity": 0.5, "model_sparsity": 0.123})
    line = "pruned: 50.0% of the pruned matrices is zero, 12.3% of the model."
    assert line in legend(text(replace(RECORD, build=build))).splitlines()
    assert "pruned matrices" not in text(RECORD)


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


# -- sample headlines ------------------------------------------------------------------------------------------------

MADE = {title: [f"{title} wrote {i}" for i in range(8)] for title in ("Baseline", "Speculative Decoding")}


def test_a_sample_shows_description_true_headline_and_what_each_technique_wrote() -> None:
    assert samples(ARTICLES, MADE, count=1).splitlines() == [
        "",
        "Description of article 0.",
        "  true headline         True headline 0",
        "  Baseline              Baseline wrote 0",
        "  Speculative Decoding  Speculative Decoding wrote 0",
    ]


@pytest.mark.parametrize(("articles", "shown"), [(8, 3), (2, 2)])
def test_the_first_three_articles_are_shown_or_as_many_as_there_are(articles: int, shown: int) -> None:
    written = samples(ARTICLES[:articles], MADE)
    assert re.findall(r"Baseline wrote (\d)", written) == [str(i) for i in range(shown)]


def test_headlines_of_a_sample_begin_in_the_same_column_when_titles_are_short() -> None:
    lines = samples(ARTICLES, {"Baseline": MADE["Baseline"]}, count=1).splitlines()[2:]
    true, made = (line.index(start) for line, start in zip(lines, ("True", "Baseline wrote"), strict=True))
    assert true == made


def test_without_a_measured_technique_the_sample_is_the_article_alone() -> None:
    assert "True headline 0" in samples(ARTICLES, {})
