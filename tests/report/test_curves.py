"""What more articles at a time give each row, as the terminal and the report show it."""

import re
from dataclasses import replace

from rows import RECORD, SPECULATIVE, curve
from tables import legend, text

from udaciheadline.records import Record
from udaciheadline.report.curves import batch_curves

PLAIN = replace(RECORD, technique="kv-cache", batch_curve=curve(2.0, 8.0, job_batch_size=4))


def beside(*ratios: float) -> Record:
    """A row that optimises another one than the reference."""
    found = curve(*(20.0 * ratio for ratio in ratios), left_out=((256, "it would take about 90 s"),))
    points = (replace(point, times_optimised=ratio) for point, ratio in zip(found.points, ratios, strict=True))
    return replace(SPECULATIVE, batch_curve=replace(found, points=tuple(points)))


def test_the_details_have_a_table_of_rates_with_those_times_what_a_row_optimises() -> None:
    lines = legend(text(PLAIN, beside(2.0, 0.5, 0.25))).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("headlines/s, at a time"))
    assert [line.split() for line in lines[start : start + 4]] == [
        ["headlines/s,", "at", "a", "time", "1", "4", "16"],
        ["kv-cache", "2.00", "8.00*"],
        ["speculative", "40.0", "10.0", "5.00"],
        ["x", "target", "2.00", "0.50", "0.25"],
    ]
    assert "speculative: 256 at a time: it would take about 90 s." in lines


def test_without_a_curve_there_is_neither_table_nor_picture() -> None:
    assert "headlines/s, at a time" not in text(RECORD)
    assert batch_curves((RECORD,)) is None


def test_the_picture_says_what_wins_with_few_at_a_time_and_loses_with_many() -> None:
    found = batch_curves((PLAIN, beside(2.0, 0.5)))
    assert found
    assert found.finding == (
        "The most is what speculative writes with 1 at a time: 40.0 headlines a second. "
        "speculative has 2.00 with 1, 0.50 with 4 at a time, times the rate of target, which it optimises."
    )


def test_the_picture_has_a_line_and_a_row_of_numbers_a_technique() -> None:
    found = batch_curves((PLAIN, beside(2.0, 0.5, 0.25)))
    assert found
    assert found.columns == ("technique", "1", "4", "16", "left out")
    assert found.rows == (
        ("kv-cache", "2.00", "8.00", "-", ""),
        ("speculative", "40.0", "10.0", "5.00", "256 at a time: it would take about 90 s"),
    )
    drawn = set(re.findall(r"<text[^>]*>([^<]+)</text>", found.draw()))
    assert {"kv-cache", "speculative", "articles at a time (logarithmic)"} <= drawn


def test_a_single_point_is_drawn_too() -> None:
    found = batch_curves((replace(RECORD, batch_curve=curve(3.0)),))
    assert found
    assert "nan" not in found.draw()
