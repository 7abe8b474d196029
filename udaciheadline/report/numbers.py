"""How figures are written in the report: one form for each kind, in words that a table and a sentence can both use."""

import math

from udaciheadline.records import Estimate

MINUS = "\N{MINUS SIGN}"


def number(value: float, form: str) -> str:
    """By a format of Python's; a dash where there is none, and never a minus before zero."""
    if math.isnan(value):
        return "-"
    shown = f"{value:{form}}"
    if not any(digit in shown for digit in "123456789"):
        shown = shown.replace("-", "+" if form.startswith("+") else "")
    return shown.replace("-", MINUS)


def milliseconds(seconds: float) -> str:
    """With three significant digits at least: "6.81 ms", "1204 ms"."""
    value = 1000 * seconds
    return f"{number(value, f'.{digits(value)}f')} ms"


def digits(value: float) -> int:
    """The decimal places that show three significant digits."""
    return 0 if not 0 < abs(value) < 100 else min(6, 2 - math.floor(math.log10(abs(value))))


def rate(per_second: float) -> str:
    """Three significant digits: "243 headlines a second"."""
    return number(per_second, f".{digits(per_second)}f")


def mebibytes(count: float) -> str:
    """Bytes as MiB: one decimal place below 100."""
    return f"{number(count / 2**20, '.1f' if abs(count) < 100 * 2**20 else ',.0f')} MiB"


def share(value: float) -> str:
    """As a percentage: one decimal place below 10 %, and where rounding would make it all."""
    if 0.995 <= value < 1:
        return f"{number(100 * value, '.1f')} %" if value < 0.9995 else ">99.9 %"
    return f"{number(100 * value, '.1f' if 0 < abs(value) < 0.0995 else '.0f')} %"


def interval(estimate: Estimate, form: str) -> str:
    """The 95 % interval alone: "6.43 to 8.09"; a dash where there is none."""
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return "-"
    return f"{number(estimate.low, form)} to {number(estimate.high, form)}"


def times(value: float) -> str:
    """A ratio, with two decimal places below 10."""
    return number(value, ".2f" if value < 10 else ".1f" if value < 100 else ".0f")
