import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import generation

from udaciheadline.evidence.measure import (
    P99_MIN_COUNT,
    EngineClock,
    limit_per_second,
    limit_seconds,
    log_ratios,
    quantile,
    summarise,
)
from udaciheadline.records import BuildInfo, Generation, Limits, Measurement

# -- clocks --------------------------------------------------------------------------------------------------------


def test_an_engine_clock_stands_still_until_it_is_advanced() -> None:
    clock = EngineClock()
    assert clock() == clock()


def test_an_engine_clock_shows_exactly_the_seconds_of_the_engine() -> None:
    clock = EngineClock()
    before = clock()
    clock.advance(0.25)
    clock.advance(0.5)
    assert clock() - before == 0.75


def test_engine_clocks_do_not_share_their_time() -> None:
    one, other = EngineClock(), EngineClock()
    one.advance(1)
    assert other() == 0


# -- what the device could do
# --------------------------------------------------------------------------------------------


INFO = BuildInfo(parameters=30, weights_bytes=120, pass_bytes=100, layer_parameters=20, head_parameters=10)
LIMITS = Limits(bytes_per_second=1000.0, flops_per_second=10_000.0)
TWO = [
    generation(token_ids=(1,) * 4, prompt_tokens=7),
    generation(token_ids=(1,) * 2, prompt_tokens=5),
]


def test_the_limit_of_a_headline_is_that_of_reading_the_weights_once_for_each_of_its_new_tokens() -> None:
    """6 new tokens of 100 bytes at 1000 bytes a second are 0.6 s for two headlines."""
    assert limit_seconds(INFO, TWO, LIMITS) == pytest.approx(0.3)


def test_the_limit_of_a_rate_is_that_of_two_operations_a_parameter_and_token() -> None:
    """12 tokens of prompts and 6 - 2 new ones are read, through 20 parameters; 6 are written, through 10."""
    operations = 2 * (16 * 20 + 6 * 10)
    assert limit_per_second(INFO, TWO, LIMITS) == pytest.approx(2 * 10_000 / operations)


@pytest.mark.parametrize("limit", [limit_seconds, limit_per_second])
def test_without_the_bytes_of_a_pass_there_is_no_limit(limit: Callable[..., float | None]) -> None:
    assert limit(replace(INFO, pass_bytes=None), TWO, LIMITS) is None


@pytest.mark.parametrize("limit", [None, 0.25])
def test_a_measurement_carries_its_limit(limit: float | None) -> None:
    assert summarise(rounds(1.0), rounds(1.0), limit).limit_seconds == limit


# -- what the times amount to ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "q", "value"),
    [(100, 0.5, 50), (100, 0.9, 90), (100, 0.99, 99), (50, 0.99, 49), (1000, 0.99, 990), (1, 0.5, 0), (10, 1.0, 9)],
)
def test_a_quantile_is_the_notebooks(count: int, q: float, value: int) -> None:
    assert quantile(range(count), q) == value


@given(st.lists(st.floats(0, 1), min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_quantiles_are_values_and_grow_with_their_level(values: list[float], one: float, other: float) -> None:
    values.sort()
    low, high = quantile(values, min(one, other)), quantile(values, max(one, other))
    assert {low, high} <= set(values)
    assert low <= high


def rounds(*seconds: float, **changes: Any) -> list[Generation]:
    return [generation(seconds=s, **changes) for s in seconds]


@pytest.fixture
def measurement() -> Measurement:
    """Articles of 1, 2 and 6 s against a reference that takes 2, 4 and 12 s."""
    technique = [
        generation(seconds=6.0, first_token_seconds=0.5, token_ids=(1,) * 9, drafted=8, accepted=6, prompt_tokens=40),
        generation(seconds=1.0, first_token_seconds=0.1, token_ids=(1,) * 4, drafted=2, accepted=1, prompt_tokens=31),
        generation(seconds=2.0, first_token_seconds=0.3, token_ids=(1,) * 5, drafted=0, accepted=0, prompt_tokens=74),
    ]
    return summarise(technique, rounds(12.0, 2.0, 4.0, token_ids=(1,) * 10))


@pytest.mark.parametrize(
    ("figure", "value"),
    [
        ("count", 3),
        ("average_seconds", 3.0),
        ("p50_seconds", 2.0),
        ("p90_seconds", 6.0),
        ("p99_seconds", 6.0),
        ("headlines_per_second", 3 / 9),
        ("new_tokens", 18),
        ("new_tokens_per_second", 2.0),
        ("first_token_seconds", 0.3),
        ("reference_new_tokens", 30),
        ("reference_average_seconds", 6.0),
        ("drafted", 10),
        ("accepted", 7),
        ("acceptance_rate", 0.7),
        ("prompt_tokens", (31, 74)),
    ],
)
def test_a_measurement_worked_by_hand(measurement: Measurement, figure: str, value: float) -> None:
    assert getattr(measurement, figure) == pytest.approx(value)


def test_a_speed_up_is_paired_article_by_article(measurement: Measurement) -> None:
    """Times differ sixfold between articles, but each is twice as fast: only what two processes differ by is open."""
    speed_up = measurement.speed_up
    assert (speed_up.value, speed_up.low, speed_up.high) == pytest.approx((2.0, 1.6, 2.5))


def test_a_speed_up_weighs_all_articles_alike_however_long_they_take() -> None:
    assert summarise(rounds(1.0, 100.0), rounds(4.0, 100.0)).speed_up.value == pytest.approx(2.0)


def test_a_ratio_above_one_is_faster() -> None:
    assert log_ratios(rounds(4.0, 1.0), rounds(1.0, 4.0)) == pytest.approx([math.log(4), -math.log(4)])


def test_rounds_without_a_reference_of_their_own_are_not_compared() -> None:
    with pytest.raises(ValueError, match="argument 2 is longer"):
        summarise(rounds(1.0, 1.0), rounds(1.0))


def test_without_drafts_there_is_no_acceptance_rate() -> None:
    assert summarise(rounds(1.0, 2.0), rounds(1.0, 2.0)).acceptance_rate is None


def test_acceptance_by_place_is_a_share_of_the_rounds_that_drafted_so_far() -> None:
    made = [
        generation(drafted=8, accepted=5, accepted_at=(3, 2)),  # four rounds
        generation(drafted=6, accepted=3, accepted_at=(1, 1, 1)),  # two rounds, of another process
        generation(drafted=0),
    ]
    assert summarise(made, made).accepted_shares == pytest.approx((4 / 6, 3 / 6, 1 / 2))
    assert summarise(made[2:], made[2:]).accepted_shares is None


def test_seconds_a_token_are_those_behind_the_first_one() -> None:
    made = [generation(seconds=3.0, first_token_seconds=1.0, token_ids=(1,) * 5)] * 2
    assert summarise(made, made).token_seconds == pytest.approx(0.5)
    single = [generation(token_ids=(1,))]
    assert math.isnan(summarise(single, single).token_seconds)


def test_the_needed_count_is_the_least_with_a_95_percent_bound_on_the_99th_percentile() -> None:
    assert 1 - 0.99**P99_MIN_COUNT >= 0.95 > 1 - 0.99 ** (P99_MIN_COUNT - 1)


@pytest.mark.parametrize(("count", "reliable"), [(50, False), (298, False), (299, True), (1000, True)])
def test_a_p99_is_reliable_from_299_articles_on(count: int, reliable: bool) -> None:
    times = rounds(*[1.0] * count)
    assert summarise(times, times).p99_is_reliable is reliable
