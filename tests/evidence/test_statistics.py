import itertools
import math
from collections import Counter

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from udaciheadline.evidence.statistics import (
    ONE_PROCESS,
    blocks,
    detectable,
    geometric_mean,
    holm,
    launch_mean,
    mean,
    more_to_tell,
    p_worse,
    turns,
    welch,
)
from udaciheadline.records import Estimate

# Hundredths, so that a spread is either none or far above rounding errors.
hundredths = st.integers(-100, 100).map(lambda i: i / 100)
samples = st.lists(hundredths, min_size=2, max_size=30)
spread_samples = samples.filter(lambda values: len(set(values)) > 1)
p_values = st.lists(st.floats(0, 1), max_size=8)


def test_the_mean_of_1_2_3_4_has_the_interval_of_the_textbook() -> None:
    # s = 1.290994, s / sqrt(4) = 0.645497, t(3, 0.975) = 3.182446
    estimate = mean([1, 2, 3, 4])
    assert estimate.value == 2.5
    assert estimate.low == pytest.approx(2.5 - 2.054260, abs=1e-6)
    assert estimate.high == pytest.approx(2.5 + 2.054260, abs=1e-6)


@given(spread_samples, st.floats(0.5, 0.99))
def test_the_interval_of_a_mean_is_that_of_scipy(values: list[float], confidence: float) -> None:
    theirs = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    assert mean(values, confidence) == Estimate(
        pytest.approx(sum(values) / len(values), abs=1e-9),
        pytest.approx(theirs.low, abs=1e-9),
        pytest.approx(theirs.high, abs=1e-9),
    )


@given(hundredths, st.integers(2, 60))
def test_values_without_spread_give_an_interval_of_no_width(value: float, count: int) -> None:
    estimate = mean([value] * count)
    assert (estimate.low, estimate.high) == pytest.approx((value, value), abs=1e-12)


def test_one_value_gives_a_mean_without_an_interval() -> None:
    estimate = mean([0.4])
    assert estimate.value == 0.4
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)


def test_a_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        mean([])


@pytest.mark.parametrize("values", [[math.nan], [0.5, math.nan], [0.5, math.inf], [-math.inf, 0.5]])
def test_a_mean_of_what_is_not_finite_is_not_a_number(values: list[float]) -> None:
    assert math.isnan(mean(values).value)


@given(st.integers(1, 60), st.integers(1, 8))
def test_every_value_belongs_to_one_launch_and_launches_differ_by_one_value_at_most(count: int, launches: int) -> None:
    parts = blocks(count, launches)
    assert [i for part in parts for i in part] == list(range(count))
    assert len(parts) == launches
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_interval_of_several_launches_is_that_of_their_means() -> None:
    assert launch_mean([1, 3, 4, 6, 8, 10], 3) == mean([2, 5, 9])


def test_what_two_launches_differ_by_is_seen_however_many_values_each_has() -> None:
    """Half of the values stand 0.1 above the others, as of a process that happens to be slower."""
    values = [0.0, 0.01] * 50 + [0.1, 0.11] * 50
    assert mean(values).low > 0
    assert launch_mean(values, 2).low < 0


@given(spread_samples)
def test_one_launch_has_the_interval_of_its_values(values: list[float]) -> None:
    assert launch_mean(values, 1) == mean(values)


def test_a_difference_that_is_not_a_number_is_worse_for_certain() -> None:
    assert p_worse([0.1, math.nan, 0.1]) == 0.0


def test_twice_and_half_as_fast_are_on_average_equally_fast() -> None:
    estimate = geometric_mean([math.log(2), math.log(0.5)], 2)
    assert estimate.value == pytest.approx(1)
    assert estimate.low * estimate.high == pytest.approx(1)


def test_the_geometric_mean_of_2_8_is_4_with_the_interval_of_the_logarithms() -> None:
    # mean of the logarithms: log 4; their standard error: log 2; t(1, 0.975) = 12.706205
    estimate = geometric_mean([math.log(2), math.log(8)], 2)
    assert estimate.value == pytest.approx(4)
    assert estimate.high == pytest.approx(4 * 2**12.706205, rel=1e-6)
    assert estimate.low == pytest.approx(4 / 2**12.706205, rel=1e-6)


