import ast
import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import udaciheadline
from udaciheadline import records

PACKAGE = Path(udaciheadline.__file__).parent

TYPES = [
    value
    for value in vars(records).values()
    if dataclasses.is_dataclass(value) and value.__module__ == records.__name__
]


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_what_everything_passes_on_cannot_be_changed_on_the_way(kind: type) -> None:
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "statement",
    ["import udaciheadline.records", "from udaciheadline.techniques import techniques; assert len(techniques()) > 1"],
    ids=["importing records", "discovering techniques"],
)
def test_neither_torch_nor_pytest_is_imported_by(statement: str) -> None:
    code = f"import sys; {statement}; print(sorted({{'torch', 'pytest', 'transformers'}} & set(sys.modules)))"
    child = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=False
    )
    assert child.stdout == "[]\n", child.stderr


def imported(source: str) -> Iterator[str]:
    """The first part of the name of every module that this source imports, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0]


def test_no_module_of_the_package_imports_the_benchmark_the_tests_or_pytest() -> None:
    files = list(PACKAGE.rglob("*.py"))
    assert PACKAGE / "techniques" / "cache.py" in files
    forbidden = {"pytest", "_pytest", "pytest_benchmark", "bench", "tests", "conftest"}
    found = {f"{path.relative_to(PACKAGE)}: {name}" for path in files for name in imported(path.read_text("utf-8"))}
    assert [entry for entry in sorted(found) if entry.split(": ")[1] in forbidden] == []
