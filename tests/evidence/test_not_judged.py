"""Text that ROUGE cannot see, and a reference that got no word right: nothing that a row could be judged by."""

import math
import re

import pytest
from rows import ARTICLES, answers

from udaciheadline.evidence.gates import Evidence, Thresholds, judge, judge_floor
from udaciheadline.evidence.quality import Answers
from udaciheadline.records import Estimate

ROUGE = Thresholds(rouge_retention_min=0.99)


def compared(row: Answers, reference: Answers) -> Evidence:
    return Evidence(ARTICLES, row, reference, "kv-cache", reference, "float32", 1.0, Estimate(1.0, math.nan, math.nan))


@pytest.mark.parametrize(
    ("reference", "own", "said"),
    [
        pytest.param(
            math.nan, math.nan, "ROUGE sees only ASCII letters and digits", id="a script that ROUGE cannot see"
        ),
        pytest.param(0.0, 0.0, "no headline of the reference shares a word", id="a reference that scores nothing"),
        pytest.param(0.0, 0.1, "no headline of the reference shares a word", id="and a row that scores something"),
    ],
)
def test_where_rouge_has_nothing_to_compare_it_is_not_judged(reference: float, own: float, said: str) -> None:
    looked_at = compared(answers("row", rouge=[own] * 8), answers(rouge=[reference] * 8))
    verdicts = judge(ROUGE, looked_at)
    assert [(v.gate, v.status) for v in verdicts] == [("rouge1", "not judged"), ("rougeL", "not judged")]
    for verdict in verdicts:
        assert said in verdict.message
        assert verdict.message.endswith(": judge by likelihood")


def test_a_reference_with_one_word_right_is_judged() -> None:
    looked_at = compared(answers("row", rouge=[0.0] * 8), answers(rouge=[0.0] * 7 + [0.1]))
    assert [v.status for v in judge(ROUGE, looked_at)] == ["inconclusive"] * 2


def test_where_rouge_is_not_judged_the_likelihood_is_judged_alone() -> None:
    """p = 0.027: with two tests beside it, it would be no evidence (Holm)."""
    row = answers("row", nll=[1.0 + x for x in (0.1, -0.05, 0.15, -0.02, 0.2, 0.1, -0.05, 0.1)], rouge=[math.nan] * 8)
    both = Thresholds(rouge_retention_min=0.99, nll_increase_max=0.02)
    verdicts = judge(both, compared(row, answers(rouge=[math.nan] * 8)))
    assert [(v.gate, v.status) for v in verdicts][-1] == ("likelihood", "fail")


def test_no_message_has_a_number_that_is_none() -> None:
    everything = Thresholds(0.9, 0.02, 1.0, 1.0, 0.1, 1.0, 0.9)
    broken = answers("row", rouge=[math.nan] * 8, nll=[math.nan] * 8)
    verdicts = judge(everything, compared(broken, broken)) + judge_floor(
        Thresholds(rouge1_min=0.5, nll_max=1.0), broken
    )
    assert {"rouge1", "likelihood", "speed", "floor likelihood"} <= {verdict.gate for verdict in verdicts}
    assert [verdict.message for verdict in verdicts if re.search(r"\bnan\b", verdict.message)] == []
