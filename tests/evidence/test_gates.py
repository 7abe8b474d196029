import math
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import pytest
from judged import OTHER_TOKENS, PARITY, SAME_TOKENS, articles_named, evidence, verdict_of
from rows import answers

from udaciheadline.evidence.gates import Thresholds, judge, judge_floor
from udaciheadline.records import Estimate

# Losses of all articles: article 5 loses most, then 2, then 7.
LOSSES = (0.30, 0.31, 0.40, 0.30, 0.32, 0.45, 0.30, 0.34)
WORSE = tuple(0.5 - loss for loss in LOSSES)
# ROUGE around the reference's 0.5: much lost and much gained, on average a loss of 10 % that chance explains.
NOISE = (0.1, 0.9, 0.2, 0.8, 0.1, 0.8, 0.1, 0.6)
LESS_LIKELY = tuple(1.0 + loss for loss in LOSSES)


# -- every gate ----------------------------------------------------------------------------------------------------

ROUGE = Thresholds(rouge_retention_min=0.99)
LIKELIHOOD = Thresholds(nll_increase_max=0.02)
WORK = Thresholds(work_tolerance=0.1)
WEIGHTS = Thresholds(weights_ratio_max=0.75)
SPEED = Thresholds(speed_up_min=0.9)


def longer(by: int, of: Sequence[int] = range(8)) -> Any:
    """A row that writes `by` tokens more than the reference's 4 on these articles."""
    return answers("row", tokens=[tuple(range(4 + by if i in of else 4)) for i in range(8)])


@pytest.mark.parametrize(
    ("gate", "thresholds", "changes"),
    [
        ("rouge1", ROUGE, {}),
        ("rougeL", ROUGE, {}),
        ("likelihood", LIKELIHOOD, {}),
        ("likelihood", LIKELIHOOD, {"answers": answers("row", nll=[1.015625] * 8)}),
        ("parity", PARITY, {}),
        ("work", WORK, {}),
        ("work", WORK, {"answers": longer(1, of=[0])}),
        ("weights", WEIGHTS, {"weights_ratio": 0.5}),
        ("weights", WEIGHTS, {"weights_ratio": 0.75}),
        ("speed", SPEED, {}),
        ("speed", SPEED, {"speed_up": Estimate(0.88, 0.85, 0.91)}),
        ("speed", SPEED, {"speed_up": Estimate(0.5, math.nan, math.nan)}),
    ],
    ids=[
        "rouge1",
        "rougeL",
        "likelihood",
        "a little less likely",
        "parity",
        "work",
        "a token more",
        "weights",
        "weights at their threshold",
        "speed",
        "speed whose interval reaches the threshold",
        "speed without an interval",
    ],
)
def test_a_row_within_the_threshold_passes(gate: str, thresholds: Thresholds, changes: dict[str, Any]) -> None:
    verdict = verdict_of(gate, thresholds, evidence(**changes))
    assert verdict.status == "pass"
    assert articles_named(verdict) == []


@pytest.mark.parametrize(
    ("gate", "thresholds", "changes", "measured", "required", "said"),
    [
        ("rouge1", ROUGE, {"answers": answers("row", rouge=WORSE)}, 0.32, 0.99, ["32.0%", "rouge1", "99.0%"]),
        ("rougeL", ROUGE, {"answers": answers("row", rouge=WORSE)}, 0.32, 0.99, ["32.0%", "rougeL", "99.0%"]),
        ("likelihood", LIKELIHOOD, {"answers": answers("row", nll=LESS_LIKELY)}, 0.34, 0.02, ["+0.3400", "+0.02"]),
        (
            "parity",
            PARITY,
            {"answers": answers("row", tokens=[SAME_TOKENS] * 6 + [OTHER_TOKENS] * 2)},
            0.75,
            1.0,
            ["75.0%", "100.0%", "kv-cache", "float32", "token 2"],
        ),
        ("work", WORK, {"answers": longer(2)}, 0.5, 0.1, ["+50.0%", "±10.0%"]),
        ("work", WORK, {"answers": longer(-2)}, -0.5, 0.1, ["-50.0%", "±10.0%"]),
        ("weights", WEIGHTS, {"weights_ratio": 0.8}, 0.8, 0.75, ["0.800", "0.75"]),
        ("speed", SPEED, {"speed_up": Estimate(0.7, 0.6, 0.81)}, 0.7, 0.9, ["0.70x", "0.81", "0.9"]),
    ],
    ids=["rouge1", "rougeL", "likelihood", "parity", "more work", "less work", "weights", "speed"],
)
def test_a_row_beyond_the_threshold_fails_and_says_what_was_measured_and_what_is_required(
    gate: str, thresholds: Thresholds, changes: dict[str, Any], measured: float, required: float, said: list[str]
) -> None:
    verdict = verdict_of(gate, thresholds, evidence(**changes))
    assert verdict.status == "fail"
    assert (verdict.measured, verdict.required) == pytest.approx((measured, required))
    assert [words for words in said if words not in verdict.message] == []


