"""What the figures show: which rows are on a front, and what is told apart."""

import math
import re
from dataclasses import replace

import pytest
from rows import MEASUREMENT, OFFLINE, RECORD, SCORES, SKIPPED, run

from udaciheadline.records import Estimate, Memory, Record, Throughput
from udaciheadline.report import figures, values
from udaciheadline.report.figures import Figure

ALL = (
    figures.latency_and_quality,
    figures.rate_and_memory,
    figures.speed_ups,
    figures.latencies,
    figures.quality,
    figures.limits,
)


def row(name: str, seconds: float, nll: tuple[float, float, float] = (0.0, 0.0, 0.0), speed_up: float = 2.0) -> Record:
    ratio = Estimate(speed_up, speed_up - 0.1, speed_up + 0.1)
    measurement = replace(MEASUREMENT, average_seconds=seconds, speed_up=ratio)
    scores = replace(SCORES, nll_difference=Estimate(*nll))
    return replace(RECORD, technique=name, measurement=measurement, scores=scores)


def on_front(figure: Figure | None) -> set[str]:
    assert figure
    return {row[0] for row in figure.rows if row[1] == "on the front"}


def test_a_row_that_is_slower_and_loses_more_is_dominated() -> None:
    rows = (row("fast", 0.1, speed_up=2), row("slow", 0.1, speed_up=1), row("lossy", 0.1, (0.2, 0.1, 0.3), speed_up=4))
    figure = figures.latency_and_quality(rows)
    assert on_front(figure) == {"fast", "lossy"}
    assert figure
    assert figure.alternative == "Scatter plot of 3 rows. On the front: fast, lossy. Dominated: slow."


@pytest.mark.parametrize("gain", [(-0.1, -0.3, 0.1), (-0.001, -0.002, -0.0005)], ids=["chance", "too little to matter"])
def test_no_gain_within_chance_or_too_small_to_matter_puts_a_slower_row_on_the_front(
    gain: tuple[float, float, float],
) -> None:
    assert on_front(figures.latency_and_quality((row("fast", 0.1), row("slow", 0.1, gain, speed_up=1)))) == {"fast"}


def test_a_gain_beyond_chance_does() -> None:
    rows = (row("fast", 0.1), row("good", 0.1, (-0.2, -0.3, -0.1), speed_up=1))
    assert on_front(figures.latency_and_quality(rows)) == {"fast", "good"}


def test_a_row_with_less_memory_or_a_higher_rate_is_on_the_front_of_jobs() -> None:
    def job(name: str, rate: float, mebibytes: int) -> Record:
        throughput = Throughput(8, 3, rate, 8 * rate)
        return replace(OFFLINE, technique=name, throughput=throughput, memory=Memory((), (), mebibytes * 2**20))

    found = figures.rate_and_memory((job("small", 10, 100), job("large", 20, 200), job("neither", 10, 150)))
    assert on_front(found) == {"small", "large"}


def test_an_offline_rate_is_the_references_times_the_ratio_to_it() -> None:
    """What the machine drifted between the two jobs is not in it."""
    reference = replace(OFFLINE, technique="kv-cache", throughput=Throughput(8, 3, 10.0, 80.0))
    throughput = Throughput(8, 3, 100.0, 800.0, speed_up=Estimate(2.0, 1.0, 3.0))
    assert values.offline(replace(OFFLINE, throughput=throughput), reference) == Estimate(20.0, 10.0, 30.0)
    assert values.offline(reference, reference).value == 10.0
    assert values.offline(replace(OFFLINE, throughput=throughput), None).value == 100.0


def test_a_latency_is_the_references_over_the_paired_speed_up() -> None:
    """A row that was measured while the machine was fast is no faster for it."""
    found = values.latency(row("pruned", 0.01), usual=1.0)
    assert found.value == 0.5
    assert (found.low, found.high) == pytest.approx((1 / 2.1, 1 / 1.9))
    assert values.latency(row("kv-cache", 0.01), usual=1.0).value == 1.0


def test_the_references_usual_seconds_are_those_of_its_row_or_of_those_beside_other_rows() -> None:
    others = [row("pruned", 0.2), row("int8", 0.3)]
    assert values.usual_seconds([*others, row("kv-cache", 0.7)]) == 0.7
    assert values.usual_seconds(others) == MEASUREMENT.reference_average_seconds
    assert math.isnan(values.usual_seconds([OFFLINE]))


def test_the_forest_says_what_is_told_apart() -> None:
    def sped(name: str, *estimate: float) -> Record:
        return replace(RECORD, technique=name, measurement=replace(MEASUREMENT, speed_up=Estimate(*estimate)))

    found = figures.speed_ups((sped("a", 2, 1.5, 2.5), sped("b", 0.5, 0.4, 0.6), sped("c", 1.1, 0.9, 1.3)))
    assert found
    assert "Faster than kv-cache: a. Slower: b. Not told apart: c." in found.finding
    assert [row[0] for row in found.rows] == ["a", "c", "b"]


def test_a_stage_is_shown_with_what_it_worked_on_and_for_how_long() -> None:
    (found,) = figures.timelines(run())
    assert found.rows == (("0", "67 %", "0011.."), ("1", "67 %", "..0011"))
    assert "in these 500 ms: rank 0 67 %" in found.finding


@pytest.mark.parametrize("make", ALL)
def test_a_picture_is_not_drawn_of_nothing(make) -> None:
    assert make((SKIPPED,)) is None


@pytest.mark.parametrize("make", ALL)
def test_a_picture_has_a_row_of_numbers_for_each_technique_it_shows(make) -> None:
    found = make(run())
    assert found
    assert all(len(row) == len(found.columns) for row in found.rows)
    drawn = set(re.findall(r"<text[^>]*>([^<]+)</text>", found.draw()))
    assert {row[0] for row in found.rows} <= drawn


def test_figures_that_are_no_numbers_are_dashes_and_draw_nothing() -> None:
    unknown = Estimate(math.nan, math.nan, math.nan)
    scores = replace(SCORES, rouge_difference=dict.fromkeys(SCORES.rouge, unknown))
    figure = figures.quality((replace(RECORD, scores=scores),))
    assert figure
    assert figure.rows[0][1:3] == ("-", "-")
    assert "nan" not in figure.draw()
