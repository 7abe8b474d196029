"""The parity gate: exact in float32, up to near ties and beyond chance in low precision."""

import math

import pytest
from judged import OTHER_TOKENS, PARITY, SAME_TOKENS, articles_named, evidence, verdict_of
from rows import answers

from udaciheadline.evidence.gates import Thresholds, judge
from udaciheadline.records import Verdict

MOSTLY_SAME = answers("row", tokens=[SAME_TOKENS] * 7 + [OTHER_TOKENS])
BOTH_PARITIES = Thresholds(parity_min=1.0, parity_low_precision_min=0.8)


@pytest.mark.parametrize(
    ("dtype", "status", "required"),
    [("float32", "fail", 1.0), ("bfloat16", "pass", 0.8), ("float16", "pass", 0.8)],
)
def test_low_precision_has_a_parity_threshold_of_its_own(dtype: str, status: str, required: float) -> None:
    verdict = verdict_of("parity", BOTH_PARITIES, evidence(answers=MOSTLY_SAME, dtype=dtype))
    assert (verdict.status, verdict.required) == (status, required)


def test_parity_in_low_precision_fails_below_its_own_threshold() -> None:
    row = answers("row", tokens=[OTHER_TOKENS] * 8)
    verdict = verdict_of("parity", BOTH_PARITIES, evidence(answers=row, dtype="bfloat16"))
    assert verdict.status == "fail"
    assert "bfloat16" in verdict.message


@pytest.mark.parametrize(("dtype", "other"), [("float32", "parity_low_precision_min"), ("bfloat16", "parity_min")])
def test_the_parity_threshold_of_the_other_precision_is_not_applied(dtype: str, other: str) -> None:
    assert judge(Thresholds(**{other: 1.0}), evidence(answers=MOSTLY_SAME, dtype=dtype)) == []


def test_parity_is_with_the_row_to_repeat_and_not_with_the_reference() -> None:
    target = answers("target", tokens=[OTHER_TOKENS] * 8)
    row = answers("row", tokens=[OTHER_TOKENS] * 8)
    assert verdict_of("parity", PARITY, evidence(answers=row, exact_to="target", exact=target)).status == "pass"
    assert verdict_of("parity", PARITY, evidence(exact_to="target", exact=target)).status == "fail"


def test_a_parity_failure_shows_the_first_three_articles_that_differ() -> None:
    row = answers("row", tokens=[SAME_TOKENS, OTHER_TOKENS] * 4)
    assert articles_named(verdict_of("parity", PARITY, evidence(answers=row))) == [1, 3, 5]


@pytest.mark.parametrize(
    ("preferences", "measured"),
    [
        pytest.param({1: 0.25, 3: 0.1, 5: -0.5, 7: 0.0}, 1.0, id="near ties do not count"),
        pytest.param({1: 0.26, 3: 0.1, 5: 4.0, 7: 0.0}, 0.75, id="what rounding does not explain counts"),
        pytest.param({1: 0.1, 3: math.nan, 5: 0.1}, 0.75, id="what is not known counts"),
    ],
)
def test_in_low_precision_a_headline_may_part_at_a_near_tie(preferences: dict[int, float], measured: float) -> None:
    row = answers("row", tokens=[SAME_TOKENS, OTHER_TOKENS] * 4)
    looked_at = evidence(answers=row, dtype="bfloat16", preferences=preferences, rounding=0.25)
    assert verdict_of("parity", BOTH_PARITIES, looked_at).measured == measured


def test_in_float32_a_near_tie_is_a_difference_like_any_other() -> None:
    row = answers("row", tokens=[SAME_TOKENS, OTHER_TOKENS] * 4)
    looked_at = evidence(answers=row, preferences={1: 0.0, 3: 0.0, 5: 0.0, 7: 0.0}, rounding=0.25)
    assert verdict_of("parity", PARITY, looked_at).measured == 0.5


def test_a_parity_failure_in_low_precision_shows_the_clearest_differences_and_how_clear_they_are() -> None:
    row = answers("row", tokens=[SAME_TOKENS, OTHER_TOKENS] * 4)
    looked_at = evidence(answers=row, dtype="bfloat16", preferences={1: 0.5, 3: 0.1, 5: 4.0, 7: 1.0}, rounding=0.25)
    verdict = verdict_of("parity", Thresholds(parity_low_precision_min=0.95), looked_at)
    assert articles_named(verdict) == [5, 7, 1]
    assert "(+4.00 nats)" in verdict.message


@pytest.mark.parametrize(
    ("real", "status"), [(0, "pass"), (1, "inconclusive"), (2, "inconclusive"), (3, "fail"), (8, "fail")]
)
def test_real_differences_in_low_precision_must_be_more_than_chance_makes_of_the_share_that_is_allowed(
    real: int, status: str
) -> None:
    """Of 8 headlines, each real with 5 %: one or more with 34 %, two or more with 5.7 %, three or more with 0.6 %."""
    row = answers("row", tokens=[OTHER_TOKENS] * real + [SAME_TOKENS] * (8 - real))
    looked_at = evidence(answers=row, dtype="bfloat16")
    assert verdict_of("parity", Thresholds(parity_low_precision_min=0.95), looked_at).status == status


@pytest.fixture
def not_judged() -> Verdict:
    return verdict_of("parity", PARITY, evidence(exact_to="target", exact=None))


def test_parity_with_a_row_that_was_not_measured_is_not_judged(not_judged: Verdict) -> None:
    assert not_judged.status == "not judged"
    assert "'target'" in not_judged.message
    assert math.isnan(not_judged.measured)


def test_the_message_does_not_repeat_the_status_that_the_table_puts_before_it(not_judged: Verdict) -> None:
    assert not not_judged.message.startswith(not_judged.status)
