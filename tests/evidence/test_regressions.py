"""Two runs side by side: what is a regression, what is chance, and what cannot be said."""

import math
from dataclasses import replace
from typing import Any

import pytest
from rows import PER_ARTICLE, RECORD, broken

from udaciheadline.evidence.compare import ONE_PROCESS, Change, Comparison, compare, in_turn, require_fit
from udaciheadline.records import BuildInfo, Memory, OtherCode, Record, UsageError


def row(record: Record = RECORD, **per_article: Any) -> Record:
    return replace(record, per_article=replace(PER_ARTICLE, **per_article))


def slower(record: Record, share: float) -> Record:
    """The row when it takes so much more time than it did."""
    found = record.per_article
    assert found is not None
    return row(record, log_ratios=tuple(ratio - math.log1p(share) for ratio in found.log_ratios))


def the(comparison: Comparison, metric: str) -> Change:
    (found,) = (change for change in comparison.changes if change.metric == metric)
    return found


def verdict(metric: str, after: Record, before: Record = RECORD) -> str:
    return the(compare([before], [after]), metric).verdict


def test_a_run_against_itself_has_changed_nowhere() -> None:
    found = compare([RECORD], [RECORD])
    assert {change.metric for change in found.changes} == {"speed", "ROUGE-1", "NLL", "weights", "peak"}
    assert {change.verdict for change in found.changes} == {"same"}
    assert found.regressions == []


def test_a_row_that_is_slower_by_more_than_its_launches_differ_is_a_regression() -> None:
    change = the(compare([RECORD], [slower(RECORD, 0.1)]), "speed")
    assert change.verdict == "regression"
    assert change.worse == pytest.approx(1 - 1 / 1.1)
    assert change.change.low < change.change.value < change.change.high < 0


@pytest.mark.parametrize(("share", "said"), [(0.02, "same"), (-0.02, "same"), (-0.2, "improvement")])
def test_what_is_within_the_margin_is_the_same_and_what_is_faster_is_better(share: float, said: str) -> None:
    assert verdict("speed", slower(RECORD, share)) == said


def test_a_loss_that_launches_differ_by_is_chance() -> None:
    noisy = row(log_ratios=(0.2, 0.2, 0.9, 0.9, 0.3, 0.3, 1.0, 1.0))
    assert verdict("speed", slower(noisy, 0.1), noisy) == "~"


def test_the_articles_of_one_launch_are_no_launches() -> None:
    within = row(log_ratios=(0.0, 1.4, 0.0, 1.4, 0.0, 1.4, 0.0, 1.4))
    assert verdict("speed", slower(within, 0.1), within) == "regression"


def test_one_process_says_nothing_of_how_two_differ() -> None:
    change = the(compare([RECORD], [row(slower(RECORD, 0.5), launches=1)]), "speed")
    assert (change.verdict, change.reason) == ("not judged", ONE_PROCESS)


def test_jobs_are_compared_by_what_each_process_made_of_them() -> None:
    before = row(log_ratios=(), launches=1, job_log_ratios=(0.3, 0.31, 0.29))
    after = row(log_ratios=(), launches=1, job_log_ratios=(0.1, 0.11, 0.09))
    assert verdict("job speed", after, before) == "regression"
    assert [change for change in compare([before], [after]).changes if change.metric == "speed"] == []


def test_headlines_are_compared_article_by_article() -> None:
    spread = tuple(i / 8 for i in range(8))
    lost = tuple(value - 0.02 - 0.001 * (i % 2) for i, value in enumerate(spread))
    change = the(compare([row(rouge1=spread)], [row(rouge1=lost)]), "ROUGE-1")
    assert change.verdict == "regression"
    assert change.change.value == pytest.approx(-0.0205)


def test_a_likelihood_that_is_lower_everywhere_is_a_regression_and_a_higher_one_better() -> None:
    worse, better = (tuple(1.75 + sign * (0.02 + i / 1000) for i in range(8)) for sign in (1, -1))
    assert verdict("NLL", row(nll=worse)) == "regression"
    assert verdict("NLL", row(nll=better)) == "improvement"


def test_a_likelihood_that_is_no_number_any_more_is_a_regression() -> None:
    assert verdict("NLL", row(nll=(math.nan,) * 8)) == "regression"


def test_a_score_that_the_baseline_has_no_figure_of_is_not_judged() -> None:
    none = row(rouge1=(math.nan,) * 8)
    assert verdict("ROUGE-1", none, none) == "not judged"


def test_fewer_articles_are_compared_with_the_same_ones() -> None:
    before = row(rouge1=(0.5, 0.6, 0.5, 0.6, 0.0, 0.0, 0.0, 0.0))
    after = row(rouge1=(0.5, 0.6, 0.5, 0.6), nll=(1.75,) * 4, log_ratios=PER_ARTICLE.log_ratios[:4], launches=2)
    assert the(compare([before], [after]), "ROUGE-1").change.value == 0.0