@pytest.mark.parametrize("field", fields(Thresholds), ids=lambda field: field.name)
def test_a_threshold_brings_its_own_gates_and_no_others(field: Any) -> None:
    gates = {
        "rouge_retention_min": ["rouge1", "rougeL"],
        "nll_increase_max": ["likelihood"],
        "parity_min": ["parity"],
        "work_tolerance": ["work"],
        "weights_ratio_max": ["weights"],
        "speed_up_min": ["speed"],
    }
    verdicts = judge(Thresholds(**{field.name: 0.5}), evidence())
    assert [verdict.gate for verdict in verdicts] == gates.get(field.name, [])


# -- ROUGE and likelihood --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gate", "thresholds", "changes"),
    [
        ("rouge1", ROUGE, {"rouge": WORSE}),
        ("rougeL", ROUGE, {"rouge": WORSE}),
        ("likelihood", LIKELIHOOD, {"nll": LESS_LIKELY}),
    ],
)
def test_a_failure_shows_the_three_articles_that_lost_most(
    gate: str, thresholds: Thresholds, changes: dict[str, Any]
) -> None:
    verdict = verdict_of(gate, thresholds, evidence(answers=answers("row", **changes)))
    assert articles_named(verdict) == [5, 2, 7]
    assert [i for i in (5, 2, 7) if f"true: 'True headline {i}'" not in verdict.message] == []


def test_rouge1_and_rougeL_are_judged_each_by_its_own_values() -> None:
    only_longest = {"rouge1": (0.5,) * 8, "rouge2": (0.5,) * 8, "rougeL": WORSE, "rougeLsum": (0.5,) * 8}
    verdicts = judge(ROUGE, evidence(answers=answers("row", rouge=only_longest)))
    assert {verdict.gate: verdict.status for verdict in verdicts} == {"rouge1": "pass", "rougeL": "fail"}


def test_a_certain_loss_within_the_threshold_passes() -> None:
    assert verdict_of("rouge1", ROUGE, evidence(answers=answers("row", rouge=(0.499,) * 8))).status == "pass"


@pytest.mark.parametrize(
    ("gate", "thresholds", "made"),
    [
        ("rouge1", ROUGE, answers("row", rouge=NOISE)),
        ("likelihood", LIKELIHOOD, answers("row", nll=[1.5 - x for x in NOISE])),
    ],
)
def test_a_loss_beyond_the_threshold_but_within_chance_is_inconclusive_and_asks_for_more_articles(
    gate: str, thresholds: Thresholds, made: Any
) -> None:
    verdict = verdict_of(gate, thresholds, evidence(answers=made))
    assert verdict.status == "inconclusive"
    assert "within chance (p = 0." in verdict.message
    assert "--quality-articles" in verdict.message
    assert articles_named(verdict) == []


def test_one_article_proves_no_loss() -> None:
    one = evidence(
        answers=answers("row", rouge=[0.1], nll=[3.0], tokens=[SAME_TOKENS]),
        reference=answers(rouge=[0.9], nll=[1.0], tokens=[SAME_TOKENS]),
    )
    verdicts = judge(replace(ROUGE, nll_increase_max=0.02), one)
    assert [verdict.status for verdict in verdicts] == ["inconclusive"] * 3


