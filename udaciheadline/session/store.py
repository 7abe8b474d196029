"""What a run leaves behind: records as JSON lines, a table as CSV, and all headlines side by side.

`records.jsonl` is append-only and holds every run: each row is one line, written and flushed as soon as its technique
ends, so a fault loses at most the row in progress; `sessions.jsonl` has a line for each run that came to its end, and
`articles.jsonl` one for each choice of articles, by the fingerprint that the records name, so that no row repeats their
texts. The two CSV files show the latest run and are replaced whole. A row that found no room is written with the next
one, and a folder that was removed meanwhile is made anew, with the rows of this run.
"""

import contextlib
import fcntl
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from udaciheadline.records import Article, Estimate, Record, UsageError
from udaciheadline.report.table import COPY_TITLE

RECORDS, SESSIONS, ARTICLES = "records.jsonl", "sessions.jsonl", "articles.jsonl"
# The notebook's columns, in its order and units: seconds, headlines a second, MiB.
NOTEBOOK_COLUMNS = (
    "Optimization Technique",
    "Avg Latency",
    "P99 Latency",
    "Throughput",
    "Max GPU Memory",
    "rouge1",
    "rouge2",
    "rougeL",
    "rougeLsum",
)


class Store:
    """A folder of results, made where it is missing. Raises UsageError where it cannot be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rows: list[Any] = []  # of this run
        self._written = 0  # the first so many of them are in the file
        self._kept = ""  # the fingerprint of the articles that are
        try:
            self._make(self._records)
        except OSError as error:
            raise UsageError(
                f"--results {folder}: it cannot be written ({error.strerror}): give another folder"
            ) from error

    @property
    def _records(self) -> Path:
        return self.folder / RECORDS

    def append(self, record: Record) -> None:
        """Adds one row. A write that fails half-way (a full disk) is taken back, so the file stays whole lines; the row
        is then tried again with the next one, and at the end. Raises OSError."""
        self._rows.append(plain(record))
        self.write_rows()

    def end(self, run: str, exit_status: int) -> None:
        """Notes in `sessions.jsonl` that a run came to its end, and with which exit status: one that was cut off before
        has no such line, and cannot be promoted. Raises OSError."""
        path = self.folder / SESSIONS
        self._make(path)
        self._append(path, {"run": run, "exit_status": exit_status})

    def write_rows(self) -> None:
        """Writes those of this run that are not in the file, all of them where it is gone. Raises OSError."""
        if not self._records.exists():
            self._make(self._records)
            self._written = 0
        for row in self._rows[self._written :]:
            self._append(self._records, row)
            self._written += 1

    def keep_articles(self, fingerprint: str, articles: Sequence[Article]) -> None:
        """Adds the texts of these articles to `articles.jsonl`, unless an earlier run has. Raises OSError."""
        path = self.folder / ARTICLES
        if fingerprint == self._kept and path.exists():  # it is called with every row
            return
        self._make(path)
        with path.open(encoding="utf-8", errors="replace") as file:
            is_there = any(line.startswith(_opening(fingerprint)) for line in file)
        if not is_there:
            texts = [[article.short_description, article.headline] for article in articles]
            self._append(path, {"fingerprint": fingerprint, "articles": texts})
        self._kept = fingerprint

    def _make(self, path: Path) -> None:
        """An empty file in this folder, where there is none."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass

    def _append(self, path: Path, entry: Any) -> None:
        line = json.dumps(entry, allow_nan=False).encode() + b"\n"
        with path.open("r+b", buffering=0) as file:  # unbuffered: nothing is left to be written on close
            fcntl.flock(file, fcntl.LOCK_EX)  # another session may write there: it is released with the file
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":  # a run that was killed while it wrote
                    line = b"\n" + line
            try:
                while line:
                    line = line[file.write(line) :]
                os.fsync(file.fileno())
            except BaseException:  # Ctrl-C too
                file.truncate(end)
                raise

    def write_table(self, records: Sequence[Record], copy_rouge: Mapping[str, Estimate]) -> None:
        """`results.csv`: the rows of this run, the notebook's columns first, and the row of copying the description."""
        import pandas

        rows = [table_row(record) for record in records]
        rows.append({NOTEBOOK_COLUMNS[0]: COPY_TITLE} | {kind: e.value for kind, e in copy_rouge.items()})
        columns = dict.fromkeys(NOTEBOOK_COLUMNS) | dict.fromkeys(name for row in rows for name in row)
        replace_file(self.folder / "results.csv", pandas.DataFrame(rows, columns=list(columns)).to_csv(index=False))

    def write_headlines(self, articles: Sequence[Article], headlines: Mapping[str, Sequence[str]]) -> None:
        """`headlines.csv`: description, true headline, and what each technique wrote; nothing where it was not
        measured."""
        import pandas

        columns = {
            "article": [article.short_description for article in articles],
            "reference": [article.headline for article in articles],
            **{title: [*made, *[""] * (len(articles) - len(made))] for title, made in headlines.items()},
        }
        replace_file(self.folder / "headlines.csv", pandas.DataFrame(columns).to_csv(index=False))


