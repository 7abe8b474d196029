"""The sentences on a technique: each stands only where the figures bear it out."""

import math
from dataclasses import replace

import pytest
from rows import MEASUREMENT, OFFLINE, RECORD, SCORES, SPECULATIVE, broken, run

from udaciheadline.records import BuildInfo, Energy, Estimate, Memory, Record, Throughput, Verdict
from udaciheadline.report.findings import section
from udaciheadline.techniques import REFERENCE

KV = run()[0]


def sped(*estimate: float) -> Record:
    return replace(RECORD, measurement=replace(MEASUREMENT, speed_up=Estimate(*estimate)))


def scored(rouge: tuple[float, ...], nll: tuple[float, ...], identical: float = 0.5) -> Record:
    differences = SCORES.rouge_difference | {"rouge1": Estimate(*rouge)}
    scores = replace(SCORES, rouge_difference=differences, nll_difference=Estimate(*nll), identical_share=identical)
    return replace(RECORD, scores=scores)


@pytest.mark.parametrize(
    ("estimate", "said", "summed"),
    [
        ((2.0, 1.9, 2.1), "It is 2.00 times as fast as kv-cache one at a time (95 % interval 1.90 to 2.10", "faster"),
        ((0.5, 0.4, 0.6), "It is slower than kv-cache one at a time: 0.50 times its speed", "slower"),
        ((1.1, 0.9, 1.3), "It cannot be told from kv-cache in speed one at a time", "no faster and no slower"),
        ((2.0, math.nan, math.nan), "so few values give no interval", ""),
    ],
)
def test_a_row_is_faster_only_where_its_whole_interval_is(estimate: tuple[float, ...], said: str, summed: str) -> None:
    found = section(sped(*estimate), KV)
    assert said in found.performance
    words = [word for word in ("faster", "slower", "no faster and no slower") if f" {word}," in found.summary]
    assert words[-1:] == [summed] * bool(summed)


@pytest.mark.parametrize(
    ("rouge", "nll", "summed"),
    [
        ((-0.04, -0.06, -0.02), (0.0, -0.1, 0.1), "worse headlines"),
        ((0.0, -0.1, 0.1), (0.1, 0.05, 0.15), "worse headlines"),
        ((0.04, 0.02, 0.06), (-0.1, -0.2, -0.05), "better headlines"),
        ((-0.04, -0.06, -0.02), (-0.1, -0.2, -0.05), "worse by one measure and better by the other"),
        ((-0.04, -0.09, 0.01), (0.0, -0.1, 0.1), "whose worth cannot be told from its own"),
        ((0.01, -0.1, 0.1), (0.02, -0.02, 0.06), "whose worth cannot be told from its own"),
        ((0.0, -0.1, 0.1), (-0.02, -0.06, 0.02), "whose worth cannot be told from its own"),
        ((0.0, -0.1, 0.1), (0.0001, 0.00005, 0.00015), "whose worth cannot be told from its own"),
        ((0.0, math.nan, math.nan), (0.1, math.nan, math.nan), "whose worth cannot be told from its own"),
    ],
    ids=[
        "less ROUGE",
        "less likely",
        "better",
        "both",
        "chance",
        "less likely by chance",
        "likelier by chance",
        "too little to matter",
        "one article",
    ],
)
def test_headlines_are_worse_only_beyond_chance_and_by_what_matters(
    rouge: tuple[float, ...], nll: tuple[float, ...], summed: str
) -> None:
    assert section(scored(rouge, nll), KV).summary.rstrip(".").endswith(summed)


def test_the_same_tokens_are_the_same_headlines_whatever_the_likelihood_is() -> None:
    found = section(scored((0.0, 0.0, 0.0), (0.1, 0.05, 0.15), identical=1.0), KV)
    assert "Every headline has the tokens of kv-cache." in found.quality
    assert "the same headlines" in found.summary