@pytest.mark.parametrize(("size", "said"), [(1.005, "same"), (1.02, "regression"), (0.5, "improvement")])
def test_weights_have_no_chance_in_them(size: float, said: str) -> None:
    build = BuildInfo(parameters=1000, weights_bytes=round(size * 3 * 2**20))
    assert verdict("weights", replace(RECORD, build=build)) == said


def test_peaks_on_the_gpu_are_those_that_count_where_there_is_one() -> None:
    before = replace(RECORD, memory=Memory((100, 100), (900, 900), 5000))
    after = replace(RECORD, memory=Memory((100, 200), (900, 900), 5000))
    assert verdict("peak", after, before) == "regression"


@pytest.mark.parametrize("status", ["crash", "oom", "timeout", "error", "skipped"])
def test_a_row_that_does_not_run_any_more_is_a_regression(status: str) -> None:
    lost = replace(broken(status, "why"), technique="pruned", settings=RECORD.settings)
    (change,) = compare([RECORD], [lost]).regressions
    assert (change.metric, change.reason) == ("status", f"{status}: why")


def test_a_row_that_did_not_run_before_cannot_have_got_worse() -> None:
    lost = replace(broken("crash", "why"), technique="pruned", settings=RECORD.settings)
    assert compare([lost], [RECORD]).changes == []


def test_rows_of_one_run_only_are_named() -> None:
    other = replace(RECORD, technique="int8")
    assert "Only in the baseline, so not compared: int8." in compare([RECORD, other], [RECORD]).notes
    assert "Only in the current run, so not compared: int8." in compare([RECORD], [RECORD, other]).notes


def test_more_rows_need_more_to_be_a_regression() -> None:
    noisy = row(log_ratios=(0.60, 0.60, 0.70, 0.70, 0.80, 0.80, 0.70, 0.70))
    rows = [replace(noisy, technique=f"row {i}") for i in range(12)]
    after = [slower(noisy, 0.16), *rows[1:]]
    alone = compare([rows[0]], [replace(after[0], technique="row 0")])
    together = compare(rows, [replace(after[0], technique="row 0"), *rows[1:]])
    assert the(alone, "speed").verdict == "regression"
    assert together.changes[0].verdict == "~"
    assert (together.changes[0].p or 0) == pytest.approx(12 * (the(alone, "speed").p or 0))


def test_seconds_are_shown_for_the_same_machine_and_for_another_one_what_is_different() -> None:
    assert any("Same machine" in note for note in compare([RECORD], [RECORD]).notes)
    elsewhere = replace(RECORD, environment={"python": "3", "cpu": "another"})
    (note,) = compare([RECORD], [elsewhere]).notes
    assert note == "Seconds are not compared, since the baseline had cpu None (now another)."


@pytest.mark.parametrize("name", ["model_name", "dataset", "prompt", "dtype", "fingerprint", "device", "ranks"])
def test_a_baseline_of_other_settings_does_not_fit_and_the_setting_is_named(name: str) -> None:
    then = replace(RECORD, settings=RECORD.settings | {name: "other"})
    with pytest.raises(UsageError, match=f"does not fit: it was made with {name.removesuffix('_name')} other"):
        compare([then], [RECORD])


def test_a_baseline_of_another_gpu_does_not_fit_and_of_more_of_them_does() -> None:
    here = {"gpu": "NVIDIA H100, NVIDIA H100"}
    require_fit({}, here, broken("ok", "", environment={"gpu": "NVIDIA H100"}))
    with pytest.raises(UsageError, match=r"gpu NVIDIA A100 \(now NVIDIA H100\)"):
        require_fit({}, here, broken("ok", "", environment={"gpu": "NVIDIA A100"}))


GPU = {"gpu": "NVIDIA H100", "torch": "2.11.0"}
STEADY = row(
    replace(RECORD, engine="compiled", environment=GPU),
    log_ratios=(3.8, 3.7, 4.1, 3.6, 3.4, 3.9, 3.9, 3.7),
    seconds=(0.0081, 0.0083, 0.0082, 0.008, 0.0084, 0.0081, 0.0082, 0.0083),
)


def half_as_fast(record: Record) -> Record:
    """The row where the reference, too, has happened to be slow."""
    found = record.per_article
    assert found is not None
    return replace(record, per_article=replace(found, seconds=tuple(1.5 * seconds for seconds in found.seconds)))


def test_on_the_same_gpu_the_rate_of_the_compiled_engine_shows_what_a_ratio_to_a_restless_reference_cannot() -> None:
    found = compare([STEADY], [half_as_fast(STEADY)])
    assert (the(found, "rate").verdict, the(found, "speed").verdict) == ("regression", "same")
    assert the(found, "rate").worse == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "other",
    [{"engine": "transformers"}, {"environment": GPU | {"torch": "2.13.0"}}, {"environment": {"torch": "2.11.0"}}],
    ids=["engine", "versions", "no gpu"],
)
def test_elsewhere_no_rate_is_compared(other: dict[str, Any]) -> None:
    now = replace(half_as_fast(STEADY), **other)
    then = STEADY if "gpu" in now.environment else replace(STEADY, environment=now.environment)
    assert "rate" not in {change.metric for change in compare([then], [now]).changes}