def replace_file(path: Path, text: str) -> None:
    """Writes a file whole or not at all: where that fails, what was there stays, and nothing else. Raises OSError."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(text, "utf-8")
        unfinished.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise


def articles(folder: Path, fingerprint: object) -> list[Article] | None:
    """Description and headline of the articles of this fingerprint, as `keep_articles` has kept them in a folder of
    results; None where it has not, or its line is damaged."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        with (folder / ARTICLES).open(encoding="utf-8") as file:
            line = next((line for line in file if line.startswith(_opening(fingerprint))), "")
        return [Article(str(headline), str(description)) for description, headline in json.loads(line)["articles"]]
    return None


def _opening(fingerprint: object) -> str:
    """How the line of this fingerprint begins: lines of others need not be parsed."""
    return json.dumps({"fingerprint": fingerprint, "articles": ""}).removesuffix('""}')


def table_row(record: Record) -> dict[str, Any]:
    """A record as one flat row: the notebook's columns, then ours; what was not measured is missing."""
    row: dict[str, Any] = {NOTEBOOK_COLUMNS[0]: record.title}
    if (m := record.measurement) is not None:
        row |= {"Avg Latency": m.average_seconds, "P99 Latency": m.p99_seconds, "Throughput": m.headlines_per_second}
    elif record.throughput:  # an offline row has no latency
        row["Throughput"] = record.throughput.headlines_per_second
    if record.memory and record.memory.device_allocated_peak_bytes:
        row["Max GPU Memory"] = sum(record.memory.device_allocated_peak_bytes) / 2**20
    if (s := record.scores) is not None:
        row |= {kind: estimate.value for kind, estimate in s.rouge.items()}
    row |= {"technique": record.technique, "status": record.status, "reason": record.reason, "run": record.run}
    row["engine"] = record.engine
    row |= _flat("measurement", record.measurement and asdict(record.measurement))
    row |= _flat("speed_up_over", {name: asdict(estimate) for name, estimate in record.speed_up_over.items()})
    row |= _flat("throughput", record.throughput and asdict(record.throughput))
    if (curve := record.batch_curve) is not None:
        row |= _flat("batch_curve", {str(point.batch_size): asdict(point) for point in curve.points})
        row["batch_curve.left_out"] = "; ".join(f"{size}: {why}" for size, why in curve.left_out)
    row |= _flat("memory", record.memory and asdict(record.memory))
    row |= _flat("energy", record.energy and asdict(record.energy))
    row |= _flat("parallel", record.parallel and asdict(record.parallel))
    row |= _flat("build", {"seconds": record.build_seconds} | (asdict(record.build) if record.build else {}))
    row |= _flat("scores", record.scores and asdict(record.scores))
    row |= _flat("job_scores", record.job_scores and asdict(record.job_scores))
    row["disturbances"] = "; ".join(record.disturbances)
    row["gates"] = " ".join(f"{v.gate}:{v.status}" for v in record.verdicts)
    return row


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    """Nested dictionaries as one, with dotted keys; None and NaN are left out."""
    if isinstance(value, dict):
        return {name: v for key, inner in value.items() for name, v in _flat(f"{prefix}.{key}", inner).items()}
    return {} if value is None or value != value else {prefix: value}


def plain(value: Any) -> Any:
    """The value (of a dataclass, as dictionaries) with NaN and infinity as None: JSON has neither."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
