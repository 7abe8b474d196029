"""A comparison as text and as Markdown."""

import math
from dataclasses import replace

import pytest
from rows import PER_ARTICLE, RECORD, broken

from udaciheadline.evidence.compare import compare
from udaciheadline.report.comparison import markdown, text

SLOWER = replace(
    RECORD,
    run="20250203T040506Z",
    per_article=replace(PER_ARTICLE, log_ratios=tuple(ratio - math.log(1.25) for ratio in PER_ARTICLE.log_ratios)),
)
LOST = broken("oom", "it needs more memory", technique="pruned", settings=RECORD.settings)


def test_the_text_shows_both_figures_the_change_and_the_verdict_of_each() -> None:
    lines = text(compare([RECORD], [SLOWER])).splitlines()
    (speed,) = (line for line in lines if line.startswith("pruned") and "speed" in line)
    assert speed.split()[2:6] == ["2.00", "1.60", "-20.0", "%"]
    assert speed.endswith("SLOWER")
    (weights,) = (line for line in lines if line.startswith("pruned") and "weights" in line)
    assert weights.split()[2:] == ["3.0", "3.0", "+0.0", "%"]


def test_the_conclusion_names_what_is_worse_in_which_runs() -> None:
    written = text(compare([RECORD], [SLOWER]))
    assert "1 regressions: pruned SLOWER. Run 20250203T040506Z against 20250102T030405Z." in written
    assert "No regression. Run" in text(compare([RECORD], [RECORD]))


def test_a_row_that_is_lost_says_why() -> None:
    written = text(compare([RECORD], [LOST]))
    assert "LOST" in written
    assert "pruned: oom: it needs more memory." in written


def test_the_table_fits_a_terminal_of_100_columns() -> None:
    table, _, _ = text(compare([RECORD], [SLOWER])).partition("\n\n")
    assert max(map(len, table.splitlines())) <= 100


def test_markdown_has_the_conclusion_as_its_heading_and_a_table() -> None:
    heading, _, header, rule, *rows = markdown(compare([RECORD], [SLOWER])).splitlines()
    assert heading.startswith("## 1 regressions: pruned SLOWER.")
    assert header == "| technique | what | before | now | change | detectable | verdict |"
    assert rule == "| --- | --- | --- | --- | --- | --- | --- |"
    assert rows[0].startswith("| pruned | speed | 2.00 | 1.60 | -20.0 %")


@pytest.mark.parametrize(("launches", "said"), [(1, "Not judged (pruned speed): one process alone"), (4, "")])
def test_what_is_not_judged_is_said_with_its_reason(launches: int, said: str) -> None:
    alone = replace(RECORD, per_article=replace(PER_ARTICLE, launches=launches))
    written = text(compare([RECORD], [alone]))
    assert said in written
    assert ("not judged" in written) == bool(said)