def test_a_row_not_told_from_the_reference_says_what_would_have_been_found() -> None:
    found = section(scored((-0.04, -0.09, 0.01), (0.0, -0.1, 0.1)), KV)
    assert "a loss of 0.030 would have been found with 80 % power" in found.quality


def test_headlines_that_rouge_cannot_see_are_left_to_likelihood() -> None:
    nothing = Estimate(math.nan, math.nan, math.nan)
    blind = replace(
        SCORES, rouge=dict.fromkeys(SCORES.rouge, nothing), rouge_difference=dict.fromkeys(SCORES.rouge, nothing)
    )
    found = section(replace(RECORD, scores=blind), KV)
    assert "likelihood decides" in found.quality
    assert "nan" not in found.quality


@pytest.mark.parametrize(
    ("mebibytes", "said", "summed"),
    [
        (700, "as much as kv-cache", "the same memory"),
        (760, "about as much as kv-cache", "the same memory"),
        (840, "140 MiB more than kv-cache (120 %)", "more memory"),
        (350, "350 MiB less than kv-cache (50 %)", "less memory"),
    ],
)
def test_memory_stands_beside_the_references(mebibytes: int, said: str, summed: str) -> None:
    found = section(replace(RECORD, memory=Memory((), (), mebibytes * 2**20)), KV)
    assert said in found.memory
    assert summed in found.summary


def test_on_a_gpu_a_smaller_difference_of_memory_is_one() -> None:
    reference, other = (replace(RECORD, memory=Memory((peak * 2**20,), (0,), None)) for peak in (700, 730))
    assert "more memory" in section(other, reference).summary


def test_memory_of_a_row_without_a_reference_is_compared_with_nothing() -> None:
    found = section(RECORD, None)
    assert "At its peak it has 700 MiB (resident, libraries included)." in found.memory
    assert "memory" not in found.summary


def test_memory_on_gpus_says_so() -> None:
    assert "(allocated on all GPUs)" in section(replace(RECORD, memory=Memory((5, 7), (9, 9), 700)), None).memory


def test_a_row_that_was_pruned_as_it_started_says_that_nothing_was_healed() -> None:
    def memory(**details: float) -> str:
        assert RECORD.build
        return section(replace(RECORD, build=replace(RECORD.build, details=details)), None).memory

    assert "25 % of the model's weights were removed" in memory(removed_share=0.25, pruning_nats=0.5)
    assert "nothing was healed: true headlines of articles that are not measured went +0.50 nats" in memory(
        removed_share=0.25, pruning_nats=0.5
    )
    assert "healed" not in memory()


def test_a_row_that_was_calibrated_says_on_how_much_and_for_how_long() -> None:
    assert RECORD.build
    build = replace(RECORD.build, details={"calibration_articles": 128.0, "calibration_seconds": 41.6})
    said = section(replace(RECORD, build=build), None).memory
    assert "chosen on 128 articles that are not measured, which took 42 s." in said
    assert "chosen on" not in section(RECORD, None).memory


def test_a_job_has_its_rate_its_limit_and_what_it_wins() -> None:
    throughput = Throughput(8, 3, 80.0, 640.0, 16, 320.0, {}, Estimate(1.5, 1.4, 1.6))
    found = section(replace(OFFLINE, throughput=throughput), KV).performance
    assert "As one job it writes 80.0 headlines a second, 8 at a time." in found
    assert "It is 1.50 times as fast as kv-cache as a job (95 % interval 1.40 to 1.60, over 3 fresh processes" in found
    assert "16 at a time did not fit in memory." in found
    assert "It is at 25 % of the rate that arithmetic alone would allow." in found


def test_what_the_timed_headlines_tell_is_not_lost_where_more_articles_are_judged() -> None:
    timed = replace(SCORES, near_ties=3, real_differences=1, job_identical_share=0.875)
    found = section(replace(RECORD, scores=timed, job_scores=replace(SCORES, articles=300)), KV).quality
    assert "That is on 300 articles." in found
    assert "Of its 8 timed headlines 3 part from those that it must repeat at a near tie" in found
    assert "As a job it writes 88 % of the timed headlines with the same tokens." in found


