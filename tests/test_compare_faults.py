"""`udaciheadline compare`, whatever the files hold: an answer or one sentence."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from rows import OFFLINE, RECORD

from udaciheadline.cli import FORMATS, main
from udaciheadline.records import OtherCode
from udaciheadline.session.store import plain

OTHER = OtherCode((0.1,) * 8, (), (0.5,) * 8, (0.5,) * 8, (1.75,) * 8, 3 * 2**20)
BESIDE = replace(RECORD, other_code=OTHER, settings={**RECORD.settings, "against": "../main"})
LINES = "\n".join(json.dumps(plain(record)) for record in (BESIDE, OFFLINE)).encode()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


LIKE = {float: st.floats() | st.floats(-10, 10), int: st.integers(0, 100) | st.integers(), str: st.text(max_size=8)}


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """The lines of a run with some values changed into others of their type, one into anything, or some bytes; or as
    they were."""
    kind = draw(st.sampled_from(("like", "like", "like", "like", "like", "any", "bytes", "nothing")))
    if kind == "bytes":
        at = draw(st.integers(0, len(LINES) - 1))
        return LINES[:at] + draw(st.binary(max_size=4)) + LINES[at + draw(st.integers(0, 40)) :]
    rows = [json.loads(line) for line in LINES.split(b"\n")]
    for _ in range({"like": draw(st.integers(1, 4)), "any": 1}.get(kind, 0)):
        place: Any = draw(st.sampled_from(rows))
        while True:
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            if isinstance(place[key], dict | list) and place[key] and (kind == "like" or draw(st.integers(0, 3))):
                place = place[key]
                continue
            place[key] = draw(LIKE.get(type(place[key]), st.just(place[key])) if kind == "like" else JSON)
            break
    return "\n".join(map(json.dumps, rows)).encode("utf-8", "surrogatepass")


@settings(max_examples=max(150, settings().max_examples))
@given(mutated(), mutated(), st.sampled_from(FORMATS))
def test_any_two_files_are_compared_or_refused_in_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, before: bytes, after: bytes, form: str
) -> None:
    folder = tmp_path_factory.getbasetemp()
    paths = [folder / "before.jsonl", folder / "after.jsonl"]
    for path, content in zip(paths, (before, after), strict=True):
        path.write_bytes(content)
    printed, complained = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    with redirect_stdout(printed), redirect_stderr(complained):
        code = main(["compare", *map(str, paths), "--format", form])
    out, error = (stream.detach().getvalue().decode() for stream in (printed, complained))
    event(f"exit status {code}")
    check(code, out, error, form)


@settings(max_examples=max(150, settings().max_examples))
@given(mutated(), st.sampled_from(FORMATS))
def test_any_file_of_a_run_beside_other_code_is_compared_or_refused_in_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, run: bytes, form: str
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "records.jsonl").write_bytes(run)
    printed, complained = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    with redirect_stdout(printed), redirect_stderr(complained):
        code = main(["compare", "--results", str(folder), "--format", form])
    event(f"exit status {code}")
    check(code, *(stream.detach().getvalue().decode() for stream in (printed, complained)), form)


def check(code: int, out: str, error: str, form: str) -> None:
    if code == 4:
        assert (out, error.count("\n")) == ("", 1)
        assert error.startswith("udaciheadline: ")
    else:
        assert (code in (0, 1), error) == (True, "")
        assert out.startswith({"text": "technique", "markdown": "## ", "json": "{"}[form])


def test_what_the_terminal_has_no_character_for_is_printed_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(plain(RECORD) | {"technique": "\ud800"}), "utf-8")
    printed = io.TextIOWrapper(io.BytesIO(), "ascii")
    with redirect_stdout(printed):
        assert main(["compare", str(path), str(path)]) == 0
    assert b"\\ud800" in printed.detach().getvalue()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no /dev/full")
def test_a_comparison_that_finds_no_room_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(plain(RECORD)), "utf-8")
    with Path("/dev/full").open("w") as full, redirect_stdout(full):
        assert main(["compare", str(path), str(path)]) == 4
    said = "udaciheadline: what was found cannot be printed (No space left on device)\n"
    assert capsys.readouterr().err == said


def test_a_name_that_no_file_can_have_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "x" * 5000, "x" * 5000]) == 4
    said = capsys.readouterr().err
    assert said == f"udaciheadline: {'x' * 40}: it cannot be looked for (File name too long): name a run\n"
