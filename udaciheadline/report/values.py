"""The values of a row that pictures and sentences share, with their intervals; and what is a difference."""

import math

from udaciheadline.evidence.compare import Margins
from udaciheadline.evidence.statistics import launch_mean
from udaciheadline.records import Estimate, Record, Scores

NEGLIGIBLE = Margins()
"""Differences that do not matter, as between two sessions."""


def latency(record: Record) -> Estimate:
    """Mean seconds a headline, with the interval over the row's launches, or its articles where there was one."""
    assert record.measurement is not None
    mean, found = record.measurement.average_seconds, record.per_article
    if found is None or not found.seconds:
        return Estimate(mean, math.nan, math.nan)
    spread = launch_mean(found.seconds, found.launches)
    return Estimate(mean, max(spread.low, min(found.seconds)), spread.high)  # no mean is below the fastest


def loss(record: Record) -> Estimate:
    """What the true headlines lose in likelihood, in nats a token."""
    assert record.scores is not None
    return record.scores.nll_difference


def peak(record: Record) -> Estimate:
    """Bytes."""
    assert record.memory is not None
    return Estimate(float(record.memory.peak_bytes or math.nan), math.nan, math.nan)


def offline(record: Record) -> Estimate:
    """Headlines a second of all articles as one job, with the interval of its ratio to the reference, where there is
    one."""
    assert record.throughput is not None
    value, ratio = record.throughput.headlines_per_second, record.throughput.speed_up
    if ratio is None:
        return Estimate(value, math.nan, math.nan)
    return Estimate(value, value * ratio.low / ratio.value, value * ratio.high / ratio.value)


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
