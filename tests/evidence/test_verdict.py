"""The rule that names what to deploy, by examples."""

import math
from dataclasses import replace

from candidates import COMPILED, INT8, MIB, REFERENCE, job, limited, row, states, why, worse
from rows import MEASUREMENT, OFFLINE, RECORD, SKIPPED, broken

from udaciheadline.evidence.verdict import Budget, decide, pareto
from udaciheadline.evidence.wording import ratio
from udaciheadline.records import Estimate, Parallel, Record, Verdict


def test_without_options_the_row_that_is_fastest_for_certain_is_deployed_and_the_sentence_says_what_it_costs() -> None:
    found = decide([REFERENCE, COMPILED, INT8])
    assert (found.technique, found.candidates) == ("compiled", ("compiled",))
    expected = "deploy compiled: 6.70 ±0.80 times as fast as the KV cache, same headlines, +74.0 MiB"
    assert found.sentence == expected
    assert states(found) == {"kv-cache": "reference", "compiled": "deploy", "int8": "slower"}
    assert why(found, "int8") == "0.40 ±0.03 times as fast as the KV cache; for it: -4.0 MiB of weights"


def test_headlines_that_are_not_all_the_same_are_said_to_differ() -> None:
    other = row("nf4", 3.0, **worse(0.01))
    assert (
        "50% of the headlines the same (ROUGE-1 +0.000 ±0.000, NLL +0.010 ±0.010)"
        in decide([REFERENCE, other]).sentence
    )


def test_nearly_all_headlines_are_not_all_of_them() -> None:
    scores = replace(worse(0.01)["scores"], articles=1000, identical_share=0.997)
    assert "99.7% of the headlines the same (" in decide([REFERENCE, row("nf4", 3.0, scores=scores)]).sentence


def test_another_models_headlines_are_called_so() -> None:
    assert "another model's headlines (" in decide([REFERENCE, row("target", 3.0, **worse(-0.1))]).sentence


def test_a_row_that_failed_a_gate_is_excluded_with_what_it_measured() -> None:
    failed = [Verdict("rouge1", "fail", 0.9, 0.97, "90.0% of the reference's kept\n  article 3"), *RECORD.verdicts]
    found = decide([REFERENCE, replace(COMPILED, verdicts=failed)])
    assert (found.technique, states(found)["compiled"]) == ("kv-cache", "excluded")
    assert why(found, "compiled") == "it fails its gate rouge1: 90.0% of the reference's kept"


def test_a_reference_that_failed_a_gate_is_not_kept_for_want_of_a_better_row() -> None:
    failed = replace(REFERENCE, verdicts=[Verdict("floor rouge1", "fail", 0.1, 0.5, "ROUGE-1 0.100")])
    found = decide([failed, INT8])
    assert found.technique is None
    assert found.sentence == "nothing to deploy: kv-cache is excluded, and no row is faster than it for certain"


def test_a_limit_excludes_and_says_by_how_much() -> None:
    found = decide([REFERENCE, COMPILED, INT8], limited("memory<450MiB"))
    assert found.technique == "kv-cache"
    assert found.sentence == "deploy kv-cache: no row that keeps the limits is faster than it for certain"
    assert why(found, "compiled") == "peak memory 474 MiB, 24.0 MiB above memory<450MiB"


def test_where_the_reference_breaks_a_limit_a_row_that_keeps_it_is_deployed_though_it_is_slower() -> None:
    found = decide([REFERENCE, INT8], limited("weights<5MiB"))
    assert found.technique == "int8"
    assert states(found)["kv-cache"] == "excluded"


def test_a_limit_that_was_not_measured_excludes_and_says_so() -> None:
    found = decide([REFERENCE, COMPILED], limited("energy<5J"))
    assert (found.technique, found.candidates) == (None, ())
    assert found.sentence == "nothing to deploy: the energy of a headline was not measured here, which energy<5J needs"
    assert why(found, "compiled") == "the energy of a headline was not measured here, which energy<5J needs"


def test_a_row_that_pays_in_nothing_is_not_worth_it() -> None:
    found = decide([REFERENCE, row("pruned", 1.05, 0.04)])
    assert (found.technique, states(found)["pruned"]) == ("kv-cache", "not worth it")


def launched(*rows: Record, launches: int = 4) -> list[Record]:
    """The reference, and these in so many processes."""
    made = []
    for found in rows:
        assert found.measurement is not None
        made.append(replace(found, measurement=replace(found.measurement, launches=launches)))
    return [REFERENCE, *made]


def test_a_row_that_may_be_faster_says_how_much_would_tell() -> None:
    found = decide(launched(row("pruned", 1.3, 0.35)))
    assert "more launches would tell (--launches " in why(found, "pruned")


def test_rows_whose_intervals_overlap_are_undecided_and_it_is_said_how_many_launches_would_tell() -> None:
    found = decide(launched(COMPILED, row("other", 6.0, 0.7, peak=474)))
    assert (found.technique, found.candidates) == (None, ("compiled", "other"))
    assert states(found) == {"kv-cache": "reference", "compiled": "undecided", "other": "undecided"}
    head, _, number = found.sentence.partition(": ")
    assert head == "undecided between compiled and other"
    more = int(number.split()[0])
    assert number == f"{more} more launches would tell (--launches {4 + more})"


