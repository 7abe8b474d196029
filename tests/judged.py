"""Rows made by hand, as the gates see them."""

from typing import Any

from rows import ARTICLES, answers

from udaciheadline.evidence.gates import Evidence, Thresholds, judge
from udaciheadline.records import Estimate, Verdict

SAME = answers()
SAME_TOKENS = (1, 2, 3, 4)
OTHER_TOKENS = (1, 2, 9, 4)
PARITY = Thresholds(parity_min=1.0)


def evidence(**changes: Any) -> Evidence:
    """A row that does exactly what the reference does, unless `changes` says otherwise."""
    values = {
        "articles": ARTICLES,
        "answers": answers("row"),
        "reference": SAME,
        "exact_to": "kv-cache",
        "exact": SAME,
        "dtype": "float32",
        "weights_ratio": 1.0,
        "speed_up": Estimate(1.0, 0.98, 1.02),
    }
    return Evidence(**(values | changes))


def verdict_of(gate: str, thresholds: Thresholds, looked_at: Evidence) -> Verdict:
    (verdict,) = (v for v in judge(thresholds, looked_at) if v.gate == gate)
    return verdict


def articles_named(verdict: Verdict) -> list[int]:
    """The articles that the message shows, each of which must come with its headlines."""
    lines = verdict.message.splitlines()[1:]
    named = [int(line.split()[1].strip(",")) for line in lines]
    for i, line in zip(named, lines, strict=True):
        assert f"'reference wrote {i}' became 'row wrote {i}'" in line
    return named
