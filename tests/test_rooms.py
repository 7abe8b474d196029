"""The rooms of the package: imports run one way, and what a room keeps to itself nobody else imports."""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

import udaciheadline

PACKAGE = Path(udaciheadline.__file__).parent
FLOORS = (
    ("writing",),
    ("session",),
    ("report", "workers"),
    ("evidence",),
    ("techniques",),
    ("engines",),
    ("checkpoints",),
    ("data",),
    ("records",),
)
"""From the top: a room imports from the floors below its own."""
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
ROOMS = [room for room in FLOOR if room != "records"]


def of(room: str) -> list[Path]:
    """The files of a room."""
    return [PACKAGE / "records.py"] if room == "records" else sorted((PACKAGE / room).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Every room that a file imports from, inside functions too, each with the name that it takes there."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: {node.module}: name the package"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, room, taken = [*name.split(".", 2), "", ""][:3]
            if package == "udaciheadline" and room in FLOOR:
                yield room, taken


def test_every_folder_of_the_package_is_a_room() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(ROOMS)


@pytest.mark.parametrize("room", FLOOR)
def test_imports_run_down_the_floors(room: str) -> None:
    files = of(room)
    assert files
    back = {
        f"{path.relative_to(PACKAGE)} -> {other}"
        for path in files
        for other, _ in imports(path)
        if other != room and FLOOR[other] <= FLOOR[room]
    }
    assert back == set()


@pytest.mark.parametrize("room", ROOMS)
def test_others_take_from_a_room_what_it_names(room: str) -> None:
    named = importlib.import_module(f"udaciheadline.{room}").__all__
    others = {*PACKAGE.rglob("*.py"), PACKAGE.parent / "conftest.py", *(PACKAGE.parent / "bench").glob("*.py")}
    taken = {
        f"{path.name}: {name}"
        for path in others.difference(of(room))
        for other, name in imports(path)
        if other == room and name.partition(".")[0] not in named
    }
    assert taken == set()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_is_for_and_names_what_it_has(room: str) -> None:
    module = importlib.import_module(f"udaciheadline.{room}")
    for name in module.__all__:
        assert f"`{name}`" in (module.__doc__ or "")
        assert hasattr(module, name) or importlib.util.find_spec(f"udaciheadline.{room}.{name}")
