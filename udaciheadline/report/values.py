"""The values of a row that pictures and sentences share, with their intervals; and what is a difference."""

import math
from collections.abc import Sequence
from statistics import median

from udaciheadline.evidence.compare import Margins
from udaciheadline.evidence.gains import job_ratio
from udaciheadline.records import Estimate, Record, Scores
from udaciheadline.techniques import REFERENCE

NEGLIGIBLE = Margins()
"""Differences that do not matter, as between two sessions."""


def usual_seconds(records: Sequence[Record]) -> float:
    """The reference's mean seconds a headline in this session: those of its own row or, where it has none, those that
    it took beside the other rows, in the middle; NaN where it was not measured."""
    beside = {record.technique: record.measurement for record in records if record.measurement}
    if REFERENCE in beside:
        return beside[REFERENCE].average_seconds
    return median(m.reference_average_seconds for m in beside.values()) if beside else math.nan


def latency(record: Record, usual: float) -> Estimate:
    """Mean seconds a headline on a machine that does not drift: the reference's `usual` ones over the row's paired
    speed-up, with its interval. Seconds as measured are those of the row's own minutes: between two rows they may move
    by more than most techniques win."""
    if record.technique == REFERENCE:
        return Estimate(usual, math.nan, math.nan)
    ratio = speed_up(record)
    if ratio is None or not ratio.value > 0:
        return Estimate(math.nan, math.nan, math.nan)
    low, high = (usual / bound if bound > 0 else math.nan for bound in (ratio.high, ratio.low))
    return Estimate(usual / ratio.value, low, high)


def loss(record: Record) -> Estimate:
    """What the true headlines lose in likelihood, in nats a token."""
    assert record.widest_scores is not None
    return record.widest_scores.nll_difference


def peak(record: Record) -> Estimate:
    """Bytes."""
    assert record.memory is not None
    return Estimate(float(record.memory.peak_bytes or math.nan), math.nan, math.nan)


def offline(record: Record, reference: Record | None) -> Estimate:
    """Headlines a second of all articles as one job, drift taken out: the reference's rate times the row's ratio to it
    (`evidence.gains.job_ratio`), with its interval; as measured, where there is no such ratio."""
    assert record.throughput is not None
    ratio = None if record.technique == REFERENCE else job_ratio(record, reference)
    if ratio is None or reference is None or reference.throughput is None:
        return Estimate(record.throughput.headlines_per_second, math.nan, math.nan)
    usual = reference.throughput.headlines_per_second
    return Estimate(usual * ratio.value, usual * ratio.low, usual * ratio.high)


def speed_up(record: Record) -> Estimate | None:
    """Over the reference, article by article or, of an offline row, job by job."""
    if record.measurement is not None:
        return record.measurement.speed_up
    return record.throughput.speed_up if record.throughput else None


def limit_share(record: Record) -> float | None:
    """Of memory bandwidth, one article at a time, or of arithmetic as a job; None where it was not measured."""
    if (m := record.measurement) is not None:
        return None if m.limit_seconds is None else m.limit_seconds / m.average_seconds
    t = record.throughput
    return None if t is None or t.limit_per_second is None else t.headlines_per_second / t.limit_per_second


def matters(difference: Estimate, margin: float) -> bool:
    """Whether a difference is more than chance makes, and more than `margin`."""
    return (difference.low > 0 or difference.high < 0) and abs(difference.value) > margin


def judged(scores: Scores) -> tuple[str, ...]:
    """What headlines are against the reference's: "worse", "better", both where ROUGE-1 and likelihood disagree, or
    neither where they cannot be told from them."""
    signs = []
    rouge, nll = scores.rouge_difference["rouge1"], scores.nll_difference
    if matters(rouge, NEGLIGIBLE.rouge1):
        signs.append("better" if rouge.value > 0 else "worse")
    if matters(nll, NEGLIGIBLE.nll):
        signs.append("better" if nll.value < 0 else "worse")
    return tuple(dict.fromkeys(signs))
