"""The table of docs/faults.md: as long as was asked for, and each row with a test that there is."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FEWEST = 30
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def rows() -> list[str]:
    lines = (ROOT / "docs" / "faults.md").read_text("utf-8").splitlines()
    return [line for line in lines if re.match(r"\| \d+ \|", line)]


def functions(path: Path) -> set[str]:
    """Those that a file defines, seen without running it."""
    return {node.name for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)}


def test_the_table_has_a_row_for_each_fault_in_order() -> None:
    numbers = [int(row.split("|")[1]) for row in rows()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= FEWEST


@pytest.mark.parametrize("fault", rows(), ids=lambda row: row.split("|")[2].strip())
def test_each_fault_names_a_test_that_there_is(fault: str) -> None:
    named = TEST.findall(fault)
    assert named
    for path, name in named:
        assert name in functions(ROOT / path), f"{path} has no {name}"
