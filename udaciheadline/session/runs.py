"""Runs of earlier sessions: found, read and promoted to a baseline, with which later ones are compared.

A run is named as its user knows it: by a records file (`.jsonl`, of several runs its latest), a file that
pytest-benchmark has saved (`.json`), a folder (of results: its latest run; of baselines: the one that fits), or a run's
name in the folder of results.

Whatever such a file holds, it is read into `Record`s or refused in one sentence: cattrs checks every field's type.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from udaciheadline.evidence.compare import SETTINGS, gpu_kind
from udaciheadline.records import OtherCode, PerArticle, Record, UsageError
from udaciheadline.session.store import RECORDS, SESSIONS, plain, replace_file

MOST = 1e6  # of logarithms, scores and seconds: sums of their squares are numbers, too
Run = list[Record]
"""The rows of one run."""


def load(reference: str, results: Path, like: Run | None = None) -> Run:
    """The rows of the run that a user names so, beside those in the folder `results`; of a folder of baselines, the
    one for the settings and GPU of the run `like`. Raises UsageError."""
    path = Path(reference)
    try:
        path.exists()
    except OSError as error:  # a name that no file can have
        raise UsageError(f"{reference:.40}: it cannot be looked for ({error.strerror}): name a run") from None
    if path.is_dir():
        if (path / RECORDS).exists():
            return latest(path)
        if like is None:
            raise UsageError(f"{path}: there is no {RECORDS} in this folder: name one that a run was written to")
        path = path / baseline_name(like)
        if not path.exists():
            raise UsageError(
                f"{path}: there is no baseline for these settings and this device: promote a run with "
                "`udaciheadline baseline promote`"
            )
    if path.is_file():
        return _saved(path) if path.suffix == ".json" else _last(_entries(path), path)
    rows = _of(reference, _entries(results / RECORDS, cut_off=True))
    if not rows:
        raise UsageError(f"{reference}: this is neither a file, nor a folder, nor a run in {results}: name one of them")
    return _structure(rows, results / RECORDS)


def latest(results: Path) -> Run:
    """The rows of the latest run in a folder of results. Raises UsageError."""
    return _last(_entries(results / RECORDS, cut_off=True), results / RECORDS)


def baseline_name(run: Run) -> str:
    """The name of the file in which the baseline for a run's settings and device is kept."""
    first = run[0]
    settings = json.dumps({name: first.settings.get(name) for name in SETTINGS}, default=str)
    device = re.sub("[^a-z0-9]+", "-", (gpu_kind(first.environment) or "cpu").lower()).strip("-")
    return f"{device}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}.jsonl"


def promote(reference: str | None, results: Path, baselines: Path) -> Path:
    """Makes a run in `results` (None: the latest) the baseline for its settings and device; the file it is in.

    Raises UsageError for a run that failed or did not come to its end, and where a row is worth no comparison.
    """
    run = load(reference, results) if reference else latest(results)
    name = run[0].run
    status = _exit_status(results, name)
    if status is None:
        raise UsageError(f"run {name}: it did not come to its end: promote one that did")
    broken = [record.technique for record in run if record.status not in ("ok", "skipped")]
    if status != 0 or broken:
        why = f"exit status {status}" + (f"; {', '.join(broken)} broke off" if broken else "")
        raise UsageError(f"run {name}: it failed ({why}): promote one that passed")
    if not any(record.per_article for record in run):
        raise UsageError(f"run {name}: no row of it was measured: promote one with rows")
    path = baselines / baseline_name(run)
    lines = "".join(json.dumps(plain(record), allow_nan=False) + "\n" for record in run)
    try:
        baselines.mkdir(parents=True, exist_ok=True)
        replace_file(path, lines)
    except OSError as error:
        raise UsageError(f"{path}: it cannot be written ({error.strerror}): give another --baselines") from error
    return path


def _exit_status(results: Path, name: str) -> int | None:
    """That of the session of this run; None where it did not come to its end."""
    for entry in reversed(_entries(results / SESSIONS, cut_off=True)) if (results / SESSIONS).exists() else ():
        if isinstance(entry, Mapping) and entry.get("run") == name and isinstance(entry.get("exit_status"), int):
            return int(entry["exit_status"])
    return None


def _last(entries: list[Any], path: Path) -> Run:
    """The rows of the run that is last; what other runs have left, of other versions perhaps, is not looked at."""
    if not entries:
        raise UsageError(f"{path}: there is no run in it: measure one with `pytest bench`")
    last = entries[-1]
    return _structure(_of(last["run"], entries) if isinstance(last, dict) and "run" in last else [last], path)