def test_of_rows_of_one_process_several_would_tell() -> None:
    found = decide(launched(COMPILED, row("other", 6.0, 0.7, peak=474), launches=1))
    assert found.sentence.endswith(": one is too few to tell them apart: give more --launches")


def test_rows_that_are_alike_are_said_to_be_alike() -> None:
    assert decide(launched(COMPILED, replace(COMPILED, technique="other"))).sentence.endswith(
        "a hundred times as many launches would not tell them apart"
    )


def test_rows_that_answered_in_turn_are_compared_by_their_own_ratio() -> None:
    parallel = Parallel("nccl", (4 * MIB,) * 2, (None,) * 2, (0.1,) * 2, (0.1,) * 2)
    over = {"compiled": Estimate(1.1, 1.05, 1.15)}
    split = row("tensor-parallel", 6.9, 0.8, peak=474, parallel=parallel, speed_up_over=over, in_turn=("compiled",))
    found = decide([REFERENCE, COMPILED, split])
    assert found.technique == "tensor-parallel"
    assert found.sentence.endswith(", on 2 devices")
    slower = replace(split, speed_up_over={"compiled": Estimate(0.9, 0.85, 0.95)})
    assert decide([REFERENCE, COMPILED, slower]).technique == "compiled"


def test_rows_that_did_not_answer_in_turn_are_not_compared_by_the_ratio_that_goes_by_way_of_the_reference() -> None:
    over = {"compiled": Estimate(1.1, 1.05, 1.15)}
    codes = row("compiled-int8", 6.9, 0.8, peak=474, speed_up_over=over)
    assert decide([REFERENCE, COMPILED, codes]).technique is None
    assert decide([REFERENCE, COMPILED, replace(codes, in_turn=("compiled",))]).technique == "compiled-int8"


def test_undecided_speed_is_decided_by_less_memory_where_all_else_is_as_good() -> None:
    found = decide([REFERENCE, COMPILED, row("smaller", 6.6, 0.8, peak=474, weights=4)])
    assert found.technique == "smaller"
    assert states(found)["compiled"] == "dominated"
    assert why(found, "compiled").endswith("smaller is as good in all, and better in something")


def test_less_memory_decides_nothing_where_the_headlines_may_be_worse() -> None:
    doubtful = row("smaller", 6.6, 0.8, peak=474, weights=4, **worse(0.02, 0.03))
    assert decide([REFERENCE, COMPILED, doubtful]).candidates == ("compiled", "smaller")


def test_a_row_that_may_break_a_limit_of_quality_is_neither_excluded_nor_deployed() -> None:
    faster = row("nf4", 9.0, 0.5, **worse(0.03, 0.02))
    found = decide([REFERENCE, COMPILED, faster], limited("nll<+0.02"))
    assert (found.technique, found.candidates) == (None, ("nf4", "compiled"))
    assert "0.010 nats above nll<+0.02, but within chance: " in found.sentence
    assert "more articles would tell (--quality-articles " in found.sentence


def test_a_limit_that_is_kept_within_chance_only_is_noted() -> None:
    found = decide([REFERENCE, row("nf4", 9.0, 0.5, **worse(0.01, 0.02))], limited("nll<+0.02"))
    assert found.technique == "nf4"
    assert found.notes == ("nf4: nll<+0.02 is kept, but not for certain: measure more --quality-articles.",)


def test_a_p99_of_few_articles_is_noted() -> None:
    found = decide([REFERENCE, COMPILED], limited("p99<50ms"))
    assert found.notes == ("compiled: p99<50ms is kept by 8 articles, and of fewer than 299 a p99 has no upper bound.",)


def test_a_gate_that_is_open_is_noted() -> None:
    open_ = [Verdict("rouge1", "inconclusive", 0.9, 0.97, "within chance")]
    assert decide([REFERENCE, replace(COMPILED, verdicts=open_)]).notes == ("compiled: open: rouge1.",)


def test_for_the_reader_who_waits_a_row_that_is_a_job_only_is_none_to_choose() -> None:
    found = decide([REFERENCE, replace(OFFLINE, settings={})])
    assert states(found)["compiled-batch"] == "excluded"
    assert why(found, "compiled-batch") == "it takes all articles as one job, which is for --goal offline"


def test_for_a_job_the_paired_rate_decides() -> None:
    found = decide([job("kv-cache", 276), job("compiled-batch", 243, Estimate(1.32, 1.12, 1.52))], Budget("offline"))
    expected = "deploy compiled-batch: 1.32 ±0.20 times the job of the KV cache (243 headlines/s), same headlines"
    assert found.sentence == expected
    assert "a job of 8 articles" in found.regime


