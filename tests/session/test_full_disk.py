"""What a session does where it cannot write: disks that are full, folders that are gone."""

import errno
import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from fake_workers import ONLINE, FakeWorker, row_of
from rows import RECORD

from udaciheadline.records import UsageError
from udaciheadline.session import saved
from udaciheadline.session.row import Row
from udaciheadline.session.runs import latest, promote
from udaciheadline.session.session import Session
from udaciheadline.session.store import Store
from udaciheadline.techniques import techniques


def no_room(*_: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def measured(session: Session, name: str) -> Row:
    row = Row(session.run, techniques()[name])
    row.finish_rounds()
    return row


def kept(session: Session) -> list[str]:
    return [record.technique for record in latest(session.store.folder)]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- a row ------------------------------------------------------------------------------------------------------------


def test_a_row_that_finds_no_room_is_one_sentence_and_is_written_with_the_next_one(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = measured(session, "kv-cache")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_room)
        with pytest.raises(UsageError, match=r"results: kv-cache cannot be written \(No space left on device\): make"):
            session.keep(row)
    assert row.extra_info["status"] == "ok"  # pytest-benchmark may still save it
    session.keep(measured(session, "pruned"))
    assert kept(session) == ["kv-cache", "pruned"]


def test_a_row_that_finds_no_room_is_tried_again_in_the_end(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_room)
        with pytest.raises(UsageError):
            session.keep(measured(session, "kv-cache"))
    assert session.end(1) == 1
    assert kept(session) == ["kv-cache"]
    tables = {"articles.jsonl", "headlines.csv", "records.jsonl", "results.csv", "sessions.jsonl"}
    assert tables <= {*files(session.store.folder)}


@pytest.mark.parametrize("file", ["results.csv", "headlines.csv"])
def test_a_table_that_finds_no_room_is_one_sentence_and_leaves_the_row(
    session: Session, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    write = Path.write_text

    def write_text(path: Path, *args: Any) -> int:
        return no_room() if file in path.name else write(path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", write_text)
        with pytest.raises(UsageError, match="kv-cache cannot be written"):
            session.keep(measured(session, "kv-cache"))
    assert kept(session) == ["kv-cache"]
    assert session.end(1) == 1
    assert file in files(session.store.folder)


def test_ctrl_c_while_a_row_is_written_takes_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.append(RECORD)
    before = (tmp_path / "records.jsonl").read_bytes()

    def interrupted(_: int) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.append(replace(RECORD, technique="later"))
    assert (tmp_path / "records.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "then", [lambda s: s.keep(measured(s, "pruned")), lambda s: s.end(0)], ids=["a row", "the end"]
)
def test_a_folder_of_results_that_is_removed_is_made_anew_with_all_rows_of_the_run(
    session: Session, then: Callable[[Session], None]
) -> None:
    session.keep(measured(session, "kv-cache"))
    for path in session.store.folder.iterdir():
        path.unlink()
    session.store.folder.rmdir()
    then(session)
    assert kept(session)[0] == "kv-cache"
    assert {"headlines.csv", "records.jsonl", "results.csv"} <= set(files(session.store.folder))


def test_sessions_that_write_into_one_folder_at_once_leave_whole_lines(tmp_path: Path) -> None:
    stores = [Store(tmp_path) for _ in range(4)]

    def write(store: Store) -> None:
        for i in range(25):
            store.append(replace(RECORD, technique=f"row {i}", reason="x" * 20_000))

    threads = [threading.Thread(target=write, args=[store]) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = (tmp_path / "records.jsonl").read_text("utf-8").splitlines()
    assert sorted(json.loads(line)["technique"] for line in lines) == sorted(
        f"row {i}" for i in range(25) for _ in stores
    )


# -- the end ----------------------------------------------------------------------------------------------------------


def test_an_end_that_finds_no_room_is_a_sentence_under_the_table_and_exit_status_1(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.keep(measured(session, "kv-cache"))
    monkeypatch.setattr(os, "fsync", no_room)
    assert session.end(0) == 1
    said = session.summary()["techniques"]
    assert f"{session.store.folder}: the end of this run cannot be written (No space left on device)." in said


def test_runs_that_pytest_benchmark_cannot_save_are_a_sentence_and_leave_no_half_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "0001_good.json").write_text("{}", "utf-8")

    def save() -> None:
        (tmp_path / "0002_half.json").write_text('{"bench', "utf-8")
        no_room()

    class Storage:
        def __str__(self) -> str:
            return "results"

        def query(self, glob: str) -> list[Path]:
            return list(tmp_path.glob(glob))

    benchmarks, warnings = SimpleNamespace(storage=Storage(), handle_saving=save), list[str]()
    saved.keep_on(benchmarks, warnings)
    benchmarks.handle_saving()
    assert warnings == ["results: pytest-benchmark cannot save there (No space left on device)."]
    assert files(tmp_path) == ["0001_good.json"]


def test_what_pytest_benchmark_could_not_save_is_exit_status_1(session: Session) -> None:
    session.warnings.append("results: pytest-benchmark cannot save there (No space left on device).")
    session.keep(measured(session, "kv-cache"))
    assert session.end(0) == 1
    assert session.warnings[0] in session.summary()["techniques"]


# -- traces and baselines ---------------------------------------------------------------------------------------------


def test_a_trace_that_finds_no_room_is_one_sentence_and_costs_no_row(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = "profile/online.json.gz: the trace cannot be written (No space left on device)"
    monkeypatch.setattr(worker, "profile", lambda *_: ("aten::mm", [], said))
    row = row_of(ONLINE)
    with pytest.raises(UsageError, match=r"the trace cannot be written \(No space left on device\)$"):
        row.profile(tmp_path)
    row.finish_rounds()
    assert row.record().status == "ok"
    assert row.record().measurement is not None


def test_a_table_of_operators_that_finds_no_room_costs_no_row_either(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Path, "write_text", no_room)
    row = row_of(ONLINE)
    with pytest.raises(UsageError, match=r"online\.txt: the profile cannot be written \(No space left on device\)$"):
        row.profile(tmp_path)
    assert row.status == "ok"


def test_a_promotion_that_finds_no_room_leaves_the_baseline_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "results")
    store.append(RECORD)
    store.end(RECORD.run, 0)
    path = promote(None, tmp_path / "results", tmp_path / "baselines")
    before, write = path.read_bytes(), Path.write_text

    def half(path: Path, text: str, *args: Any) -> NoReturn:
        write(path, text[: len(text) // 2], *args)
        no_room()

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(UsageError, match=r"cannot be written \(No space left on device\): give another --baselines"):
        promote(None, tmp_path / "results", tmp_path / "baselines")
    assert path.read_bytes() == before
    assert files(path.parent) == [path.name]
