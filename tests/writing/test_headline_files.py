"""What a line is, and how a file of them is gone on with, whatever the interruption left."""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fake_jobs import OWN

from udaciheadline.records import UsageError
from udaciheadline.writing.headlines import Csv, HeadlineFile, JsonLines, Layout, Stream

ROWS: list[dict[str, Any]] = [
    {"id": 1, "text": 'Rain, "wind"\nand snow'},
    {"id": 2, "text": ""},
    {"id": 3, "text": "café \r here"},
    {"id": 4, "text": "a\\b"},
]
LAYOUTS: dict[str, Layout] = {"jsonl": JsonLines(OWN), "csv": Csv(OWN, ["id", "text"])}
SETTINGS = {"--model": "m"}


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Layout:
    return LAYOUTS[request.param]


def lines(layout: Layout) -> list[bytes]:
    """Those of all rows; a headline may have a line break in it."""
    return [layout.line(layout.head(row), f'"H"\n{row["id"]}', None) for row in ROWS]


def heads(layout: Layout, rows: list[dict[str, Any]] = ROWS) -> Iterator[str]:
    return map(layout.head, rows)


def begun(path: Path, layout: Layout, content: bytes | None = None) -> bytes:
    """A job that was interrupted when so much of it was written (None: all of it); what it would have written."""
    with closing(HeadlineFile(path, SETTINGS)) as file:
        file.resume(layout, iter(()))
    whole = layout.header() + b"".join(lines(layout))
    path.write_bytes(whole if content is None else content)
    return whole


def test_a_json_line_is_the_article_with_headline_and_error() -> None:
    layout = JsonLines(OWN)
    assert json.loads(layout.line(layout.head(ROWS[0]), "H", None)) == ROWS[0] | dict(
        zip(OWN, ("H", None), strict=True)
    )
    assert json.loads(layout.line(layout.head({}), None, "why")) == {OWN[0]: None, OWN[1]: "why"}


def test_half_of_a_surrogate_pair_stays_what_it_was_in_json() -> None:
    layout = JsonLines(OWN)
    assert json.loads(layout.line(layout.head({"text": "\ud83d"}), "H", None))["text"] == "\ud83d"


def test_a_csv_file_is_read_by_others_as_it_was_meant() -> None:
    layout = LAYOUTS["csv"]
    text = (layout.header() + b"".join(lines(layout))).decode()
    found = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [(row["id"], row["text"]) for row in found] == [(str(row["id"]), row["text"]) for row in ROWS]
    assert found[0] == {"id": "1", "text": ROWS[0]["text"], OWN[0]: '"H"\n1', OWN[1]: ""}


def test_what_is_not_text_is_written_to_csv_as_in_json() -> None:
    layout = Csv(OWN, ["a", "b", "c", "d"])
    row = {"a": True, "b": None, "c": [1, "é"], "d": 1.5}
    assert next(csv.reader([layout.head(row)]))[:4] == ["true", "", '[1, "é"]', "1.5"]


def test_columns_that_a_csv_header_lacks_are_told() -> None:
    assert Csv(OWN, ["id"]).left_out({"id": 1, "more": 2}) == ["more"]
    assert JsonLines(OWN).left_out({"id": 1, "more": 2}) == []


def test_a_file_cut_off_anywhere_is_gone_on_with_to_the_same_bytes(layout: Layout, tmp_path: Path) -> None:
    path = tmp_path / "h"
    whole = begun(path, layout)
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        with closing(HeadlineFile(path, SETTINGS)) as file:
            expected = heads(layout)
            done = file.resume(layout, expected)
            assert len(list(expected)) == len(ROWS) - done
            file.append(b"".join(lines(layout)[done:]))
        assert path.read_bytes() == whole


def test_a_file_that_is_done_has_no_note_and_is_not_written_again(layout: Layout, tmp_path: Path) -> None:
    path = tmp_path / "h"
    with closing(HeadlineFile(path, SETTINGS)) as file:
        file.resume(layout, heads(layout))
        file.append(b"".join(lines(layout)))
        file.finish()
    assert [p.name for p in tmp_path.iterdir()] == ["h"]
    with pytest.raises(UsageError, match=r"h: it exists, and no job is to be gone on with there: .*--overwrite$"):
        HeadlineFile(path, SETTINGS)


