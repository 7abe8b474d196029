from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udaciheadline.evidence.profiling import waiting_seconds
from udaciheadline.records import MICRO_BATCH, Span
from udaciheadline.report.timeline import text, timeline, write_profile


def spans(*intervals: tuple[float, float], name: str = "") -> list[Span]:
    return [Span(name, start, end) for start, end in intervals]


@pytest.mark.parametrize(
    ("talk", "work", "seconds"),
    [
        ([(0, 4)], [], 4),
        ([(0, 4)], [(0, 4)], 0),
        ([(0, 4)], [(1, 2)], 3),
        ([(0, 4), (2, 6)], [], 6),
        ([(0, 10)], [(1, 3), (2, 5), (9, 12)], 5),
        ([(3, 4)], [(0, 2), (5, 6)], 1),
    ],
    ids=["alone", "hidden", "half hidden", "two at once", "much work", "between work"],
)
def test_talk_is_waited_for_where_no_work_goes_on(
    talk: Sequence[tuple[float, float]], work: Sequence[tuple[float, float]], seconds: float
) -> None:
    assert waiting_seconds(spans(*talk), [], spans(*work)) == seconds


def test_what_blocks_is_waited_for_from_the_end_of_the_work_before_it_whatever_is_started_ahead() -> None:
    """A kernel that sums is launched while the product before it runs, and so is the one that needs the sum."""
    assert waiting_seconds([], spans((1, 5)), spans((0, 3), (4, 9))) == 2
    assert waiting_seconds([], spans((1, 5)), spans((0, 6))) == 0
    assert waiting_seconds([], spans((1, 5)), []) == 4


INTERVALS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)).map(sorted).map(tuple), max_size=8)


@given(INTERVALS, INTERVALS)
def test_as_many_moments_are_waited_for_as_have_talk_and_no_work(
    talk: list[tuple[int, int]], work: list[tuple[int, int]]
) -> None:
    def at(moment: int, intervals: list[tuple[int, int]]) -> bool:
        return any(start <= moment < end for start, end in intervals)

    expected = sum(at(moment, talk) and not at(moment, work) for moment in range(20))
    assert waiting_seconds(spans(*talk), [], spans(*work)) == expected


def batch(number: int, start: float, end: float) -> Span:
    return Span(f"{MICRO_BATCH}{number}", start, end)


def test_the_timeline_shows_what_the_stages_worked_on_at_the_same_time() -> None:
    ranks = [[batch(0, 10, 14), batch(1, 14, 18)], [batch(0, 14.01, 17.9), batch(1, 18.01, 20)]]
    assert text(timeline(ranks, width=10)).splitlines() == [
        "10000.0 ms, 1000.00 ms a character, the number is the micro-batch's:",
        "rank 0  000011111.",
        "rank 1  ....000011",
    ]


def test_a_profile_has_the_table_of_each_rank_and_a_timeline_where_there_are_stages(tmp_path: Path) -> None:
    write_profile(tmp_path / "split.txt", [("aten::one", []), ("aten::two", [])], one_clock=True)
    assert (tmp_path / "split.txt").read_text("utf-8") == "aten::one\n\naten::two"
    stages = [("aten::one", [batch(0, 0, 1)]), ("aten::two", [batch(0, 1, 2)])]
    found = write_profile(tmp_path / "stages.txt", stages, one_clock=True)
    assert found == timeline([spans for _, spans in stages])
    written = (tmp_path / "stages.txt").read_text("utf-8")
    assert written.startswith("2000.0 ms")
    assert "aten::one" in written
    assert "aten::two" in written


def test_stages_on_several_machines_have_no_timeline_since_their_clocks_differ(tmp_path: Path) -> None:
    stages = [("aten::one", [batch(0, 0, 1)]), ("aten::two", [batch(0, 1, 2)])]
    write_profile(tmp_path / "stages.txt", stages, one_clock=False)
    assert (tmp_path / "stages.txt").read_text("utf-8") == "aten::one\n\naten::two"
