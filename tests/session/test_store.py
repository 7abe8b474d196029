import contextlib
import errno
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pandas
import pytest
from rows import ARTICLES, MEASUREMENT, OFFLINE, RECORD, SCORES, broken, curve

import udaciheadline
from udaciheadline.records import BuildInfo, Estimate, Memory, Parallel, UsageError, Verdict
from udaciheadline.session.store import Store, plain, table_row

COPY_ROUGE = {kind: Estimate(0.2 + i / 100, 0.1, 0.3) for i, kind in enumerate(SCORES.rouge)}
SKIPPED = broken("skipped", "it needs a target model: name one with --target")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def lines(store: Store) -> bytes:
    return (store.folder / "records.jsonl").read_bytes()


def rows(store: Store) -> list[dict[str, Any]]:
    """Those of all whole lines."""
    found = []
    for line in lines(store).split(b"\n"):
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


def techniques(store: Store) -> list[str]:
    return [row["technique"] for row in rows(store)]


# -- records.jsonl ---------------------------------------------------------------------------------------------------


def test_every_record_is_one_whole_line(store: Store) -> None:
    for name in ("first", "second", "third"):
        store.append(replace(RECORD, technique=name, reason="it broke\noff \u2028 there"))
    written = lines(store)
    assert written.endswith(b"\n")
    assert [json.loads(line)["technique"] for line in written.split(b"\n")[:-1]] == ["first", "second", "third"]


def test_a_record_is_read_back_with_all_that_it_holds(store: Store) -> None:
    record = replace(RECORD, memory=None, reason="Größe \u2028 ™")
    store.append(record)
    assert rows(store) == [plain(record)]


def test_a_store_goes_on_after_what_earlier_runs_wrote(store: Store) -> None:
    store.append(replace(RECORD, run="earlier"))
    later = Store(store.folder)
    later.append(replace(RECORD, run="later"))
    assert [row["run"] for row in rows(later)] == ["earlier", "later"]


def test_a_store_without_records_reads_none(store: Store) -> None:
    assert rows(store) == []


def test_a_store_makes_its_folder_and_the_folders_above_it(tmp_path: Path) -> None:
    assert Store(tmp_path / "a" / "b").folder.is_dir()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=f"--results {tmp_path / 'file' / 'results'}: .*another folder"):
        Store(tmp_path / "file" / "results")


@pytest.mark.parametrize(
    ("cut", "kept"),
    [(1, ["first", "second", "third"]), (2, ["first", "third"]), (200, ["first", "third"])],
    ids=["only the line's end is missing", "a character is missing", "half of the line is missing"],
)
def test_a_line_that_a_killed_run_left_half_written_spoils_no_other(store: Store, cut: int, kept: list[str]) -> None:
    for name in ("first", "second"):
        store.append(replace(RECORD, technique=name))
    os.truncate(store.folder / "records.jsonl", len(lines(store)) - cut)
    store.append(replace(RECORD, technique="third"))
    assert techniques(store) == kept
    assert lines(store).endswith(b"\n")


def test_a_line_cut_off_at_the_end_is_not_read(store: Store) -> None:
    store.append(RECORD)
    os.truncate(store.folder / "records.jsonl", len(lines(store)) - 10)
    assert rows(store) == []


@pytest.mark.parametrize("end", [b"", b'{"run": "2'], ids=["whole lines", "half a line"])
def test_a_write_that_never_reaches_the_disk_leaves_the_file_as_it_was(
    store: Store, monkeypatch: pytest.MonkeyPatch, end: bytes
) -> None:
    store.append(RECORD)
    with (store.folder / "records.jsonl").open("ab") as file:
        file.write(end)
    before = lines(store)

    def full(_: int) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            store.append(replace(RECORD, technique="lost"))
    assert lines(store) == before
    store.append(replace(RECORD, technique="next"))
    assert techniques(store) == ["pruned", "lost", "next"]