def test_a_rate_is_paired_by_article_whose_headlines_are_of_all_lengths() -> None:
    lengths = row(STEADY, **vars(STEADY.per_article) | {"seconds": tuple(0.001 * (2 + i) for i in range(8))})
    wobble = (1.01, 0.99, 1.0, 1.02, 0.98, 1.0, 1.01, 1.0)
    found = lengths.per_article
    assert found is not None
    later = tuple(1.1 * seconds * by for seconds, by in zip(found.seconds, wobble, strict=True))
    after = replace(lengths, per_article=replace(found, seconds=later))
    assert the(compare([lengths], [after]), "rate").verdict == "regression"


def test_a_rate_of_other_launches_is_not_judged() -> None:
    found = STEADY.per_article
    assert found is not None
    after = replace(STEADY, per_article=replace(found, launches=2))
    change = the(compare([STEADY], [after]), "rate")
    assert change.verdict == "not judged"
    assert "the same --launches" in change.reason


# -- beside other code, in one session ---------------------------------------------------------------------------------


def beside(*gains: float, launches: int = 4, **changes: Any) -> Record:
    """The row of a session whose other code it is so much faster than, each in the logarithm of one article."""
    values: dict[str, Any] = {"nll": PER_ARTICLE.nll, "rouge1": (0.5,) * 8, "rouge1_now": (0.5,) * 8}
    found = OtherCode(gains, (), weights_bytes=3 * 2**20, **(values | changes))
    settings = {**RECORD.settings, "against": "../main"}
    return replace(row(launches=launches), other_code=found, settings=settings)


SLOWER_BY_A_TENTH = (-0.1, -0.11, -0.09, -0.1, -0.1, -0.12, -0.08, -0.1)


def test_a_row_beside_itself_in_other_code_has_changed_nowhere() -> None:
    found = in_turn([beside(0.01, -0.01, 0.02, -0.02, 0.01, -0.01, 0.02, -0.02)])
    assert [(change.metric, change.verdict) for change in found.changes] == [
        ("speed", "same"),
        ("ROUGE-1", "same"),
        ("NLL", "same"),
        ("weights", "same"),
    ]
    assert (found.before, found.regressions) == ("../main", [])


def test_a_row_that_is_slower_than_itself_in_other_code_is_a_regression() -> None:
    change = the(in_turn([beside(*SLOWER_BY_A_TENTH)]), "speed")
    assert change.verdict == "regression"
    assert change.change.value == pytest.approx(math.exp(-0.1) - 1)
    assert change.after / change.before == pytest.approx(math.exp(-0.1))


def test_by_what_launches_differ_beside_other_code_nothing_is_said() -> None:
    assert the(in_turn([beside(-0.5, -0.5, 0.3, 0.3, -0.4, -0.4, 0.2, 0.2)]), "speed").verdict == "~"


def test_one_process_beside_other_code_says_nothing_of_how_two_differ() -> None:
    assert the(in_turn([beside(*SLOWER_BY_A_TENTH, launches=1)]), "speed").verdict == "not judged"


def test_headlines_that_got_worse_than_those_of_other_code_are_a_regression() -> None:
    found = in_turn([beside(*(0.0,) * 8, rouge1=(0.6,) * 8)])
    assert the(found, "ROUGE-1").verdict == "regression"


def test_jobs_are_compared_with_those_of_other_code() -> None:
    jobs = OtherCode((), (-0.2, -0.21, -0.19), (0.5,) * 8, (0.5,) * 8, PER_ARTICLE.nll, 3 * 2**20)
    now = replace(row(log_ratios=(), job_log_ratios=(0.5, 0.5, 0.5)), other_code=jobs, settings={"against": "../main"})
    change = the(in_turn([now]), "job speed")
    assert (change.verdict, change.before) == ("regression", pytest.approx(math.exp(0.7)))


def test_a_row_without_other_code_beside_it_is_named_with_the_reason() -> None:
    alone = replace(RECORD, settings={"against": "../main"}, not_compared={"pruned (--against)": "crash: it died"})
    assert in_turn([alone]).notes == ["pruned: not compared with pruned (--against): crash: it died."]


def test_a_row_that_does_not_run_any_more_beside_other_code_is_a_regression() -> None:
    found = in_turn([beside(*(0.0,) * 8), broken("crash", "it died")])
    assert [(change.technique, change.reason) for change in found.regressions] == [("speculative", "crash: it died")]


def test_a_row_that_is_skipped_beside_other_code_is_none() -> None:
    assert in_turn([beside(*(0.0,) * 8), broken("skipped", "it needs a target")]).regressions == []


def test_a_run_without_other_code_is_refused() -> None:
    with pytest.raises(UsageError, match="has no other code beside it: name a baseline"):
        in_turn([RECORD])
