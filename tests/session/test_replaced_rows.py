"""What a session says of rows that stand for others."""

from dataclasses import replace

import pytest

import udaciheadline.techniques as room
from udaciheadline.session.session import Session
from udaciheadline.techniques import techniques


@pytest.mark.parametrize(
    ("asked", "said"), [("pruned", True), ("all", True), ("kv-cache", False)], ids=["by name", "all", "another"]
)
def test_what_stands_for_another_row_on_the_compiled_engine_is_said(
    session: Session, monkeypatch: pytest.MonkeyPatch, asked: str, said: bool
) -> None:
    made = techniques() | {"pruned": replace(techniques()["pruned"], counterpart="compiled")}
    monkeypatch.setattr(room, "techniques", lambda: made)
    session._option.engine, session._option.technique = "compiled", asked
    line = "On --engine compiled one row stands for another: compiled for pruned"
    assert any(note.startswith(line) for note in session._notes()) == said