def test_the_more_statistical_gates_there_are_the_stronger_a_loss_must_be() -> None:
    """Holm: a loss with p = 0.027 fails alone, not as the worst of three."""
    row = answers("row", nll=[1.0 + x for x in (0.1, -0.05, 0.15, -0.02, 0.2, 0.1, -0.05, 0.1)])
    assert verdict_of("likelihood", LIKELIHOOD, evidence(answers=row)).status == "fail"
    together = replace(LIKELIHOOD, rouge_retention_min=0.99)
    assert verdict_of("likelihood", together, evidence(answers=row)).status == "inconclusive"


def test_a_likelihood_that_is_not_a_number_fails() -> None:
    """NaN logits are a fault, and no number of articles would mend it."""
    row = answers("row", nll=[math.nan] * 8)
    verdict = verdict_of("likelihood", LIKELIHOOD, evidence(answers=row))
    assert verdict.status == "fail"
    assert verdict.message.startswith("what it measures is not a number")


# -- work and floor --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "status"),
    [
        pytest.param((4, 4, 4, 4, 4, 4, 4, 12), "inconclusive", id="one headline is longer"),
        pytest.param((6, 5, 6, 5, 6, 5, 6, 5), "fail", id="all are"),
        pytest.param((2, 3, 2, 3, 2, 3, 2, 3), "fail", id="all are shorter"),
    ],
)
def test_the_work_of_a_row_that_may_write_other_headlines_fails_beyond_chance_only(
    lengths: Sequence[int], status: str
) -> None:
    row = answers("row", tokens=[tuple(range(n)) for n in lengths])
    assert verdict_of("work", WORK, evidence(answers=row, exact_to=None, exact=None)).status == status
    assert verdict_of("work", WORK, evidence(answers=row, dtype="bfloat16")).status == status  # from a near tie on
    assert verdict_of("work", WORK, evidence(answers=row)).status == "fail"


def test_a_work_failure_shows_the_articles_whose_length_changed_most() -> None:
    row = answers("row", tokens=[tuple(range(n)) for n in (4, 5, 12, 4, 4, 1, 4, 8)])
    assert articles_named(verdict_of("work", WORK, evidence(answers=row))) == [2, 7, 5]


def test_a_failure_shows_no_article_that_got_no_worse() -> None:
    assert articles_named(verdict_of("work", WORK, evidence(answers=longer(20, of=[6])))) == [6]


def test_a_row_that_differs_by_exactly_the_tolerated_work_passes() -> None:
    """11 tokens for 10 are 10 % more, though 11 / 10 - 1 is a little more than 0.1 in floating point."""
    row, reference = (answers(who, tokens=[tuple(range(n))] * 8) for who, n in (("row", 11), ("reference", 10)))
    assert verdict_of("work", WORK, evidence(answers=row, reference=reference)).status == "pass"


@pytest.mark.parametrize(
    ("changes", "statuses"),
    [
        ({}, ["pass", "pass"]),
        ({"rouge": [0.3, 0.6] * 4}, ["fail", "pass"]),
        ({"nll": [0.5, 3.5] * 4}, ["pass", "fail"]),
        ({"nll": [math.nan] * 8}, ["pass", "fail"]),
    ],
    ids=["above the floor", "ROUGE below it", "likelihood below it", "likelihood not a number"],
)
def test_the_floor_is_judged_by_the_means(changes: dict[str, Any], statuses: list[str]) -> None:
    verdicts = judge_floor(Thresholds(rouge1_min=0.5, nll_max=1.0), answers(**changes))
    assert [verdict.gate for verdict in verdicts] == ["floor rouge1", "floor likelihood"]
    assert [verdict.status for verdict in verdicts] == statuses


def test_a_floor_failure_says_what_was_measured_and_what_is_required() -> None:
    rouge, nll = judge_floor(Thresholds(rouge1_min=0.75, nll_max=0.5), answers())
    assert "0.500" in rouge.message
    assert "0.75" in rouge.message
    assert "1.000" in nll.message
    assert "0.5 " in nll.message


def test_without_a_threshold_there_is_no_floor() -> None:
    assert judge_floor(Thresholds(), answers()) == []