def _of(run: object, entries: list[Any]) -> list[Any]:
    return [entry for entry in entries if isinstance(entry, dict) and entry.get("run") == run]


def _entries(path: Path, *, cut_off: bool = False) -> list[Any]:
    """What the lines of a file hold; where a line may have been `cut_off`, without those that are no JSON."""
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: it cannot be read ({error}): name a run that can") from None
    entries = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                entries.append(json.loads(line))
            except (ValueError, RecursionError):
                if not cut_off:
                    raise UsageError(f"{path}, line {number}: it is cut off or damaged: name a whole file") from None
    return entries


def _saved(path: Path) -> Run:
    """The rows in a file that pytest-benchmark has saved."""
    try:
        benchmarks = json.loads(path.read_text("utf-8"))["benchmarks"]
        found = [benchmark["extra_info"]["record"] for benchmark in benchmarks if "record" in benchmark["extra_info"]]
    except (OSError, ValueError, RecursionError, TypeError, KeyError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"{path}: it is no run that pytest-benchmark has saved ({reason}): name one") from None
    return _last(found, path)


@cache
def _converter() -> Any:
    """Made once: it writes a function for each type."""
    import cattrs

    converter = cattrs.Converter()
    for kind in (bool, int, str):
        converter.register_structure_hook(kind, _exactly(kind))
    converter.register_structure_hook(float, _float)
    converter.register_structure_hook_func(lambda kind: kind is object, lambda value, _: value)
    return converter


def _structure(entries: Sequence[Any], path: Path) -> Run:
    import cattrs

    records = []
    for number, entry in enumerate(entries, 1):
        try:
            if not isinstance(entry, Mapping):
                raise TypeError("not an object")
            record = _converter().structure(entry, Record)
            _check(record)
        except Exception as error:
            what = cattrs.transform_error(error)[0] if isinstance(error, cattrs.BaseValidationError) else error
            raise UsageError(
                f"{path}: row {number} is not one that `pytest bench` has written ({what}): name a whole file"
            ) from None
        records.append(record)
    return records


def _exactly(kind: type) -> Any:
    def structure(value: Any, _: Any) -> Any:
        if type(value) is not kind or (isinstance(value, int) and abs(value) >= 2**63):
            raise TypeError(f"{value!r:.40} is no {kind.__name__}")
        return value

    return structure


def _float(value: Any, _: Any) -> float:
    """JSON has no NaN: None stands for it."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r:.40} is no number")
    return float(value)


def _check(record: Record) -> None:
    """Raises ValueError for figures that no session has."""
    if (curve := record.batch_curve) is not None:
        if not all(0 < point.headlines_per_second < math.inf for point in curve.points):
            raise ValueError("a rate of its curve is none")
        if not all(point.batch_size > 0 for point in curve.points):
            raise ValueError("a size of its curve is none")
    if (found := record.per_article) is None:
        return
    if len(found.rouge1) != len(found.nll) or not found.rouge1:
        raise ValueError("its articles have other numbers of scores")
    if found.headlines and len(found.headlines) != len(found.rouge1):
        raise ValueError("its headlines are not those of its articles")
    if not 1 <= found.launches <= max(len(found.log_ratios), 1):
        raise ValueError(f"{len(found.log_ratios)} articles in {found.launches} launches")
    if found.seconds and (len(found.seconds) != len(found.log_ratios) or not min(found.seconds) > 0):
        raise ValueError("its seconds are not those of its articles")
    if not all(abs(ratio) < MOST for ratio in (*found.log_ratios, *found.job_log_ratios)):
        raise ValueError("a ratio of seconds is none")
    if not all(seconds < MOST for seconds in found.seconds):
        raise ValueError("its seconds are no numbers")
    if any(abs(score) > MOST for score in (*found.rouge1, *found.nll)):  # NaN may be
        raise ValueError("a score is none")
    if record.other_code is not None:
        _check_other(record.other_code, found)


def _check_other(other: OtherCode, row: PerArticle) -> None:
    if not other.rouge1 or not len(other.rouge1) == len(other.rouge1_now) == len(other.nll) <= len(row.nll):
        raise ValueError("its other code has other numbers of scores")
    if len(other.log_ratios) not in (0, len(row.log_ratios)) or len(other.job_log_ratios) > len(row.job_log_ratios):
        raise ValueError("the ratios of its other code are not those of its articles")
    if not all(abs(ratio) < MOST for ratio in (*other.log_ratios, *other.job_log_ratios)):
        raise ValueError("a ratio of its other code is none")
    if any(abs(score) > MOST for score in (*other.rouge1, *other.rouge1_now, *other.nll)):
        raise ValueError("a score of its other code is none")