def test_the_interval_of_one_process_has_in_it_how_two_may_differ() -> None:
    estimate = geometric_mean([math.log(2)] * 3, 1)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((2.0, 2 / ONE_PROCESS, 2 * ONE_PROCESS))
    alone, several = geometric_mean([math.log(2), math.log(8)], 1), geometric_mean([math.log(2), math.log(8)], 2)
    assert math.log(alone.high / 4) == pytest.approx(math.hypot(math.log(several.high / 4), math.log(ONE_PROCESS)))


@given(samples)
def test_a_slow_down_is_the_inverse_of_the_speed_up_the_other_way_round(logarithms: list[float]) -> None:
    there, back = geometric_mean(logarithms, 1), geometric_mean([-x for x in logarithms], 1)
    assert (there.value, there.low, there.high) == pytest.approx((1 / back.value, 1 / back.high, 1 / back.low))


def test_three_losses_of_1_2_3_have_the_p_value_of_the_textbook() -> None:
    # t = -2 / (1 / sqrt(3)), and with 2 degrees of freedom F(t) = 1/2 + t / (2 sqrt(2 + t^2))
    assert p_worse([-1, -2, -3]) == pytest.approx(0.5 - math.sqrt(12) / (2 * math.sqrt(14)))


@given(spread_samples)
def test_the_p_value_of_being_worse_is_that_of_scipy(differences: list[float]) -> None:
    theirs = stats.ttest_1samp(differences, 0, alternative="less").pvalue
    assert p_worse(differences) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("count", [2, 3, 7, 50])
@pytest.mark.parametrize(("difference", "p"), [(-0.1, 0.0), (-0.7, 0.0), (0.0, 1.0), (0.1, 1.0), (0.7, 1.0)])
def test_differences_without_spread_decide_by_their_sign(difference: float, p: float, count: int) -> None:
    assert p_worse([difference] * count) == pytest.approx(p, abs=1e-12)


@pytest.mark.parametrize("differences", [[], [-0.9]])
def test_less_than_two_differences_prove_nothing(differences: list[float]) -> None:
    assert p_worse(differences) == 1.0


def test_holm_adjusts_as_in_the_example_worked_by_hand() -> None:
    # In order: 0.005 * 4 = 0.02, 0.01 * 3 = 0.03, 0.03 * 2 = 0.06, and 0.04 * 1 may not be below the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_leaves_a_single_p_value_as_it_is() -> None:
    assert holm([0.03]) == [0.03]


@given(p_values)
def test_holm_never_makes_a_p_value_smaller_nor_larger_than_bonferroni_does(values: list[float]) -> None:
    for p, adjusted in zip(values, holm(values), strict=True):
        assert p <= adjusted <= min(1.0, p * len(values))


@given(p_values, st.randoms())
def test_holm_does_not_depend_on_the_order(values: list[float], random: object) -> None:
    order = list(range(len(values)))
    random.shuffle(order)  # type: ignore[attr-defined]
    straight = holm(values)
    assert holm([values[i] for i in order]) == [straight[i] for i in order]


@given(p_values)
def test_holm_keeps_the_ranking(values: list[float]) -> None:
    adjusted = [a for _, a in sorted(zip(values, holm(values), strict=True))]
    assert adjusted == sorted(adjusted)


@pytest.mark.parametrize("power", [0.8, 0.9])
def test_a_detectable_loss_is_found_with_the_power_asked_for(power: float) -> None:
    differences = [i / 1000 for i in range(-25, 25)]
    count = len(differences)
    loss = detectable(differences, power=power)
    critical = stats.t.ppf(0.95, count - 1)
    error = stats.sem(differences)
    assert stats.nct.sf(critical, count - 1, loss / error) == pytest.approx(power, abs=0.01)


def test_a_loss_that_counts_beyond_a_margin_only_is_found_there_with_the_power_asked_for() -> None:
    draws = numpy.random.default_rng(0).normal(0.0, 0.1, size=(2000, 20))
    loss = numpy.mean([detectable(list(d), margin=0.1) for d in draws])
    assert numpy.mean(draws.mean(axis=1) - loss < -0.1) == pytest.approx(0.8, abs=0.03)


def test_a_margin_within_what_chance_hides_changes_nothing() -> None:
    differences = [i / 10 for i in range(-25, 25)]
    assert detectable(differences, margin=0.01) == detectable(differences)


def test_one_difference_can_detect_nothing() -> None:
    assert math.isnan(detectable([0.1]))


