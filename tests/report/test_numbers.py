import math

import pytest

from udaciheadline.records import Estimate
from udaciheadline.report import numbers
from udaciheadline.report.numbers import MINUS


@pytest.mark.parametrize(
    ("value", "form", "shown"),
    [
        (-0.04, "+.3f", f"{MINUS}0.040"),
        (-0.0001, "+.3f", "+0.000"),
        (-0.0001, ".3f", "0.000"),
        (math.nan, ".3f", "-"),
    ],
)
def test_a_number_has_a_true_minus_and_none_before_zero(value: float, form: str, shown: str) -> None:
    assert numbers.number(value, form) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.00681, "6.81 ms"), (0.0464, "46.4 ms"), (1.204, "1204 ms"), (0.0, "0 ms")]
)
def test_times_have_three_significant_digits(seconds: float, shown: str) -> None:
    assert numbers.milliseconds(seconds) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0641, "6.4 %"), (0.53, "53 %"), (0.996, "99.6 %"), (0.9999, ">99.9 %"), (1.0, "100 %"), (0.0, "0 %")],
)
def test_shares_are_percentages(value: float, shown: str) -> None:
    assert numbers.share(value) == shown


@pytest.mark.parametrize(("count", "shown"), [(5.5 * 2**20, "5.5 MiB"), (2400 * 2**20, "2,400 MiB")])
def test_bytes_are_mebibytes(count: float, shown: str) -> None:
    assert numbers.mebibytes(count) == shown


def test_an_interval_without_bounds_is_a_dash() -> None:
    assert numbers.interval(Estimate(1.0, math.nan, math.nan), ".2f") == "-"
    assert numbers.interval(Estimate(1.0, 0.5, 1.5), ".2f") == "0.50 to 1.50"