def test_other_settings_are_refused_with_what_is_different(layout: Layout, tmp_path: Path) -> None:
    whole = begun(tmp_path / "h", layout)
    with pytest.raises(UsageError, match="it was begun with --model m instead of n: give that, or"):
        HeadlineFile(tmp_path / "h", {"--model": "n"})
    assert (tmp_path / "h").read_bytes() == whole


@pytest.mark.parametrize("rows", [ROWS[1:], ROWS[:2], []])
def test_lines_of_other_articles_are_refused(rows: list[dict[str, Any]], layout: Layout, tmp_path: Path) -> None:
    whole = begun(tmp_path / "h", layout)
    with (
        closing(HeadlineFile(tmp_path / "h", SETTINGS)) as file,
        pytest.raises(UsageError, match=f"headline {len(rows) + 1 if rows == ROWS[:2] else 1} in it is of another"),
    ):
        file.resume(layout, heads(layout, rows))
    assert (tmp_path / "h").read_bytes() == whole


def test_other_columns_are_refused(tmp_path: Path) -> None:
    begun(tmp_path / "h", LAYOUTS["csv"])
    with (
        closing(HeadlineFile(tmp_path / "h", SETTINGS)) as file,
        pytest.raises(UsageError, match="it has other columns"),
    ):
        file.resume(Csv(OWN, ["text"]), iter(()))


def test_overwriting_begins_anew_with_other_settings(layout: Layout, tmp_path: Path) -> None:
    begun(tmp_path / "h", layout)
    with closing(HeadlineFile(tmp_path / "h", {"--model": "n"}, overwrite=True)) as file:
        assert file.resume(layout, heads(layout)) == 0
    assert (tmp_path / "h").read_bytes() == layout.header()


def test_nothing_is_overwritten_before_the_first_line_can_be_written(layout: Layout, tmp_path: Path) -> None:
    whole = begun(tmp_path / "h", layout)
    HeadlineFile(tmp_path / "h", SETTINGS, overwrite=True).close()
    assert (tmp_path / "h").read_bytes() == whole


def test_a_job_that_writes_nothing_leaves_no_file(tmp_path: Path) -> None:
    HeadlineFile(tmp_path / "h", SETTINGS).close()
    assert list(tmp_path.iterdir()) == []


def test_two_jobs_do_not_write_one_file(tmp_path: Path) -> None:
    with closing(HeadlineFile(tmp_path / "h", SETTINGS)), pytest.raises(UsageError, match="another job is writing it"):
        HeadlineFile(tmp_path / "h", SETTINGS)


def test_the_batch_size_that_was_found_is_known_to_the_job_that_goes_on(layout: Layout, tmp_path: Path) -> None:
    with closing(HeadlineFile(tmp_path / "h", SETTINGS)) as file:
        file.resume(layout, heads(layout))
        file.append(lines(layout)[0])
        file.remember(64)
    with closing(HeadlineFile(tmp_path / "h", SETTINGS)) as file:
        assert file.batch_size == 64


def test_a_write_that_fails_half_way_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(HeadlineFile(tmp_path / "h", SETTINGS)) as file:
        file.resume(JsonLines(OWN), iter(()))
        file.append(b"{}\n")
        full = OSError(28, "No space left on device")
        monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(full))
        with pytest.raises(UsageError, match=r"No space left on device.*the same command again"):
            file.append(b'{"half": \n')
        assert (tmp_path / "h").read_bytes() == b"{}\n"


@pytest.mark.parametrize("note", ["", "[]", '{"settings": 3, "batch_size": null}', "{"])
def test_a_note_that_cannot_be_read_is_told(note: str, tmp_path: Path) -> None:
    begun(tmp_path / "h", JsonLines(OWN))
    (tmp_path / "h.job.json").write_text(note)
    with pytest.raises(UsageError, match=r"h\.job\.json: it is no job's note that can be read"):
        HeadlineFile(tmp_path / "h", SETTINGS)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it cannot be written"):
        HeadlineFile(tmp_path / "no" / "h", SETTINGS)


class Full(io.BytesIO):
    def flush(self) -> None:
        raise self.error

    error: OSError = OSError(28, "No space left on device")


def test_standard_output_that_has_no_room_is_told_and_a_reader_who_left_is_not() -> None:
    with pytest.raises(UsageError, match=r"^standard output: it cannot be written \(No space left on device\)"):
        Stream(Full()).append(b"{}\n")
    gone = Full()
    gone.error = BrokenPipeError()
    with pytest.raises(BrokenPipeError):
        Stream(gone).append(b"{}\n")