# -- taking turns ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(2, 7))
def test_each_program_follows_each_other_one_equally_often(count: int) -> None:
    orders = turns(count)
    follows = Counter(pair for order in orders for pair in itertools.pairwise(order))
    assert all(sorted(order) == list(range(count)) for order in orders)
    assert set(follows.values()) == {len(orders) * (count - 1) // (count * (count - 1))}


@pytest.mark.parametrize("count", range(3, 7))
def test_of_more_than_two_programs_none_follows_itself(count: int) -> None:
    orders = turns(count)
    assert all(last[-1] != following[0] for last, following in itertools.pairwise([*orders, orders[0]]))


def test_of_three_programs_each_follows_each_other_one_equally_often_from_round_to_round_too() -> None:
    orders = turns(3)
    between = [(last[-1], following[0]) for last, following in itertools.pairwise([*orders, orders[0]])]
    assert sorted(between) == sorted(itertools.permutations(range(3), 2))


@pytest.mark.parametrize("count", range(2, 7))
def test_each_program_has_each_place_in_a_round_equally_often(count: int) -> None:
    for place in zip(*turns(count), strict=True):
        assert len(set(Counter(place).values())) == 1


# -- two samples -----------------------------------------------------------------------------------------------------


@given(spread_samples, spread_samples)
def test_two_samples_are_compared_as_scipy_does(values: list[float], others: list[float]) -> None:
    found, expected = welch(values, others), stats.ttest_ind(values, others, equal_var=False, alternative="less")
    interval = stats.ttest_ind(values, others, equal_var=False).confidence_interval()
    assert found.p_less == pytest.approx(expected.pvalue, abs=1e-9)
    assert (found.difference.low, found.difference.high) == pytest.approx(tuple(interval), abs=1e-9)


def test_a_single_value_on_either_side_proves_nothing() -> None:
    assert welch([1.0], [5.0, 6.0]).p_less == welch([1.0, 2.0], [5.0]).p_less == 1.0


@pytest.mark.parametrize(("values", "p"), [([1.0, 1.0], 0.0), ([2.0, 2.0], 1.0), ([3.0, 3.0], 1.0)])
def test_samples_without_spread_decide_by_their_sign(values: list[float], p: float) -> None:
    assert welch(values, [2.0, 2.0]).p_less == p


def test_what_is_detectable_between_two_samples_is_found_that_often() -> None:
    draws = numpy.random.default_rng(0).normal(size=(2000, 10))
    loss = numpy.mean([welch(list(d[:5]), list(d[5:])).detectable for d in draws])
    found = numpy.mean([welch(list(d[:5] - loss), list(d[5:])).p_less < 0.05 for d in draws])
    assert found == pytest.approx(0.8, abs=0.05)


def test_what_is_detectable_between_two_samples_is_beyond_the_margin() -> None:
    draws = numpy.random.default_rng(0).normal(0.0, 0.1, size=(2000, 40))
    halves = [(list(d[:20]), list(d[20:])) for d in draws]
    loss = numpy.mean([welch(a, b, margin=0.1).detectable for a, b in halves])
    found = numpy.mean([welch([x - loss for x in a], b).difference.value < -0.1 for a, b in halves])
    assert found == pytest.approx(0.8, abs=0.03)


# -- how many more would tell ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [5, 30])
def test_so_many_more_values_part_the_intervals_of_two_samples_with_the_power_that_was_asked_for(count: int) -> None:
    half = float(stats.t.ppf(0.975, count - 1)) / math.sqrt(count)  # of values that spread by 1
    more = more_to_tell(0.5, [half, half], count)
    assert more is not None
    draws = numpy.random.default_rng(0).normal(size=(1000, 2, count + more))
    means, errors = draws.mean(2), stats.sem(draws, axis=2)
    halves = errors.sum(1) * stats.t.ppf(0.975, count + more - 1)
    assert 0.78 < (means[:, 0] + 0.5 - means[:, 1] > halves).mean() < 0.99


@pytest.mark.parametrize(
    ("effect", "halves", "count"),
    [(0.0, [0.1, 0.1], 50), (1e-6, [0.1, 0.1], 50), (0.1, [math.inf, 0.1], 50), (0.1, [0.1, 0.1], 1)],
    ids=["no effect", "next to none", "an interval that is not known", "one value"],
)
def test_it_is_not_said_how_many_would_tell_what_cannot_be_told(effect: float, halves: list[float], count: int) -> None:
    assert more_to_tell(effect, halves, count) is None
