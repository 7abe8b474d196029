"""What stands below the table: what it says of the rows that no column can."""

import math
from dataclasses import replace
from typing import Any

import pytest
from rows import MEASUREMENT, OFFLINE, RECORD, SCORES, SKIPPED, SPECULATIVE
from tables import legend, text

from udaciheadline.records import BuildInfo, Estimate, Parallel, Record, Throughput


def test_the_number_of_articles_stands_below() -> None:
    assert "n = 8 articles" in legend(text(SKIPPED, RECORD))


@pytest.mark.parametrize(
    ("launches", "said"),
    [
        ((3, 5), "over fresh processes of the row and of the reference: pruned 3, other 5."),
        (
            (1, 5),
            "reference: other 5. One process alone, so that each ± of speed has 25% for how two may differ: pruned.",
        ),
        ((1, 1), "One process alone, so that each ± of speed has 25% for how two may differ: pruned, other."),
    ],
)
def test_it_says_of_how_many_processes_a_speed_up_is(launches: tuple[int, int], said: str) -> None:
    names = zip(("pruned", "other"), launches, strict=True)
    rows = [replace(RECORD, technique=name, measurement=replace(MEASUREMENT, launches=n)) for name, n in names]
    assert said in legend(text(*rows))


def test_rows_that_were_measured_on_other_numbers_of_articles_show_the_least_and_the_most() -> None:
    fewer = replace(RECORD, technique="other", measurement=replace(MEASUREMENT, count=3))
    assert "n = 3 to 8 articles" in legend(text(RECORD, fewer))


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


def test_near_ties_are_told_apart_from_real_differences() -> None:
    assert RECORD.scores is not None
    parted = replace(RECORD, scores=replace(RECORD.scores, near_ties=3, real_differences=1, rounding_nats=0.125))
    line = "pruned: 3 headlines part from those it must repeat at a near tie, as rounding (up to 0.12 nats) explains; "
    assert line + "1 by a real difference." in legend(text(parted)).splitlines()
    assert "near tie" not in text(RECORD)


@pytest.mark.parametrize(("loss", "shown"), [(0.03, "pruned 8 (0.030)"), (0.0, "pruned 8"), (math.nan, "pruned 8")])
def test_a_loss_that_would_be_found_is_named_only_where_there_is_one(loss: float, shown: str) -> None:
    row = replace(RECORD, scores=replace(SCORES, rouge1_detectable_loss=loss))
    assert f"found with 80 % power: {shown}." in legend(text(row))


def test_what_disturbed_a_row_is_said() -> None:
    what = "its GPU was slowed down by its temperature for 30% of the time"
    assert f"pruned: {what}." in legend(text(replace(RECORD, disturbances=(what,)))).splitlines()


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
    not_measured = replace(on_cpu, speed_up_over={}, throughput=None)
    assert "On a CPU" not in legend(text(not_measured))


def test_a_row_says_what_it_was_not_compared_with_and_why() -> None:
    lines = legend(text(replace(RECORD, not_compared={"compiled": "oom: no memory is left"}))).splitlines()
    assert "pruned: not compared with compiled: oom: no memory is left." in lines


def test_a_ratio_by_way_of_the_reference_is_called_one() -> None:
    assert "as x baseline, goes by way of the reference" in legend(text(RECORD))
    assert "by way of" not in legend(text(replace(RECORD, speed_up_over={})))
    in_turn = replace(SPECULATIVE, speed_up_over={"target": Estimate(1.5, 1.4, 1.6)})
    assert "by way of" not in legend(text(in_turn))


def test_speculative_decoding_says_how_much_was_accepted_and_what_it_gains_over_its_target() -> None:
    lines = legend(text(SPECULATIVE)).splitlines()
    assert "speculative: 200 tokens drafted, 150 accepted (75.0%)." in lines
    assert "speculative: 1.50 ±0.12 times as fast as target, which it optimises." in lines


def test_without_the_target_row_the_acceptance_stands_alone() -> None:
    alone = legend(text(replace(SPECULATIVE, speed_up_over={})))
    assert "speculative: 200 tokens drafted, 150 accepted (75.0%)." in alone.splitlines()
    assert "optimises" not in alone


DRAFTED = {
    "draft_tokens": 3.0,
    "best_draft_tokens": 3.0,
    "predicted_token_seconds": 0.002,
    "predicted_speed_up": 1.7,
}


def test_a_drafted_row_says_how_far_drafts_are_accepted_and_what_was_predicted() -> None:
    measurement = replace(MEASUREMENT, accepted_shares=(0.8, 0.5, 0.25))
    row = replace(SPECULATIVE, build=BuildInfo(1, 1, details=DRAFTED), measurement=measurement)
    line = (
        "speculative: 3 tokens at a time are drafted, and accepted, by their place, 80%, 50%, 25% of them; a token "
        "behind the first takes 13.4 ms, by what was timed at the build 2 ms, 1.70 times the speed of steps."
    )
    assert line in legend(text(row)).splitlines()


def test_a_row_that_drafts_nothing_says_what_drafting_would_cost() -> None:
    build = BuildInfo(1, 1, details=DRAFTED | {"draft_tokens": 0.0, "predicted_speed_up": 0.72})
    row = replace(SPECULATIVE, build=build)
    line = (
        "speculative: no token is drafted: by what was timed at its build, 3 at a time would be 0.72 times as fast as "
        "steps."
    )
    assert line in legend(text(row)).splitlines()


def test_a_row_without_a_draft_says_nothing_of_acceptance() -> None:
    assert "accepted" not in text(RECORD)


def test_a_pruned_row_says_how_much_is_zero() -> None:
    build = BuildInfo(1000, 2**20, details={"sparsity": 0.5, "model_sparsity": 0.123})
    line = "pruned: 50.0% of the pruned matrices is zero, 12.3% of the model."
    assert line in legend(text(replace(RECORD, build=build))).splitlines()
    assert "pruned matrices" not in text(RECORD)


def test_it_is_said_once_that_only_its_length_ends_a_headline() -> None:
    build = BuildInfo(1000, 2**20, details={"no_end_token": 1.0})
    rows = [replace(RECORD, technique=name, build=build) for name in ("kv-cache", "pruned")]
    line = "Neither checkpoint nor tokenizer names an end token: only its length ends a headline."
    assert legend(text(*rows)).splitlines().count(line) == 1
    assert line not in text(RECORD)