APPEND_WITHOUT_SPACE = """
import resource, signal, sys
from pathlib import Path
from udaciheadline.records import Record
from udaciheadline.session.store import Store

folder, room, length = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
store = Store(folder)
limit = (folder / "records.jsonl").stat().st_size + room
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    store.append(Record("run", "lost", "Lost", "error", "x" * length))
except OSError:
    print("the disk is full")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit on the size of a file")
@pytest.mark.parametrize(
    ("room", "length"),
    [(0, 10), (100, 10), (10_000, 100_000)],
    ids=["no room at all", "room for half a line", "room for more than a buffer"],
)
def test_a_full_disk_leaves_the_file_as_it_was(store: Store, room: int, length: int) -> None:
    store.append(RECORD)
    before = lines(store)
    child = subprocess.run(
        [sys.executable, "-c", APPEND_WITHOUT_SPACE, store.folder, str(room), str(length)],
        cwd=Path(udaciheadline.__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.stdout == "the disk is full\n", child.stderr
    assert lines(store) == before


WITHOUT_INTERVAL = Estimate(2.0, math.nan, math.nan)
HOLES = replace(
    RECORD,
    measurement=replace(MEASUREMENT, speed_up=WITHOUT_INTERVAL),
    speed_up_over={"baseline": WITHOUT_INTERVAL},
    build=BuildInfo(1, 1, details={"sparsity": math.nan}),
    scores=replace(SCORES, rouge1_detectable_loss=math.nan),
    verdicts=[Verdict("parity", "not judged", math.nan, 1.0, "not measured")],
    settings={"thresholds": [0.5, math.nan], "nested": {"pair": (math.nan, 1.0)}},
)


def test_what_is_not_a_number_is_null_in_the_records(store: Store) -> None:
    def refuse(constant: str) -> NoReturn:
        pytest.fail(f"{constant} is not JSON")

    store.append(HOLES)
    row = json.loads(lines(store), parse_constant=refuse)
    assert row["measurement"]["speed_up"] == {"value": 2.0, "low": None, "high": None}
    assert row["speed_up_over"]["baseline"]["low"] is None
    assert row["build"]["details"]["sparsity"] is None
    assert row["scores"]["rouge1_detectable_loss"] is None
    assert row["verdicts"][0]["measured"] is None
    assert row["settings"] == {"thresholds": [0.5, None], "nested": {"pair": [None, 1.0]}}


# -- results.csv -----------------------------------------------------------------------------------------------------


@pytest.fixture
def results(store: Store) -> pandas.DataFrame:
    """The table of a measured row, a skipped one and the copied descriptions, as text."""
    store.write_table([RECORD, SKIPPED], COPY_ROUGE)
    return pandas.read_csv(store.folder / "results.csv", dtype=str, keep_default_na=False)


@pytest.mark.parametrize("records", [[RECORD], [SKIPPED], []], ids=["a measured row", "only a skipped row", "no row"])
def test_the_first_columns_are_the_notebooks(store: Store, records: list[Any]) -> None:
    store.write_table(records, COPY_ROUGE)
    header = (store.folder / "results.csv").read_text().splitlines()[0]
    notebook = "Optimization Technique,Avg Latency,P99 Latency,Throughput,Max GPU Memory,rouge1,rouge2,rougeL,rougeLsum"
    assert f"{header},".startswith(f"{notebook},")


def test_a_measured_row_has_the_notebooks_figures_in_its_units(results: pandas.DataFrame) -> None:
    row = results.iloc[0]
    assert row["Optimization Technique"] == "Magnitude Unstructured Pruning"
    seconds = (row["Avg Latency"], row["P99 Latency"])
    assert [float(value) for value in (*seconds, row["Throughput"])] == [0.125, 0.25, 8.0]
    assert [float(row[kind]) for kind in ("rouge1", "rouge2", "rougeL", "rougeLsum")] == [0.5, 0.51, 0.52, 0.53]


def test_an_offline_row_fills_the_notebooks_throughput_and_leaves_its_latencies_empty(store: Store) -> None:
    store.write_table([OFFLINE], COPY_ROUGE)
    row = pandas.read_csv(store.folder / "results.csv", dtype=str, keep_default_na=False).iloc[0]
    assert (row["Avg Latency"], row["P99 Latency"], row["Throughput"]) == ("", "", "80.0")
    assert row["rouge1"] == "0.5"
    assert row["throughput.limit_per_second"] == "320.0"


@pytest.mark.parametrize("engine", ["transformers", "compiled"])
def test_a_column_names_the_engine(engine: str) -> None:
    assert table_row(replace(RECORD, engine=engine))["engine"] == engine


@pytest.mark.parametrize(
    ("devices", "mebibytes"),
    [((3 * 2**20,), 3.0), ((3 * 2**20, 2**20), 4.0), ((), None)],
    ids=["one GPU", "two GPUs", "CPU"],
)
def test_gpu_memory_is_in_mebibytes_of_all_gpus_and_missing_without_one(
    devices: tuple[int, ...], mebibytes: float | None
) -> None:
    row = table_row(replace(RECORD, memory=Memory(devices, devices, 2**30)))
    assert row.get("Max GPU Memory") == mebibytes


def test_a_measured_row_has_all_the_rest_behind(results: pandas.DataFrame) -> None:
    row = results.iloc[0]
    expected = {
        "technique": "pruned",
        "status": "ok",
        "measurement.speed_up.low": "1.9",
        "speed_up_over.baseline.value": "3.0",
        "throughput.batch_size": "16.0",
        "memory.host_peak_bytes": str(700.0 * 2**20),
        "build.weights_bytes": str(3.0 * 2**20),
        "scores.rouge_difference.rouge1.low": "-0.06",
        "gates": "rouge1:pass work:pass",
    }
    assert {name: row[name] for name in expected} == expected


def test_a_curve_has_columns_by_the_number_of_articles_at_a_time() -> None:
    row = table_row(replace(RECORD, batch_curve=curve(2.0, 6.0, left_out=((16, "too long"),))))
    assert (row["batch_curve.1.headlines_per_second"], row["batch_curve.4.headlines_per_second"]) == (2.0, 6.0)
    assert row["batch_curve.left_out"] == "16: too long"
    assert "batch_curve.left_out" not in table_row(RECORD)


def test_a_parallel_row_has_the_figures_of_each_rank() -> None:
    parallel = Parallel("gloo", (20, 30), (50, None), (0.25, 0.5), (0.125, 0.0), layers=(2, 1))
    row = table_row(replace(RECORD, parallel=parallel))
    assert (row["parallel.backend"], row["parallel.weights_bytes"]) == ("gloo", (20, 30))
    assert (row["parallel.communication_share"], row["parallel.layers"]) == ((0.25, 0.5), (2, 1))
    assert not any(name.startswith("parallel") for name in table_row(RECORD))


def test_a_row_that_broke_off_says_why_and_has_no_figures(results: pandas.DataFrame) -> None:
    row = results.iloc[1]
    assert (row["technique"], row["status"]) == ("speculative", "skipped")
    assert row["reason"] == "it needs a target model: name one with --target"
    assert {row[name] for name in ("Avg Latency", "P99 Latency", "Throughput", "rouge1")} == {""}


def test_the_last_row_is_that_of_copying_the_description(results: pandas.DataFrame) -> None:
    assert len(results) == 3
    filled = {name: value for name, value in results.iloc[-1].items() if value != ""}
    assert filled.pop("Optimization Technique") == "Copy the description"
    assert {kind: float(value) for kind, value in filled.items()} == {k: e.value for k, e in COPY_ROUGE.items()}


def test_what_is_not_a_number_is_missing_in_the_table() -> None:
    holes = [name for name, value in table_row(HOLES).items() if isinstance(value, float) and math.isnan(value)]
    assert holes == []


# -- headlines.csv ---------------------------------------------------------------------------------------------------

MADE = {
    "Baseline": ["Plain", 'With "quotes", and a comma'],
    "Quantised 8bit": ["Two\nlines", "Größe — ™"],
}


@pytest.fixture
def headlines(store: Store) -> pandas.DataFrame:
    store.write_headlines(ARTICLES[:2], MADE)
    return pandas.read_csv(store.folder / "headlines.csv", keep_default_na=False, encoding="utf-8")


def test_headlines_stand_beside_the_article_and_the_true_headline(headlines: pandas.DataFrame) -> None:
    assert list(headlines) == ["article", "reference", "Baseline", "Quantised 8bit"]
    assert list(headlines["article"]) == ["Description of article 0.", "Description of article 1."]
    assert list(headlines["reference"]) == ["True headline 0", "True headline 1"]


@pytest.mark.parametrize("title", MADE)
def test_headlines_come_back_as_they_were_made(headlines: pandas.DataFrame, title: str) -> None:
    assert list(headlines[title]) == MADE[title]


def test_both_tables_show_the_latest_state_and_nothing_else_is_left_behind(store: Store) -> None:
    for records in ([RECORD, SKIPPED], [SKIPPED]):
        store.write_table(records, COPY_ROUGE)
        store.write_headlines(ARTICLES[: len(records)], {})
    assert len(pandas.read_csv(store.folder / "results.csv")) == 2
    assert len(pandas.read_csv(store.folder / "headlines.csv")) == 1
    assert sorted(path.name for path in store.folder.iterdir()) == ["headlines.csv", "records.jsonl", "results.csv"]


def test_a_table_that_cannot_be_written_leaves_the_one_before(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write_table([RECORD], COPY_ROUGE)
    before = (store.folder / "results.csv").read_bytes()
    write_text = Path.write_text

    def half(path: Path, text: str, *args: Any) -> NoReturn:
        write_text(path, text[: len(text) // 2], *args)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="No space left"):
        store.write_table([RECORD, SKIPPED], COPY_ROUGE)
    assert (store.folder / "results.csv").read_bytes() == before
    assert sorted(path.name for path in store.folder.iterdir()) == ["records.jsonl", "results.csv"]