def test_the_peak_of_a_job_is_not_held_against_that_of_one_article() -> None:
    offline = job("compiled-batch", 900, Estimate(3.0, 2.9, 3.1))
    assert decide([REFERENCE, offline], Budget("offline")).sentence.endswith("same headlines")
    found = decide([REFERENCE, offline], Budget("memory"))
    assert (states(found)["compiled-batch"], why(found, "compiled-batch")) == (
        "excluded",
        "its peak is that of a whole job",
    )


def test_rates_that_were_not_measured_in_turn_decide_only_where_they_are_far_apart() -> None:
    assert decide([job("kv-cache", 100), job("static-cache", 140)], Budget("offline")).technique == "kv-cache"
    assert decide([job("kv-cache", 100), job("static-cache", 300)], Budget("offline")).technique == "static-cache"


def test_where_the_machine_drifted_between_two_jobs_their_rates_say_less() -> None:
    """The reference was three times as fast in the minutes of the second row: it may be the machine that was."""
    reference, busy = job("kv-cache", 100), job("static-cache", 300)
    assert busy.measurement is not None
    quick = busy.measurement.reference_average_seconds / 3
    quiet = replace(busy, measurement=replace(busy.measurement, reference_average_seconds=quick))
    assert decide([reference, busy], Budget("offline")).technique == "static-cache"
    assert decide([reference, quiet], Budget("offline")).technique == "kv-cache"


def test_for_memory_the_least_peak_is_preferred_and_then_the_least_weights() -> None:
    found = decide([REFERENCE, COMPILED, INT8, row("fp4", 0.5, weights=3)], Budget("memory"))
    assert found.technique == "fp4"
    assert decide([REFERENCE, COMPILED, INT8, row("small", 0.5, peak=200)], Budget("memory")).technique == "small"


def test_the_weights_of_a_parallel_row_are_those_of_all_its_ranks_as_its_peak_is() -> None:
    ranks = Parallel("gloo", (5 * MIB, 5 * MIB), (1, 1), (0.1, 0.1), (0.1, 0.1))
    split = row("tensor-parallel", 0.2, 0.01, peak=800, weights=5, parallel=ranks)
    found = decide([REFERENCE, split], limited("weights<9MiB"))
    assert why(found, "tensor-parallel") == "the weights 10.0 MiB, 1.0 MiB above weights<9MiB"
    assert states(decide([REFERENCE, split]))["tensor-parallel"] == "not worth it"


def test_peaks_that_two_processes_of_one_program_differ_by_decide_nothing() -> None:
    assert decide([REFERENCE, row("pruned", peak=380)], Budget("memory")).technique == "kv-cache"


def test_rows_that_did_not_run_stand_apart_and_a_session_of_them_has_no_verdict() -> None:
    crash = broken("crash", "its worker died", technique="int8")
    found = decide([REFERENCE, SKIPPED, crash, COMPILED])
    assert found.technique == "compiled"
    assert (states(found)["speculative"], states(found)["int8"]) == ("not run", "not run")
    assert why(found, "int8") == "crash: its worker died"
    assert decide([SKIPPED]).sentence == "no verdict: no row was measured to its end"
    assert decide([]).technique is None


def test_without_the_reference_as_a_row_of_its_own_a_row_must_still_be_faster_than_it() -> None:
    assert decide([COMPILED]).technique == "compiled"
    found = decide([INT8])
    assert (found.technique, found.sentence) == (None, "keep kv-cache: no row is faster than it for certain")


def test_one_article_decides_nothing() -> None:
    one = replace(MEASUREMENT, count=1, speed_up=Estimate(9.0, math.nan, math.nan))
    found = decide([REFERENCE, row("compiled", measurement=one)])
    assert found.technique == "kv-cache"
    assert "one is too few to tell whether it is faster: give more --articles" in why(found, "compiled")


def test_a_verdict_says_of_what_it_is_true() -> None:
    record = replace(COMPILED, measurement=replace(COMPILED.measurement, prompt_tokens=(31, 74)))
    assert decide([record]).regime == (
        "model embedded, prompt notebook of 31 to 74 tokens, one article at a time, float32 on CPU with 2 threads"
    )
    on_gpu = replace(record, environment={"gpu": "NVIDIA H200"})
    assert decide([on_gpu]).regime.endswith("float32 on NVIDIA H200")


def test_the_pareto_front_is_of_the_rows_that_no_other_beats_in_both() -> None:
    points = {
        "a": (1.0, 3.0),
        "b": (2.0, 2.0),
        "c": (2.0, 3.0),
        "d": (3.0, 1.0),
        "same as d": (3.0, 1.0),
        "e": (4.0, None),
    }
    rows = [replace(RECORD, technique=name) for name in points]
    front = pareto(rows, lambda r: points[r.technique][0], lambda r: points[r.technique][1])
    assert front == {"a", "b", "d", "same as d"}


def test_where_less_than_its_own_size_is_known_of_a_speed_up_its_interval_is_said_alone() -> None:
    assert ratio(Estimate(35.8, 0.66, 1938.0)) == "0.66 to 1938"
    assert ratio(Estimate(2.0, 1.5, 2.7)) == "2.00 ±0.60"