def test_what_disturbed_a_row_stands_beside_its_speed() -> None:
    what = "its GPU was shared with other processes (7)"
    assert f"Meanwhile {what}." in section(replace(RECORD, disturbances=(what,)), KV).performance


def test_drafted_tokens_and_the_row_in_turn_are_told() -> None:
    found = section(SPECULATIVE, KV).performance
    assert "Of 200 drafted tokens 150 were accepted (75 %)." in found
    assert "By their place" not in found


def test_a_drafted_row_says_how_far_drafts_are_accepted_and_what_was_expected() -> None:
    measurement = replace(MEASUREMENT, drafted=200, accepted=150, acceptance_rate=0.75, accepted_shares=(0.8, 0.5))
    build = BuildInfo(1, 1, details={"draft_tokens": 2.0, "predicted_token_seconds": 0.002})
    found = section(replace(SPECULATIVE, measurement=measurement, build=build), KV).performance
    assert "By their place in a draft: 80 %, 50 %." in found
    assert (
        "A token behind the first takes 13.4 ms; by what was timed when it was built, 2.00 ms were expected." in found
    )
    assert "It is 1.50 times as fast as target (95 % interval 1.38 to 1.62)." in found


@pytest.mark.parametrize(
    ("estimate", "said"),
    [
        ((0.5, 0.4, 0.6), "It is slower than target: 0.50 times its speed"),
        ((1.5, 0.9, 2.1), "It cannot be told from target in speed: 1.50 times"),
    ],
)
def test_beside_another_row_too_only_a_whole_interval_is_faster(estimate: tuple[float, ...], said: str) -> None:
    record = replace(SPECULATIVE, speed_up_over={"target": Estimate(*estimate)})
    assert said in section(record, KV).performance


@pytest.mark.parametrize(("high", "said"), [(0.6, True), (1.1, False)])
def test_a_row_that_is_slower_than_what_it_optimises_says_so(high: float, said: bool) -> None:
    record = replace(SPECULATIVE, speed_up_over={"target": Estimate(0.5, 0.4, high)})
    assert ("It is there to make target faster, and does not." in section(record, KV).performance) == said


def test_a_job_that_was_not_paired_says_that_its_ratio_has_no_interval() -> None:
    throughput = Throughput(8, 3, 80.0, 640.0, times_over={"kv-cache": 2.0})
    found = section(replace(OFFLINE, throughput=throughput), KV)
    assert "That is 2.00 times the rate of kv-cache, in one process of each: without" in found.performance
    assert "faster" not in found.summary


def test_a_row_on_the_compiled_engine_says_so() -> None:
    assert "It runs on the compiled engine." in section(replace(RECORD, engine="compiled"), KV).performance


def test_energy_and_what_slowed_the_device_are_told() -> None:
    spent = Energy(2.125, 10, 3.0, "NVML", ("power cap",))
    found = section(replace(RECORD, energy=spent), KV).performance
    assert "A headline takes 2.12 J (NVML, idle power included)." in found
    assert "slowed down by power cap" in found


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("pass", "It passes its gates."),
        ("fail", "Its gate rouge1 fails: lost."),
        ("inconclusive", "within chance: rouge1"),
    ],
)
def test_gates_are_told(status: str, said: str) -> None:
    verdict = Verdict("rouge1", status, 0.9, 0.97, "lost\n  article 3 (-0.2): one became another")
    told = section(replace(RECORD, verdicts=[verdict]), KV).quality
    assert said in told
    assert "article 3" not in told


def test_the_reference_is_compared_with_nothing() -> None:
    found = section(KV, KV)
    assert found.technique == REFERENCE
    assert "as kv-cache" not in found.performance
    assert found.summary == "It is what every other technique is measured against."


@pytest.mark.parametrize("status", ["crash", "oom", "timeout", "error"])
def test_a_row_that_broke_off_says_why(status: str) -> None:
    assert section(broken(status, "it died"), KV).summary == f"It broke off ({status}): it died."
