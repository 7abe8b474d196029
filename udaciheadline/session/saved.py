"""Runs that pytest-benchmark has saved, with which this one is compared (`--benchmark-compare`).

pytest-benchmark would do it before the session has begun, when nobody knows yet on which device and with which versions
it runs, and takes this for another machine. It only shows what it is given here.
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from udaciheadline.records import UsageError

Runs = list[tuple[Any, dict[str, Any]]]
"""What is saved of each, with the path of its file."""


def take_over(option: Any) -> None:
    """Moves what is to be compared with (a run's name, True for the latest, or nothing) from `benchmark_compare`, where
    pytest-benchmark would find it, to `compare_with`. Raises UsageError."""
    option.compare_with, option.benchmark_compare = option.benchmark_compare, []
    if option.benchmark_compare_fail and not option.compare_with:
        raise UsageError("--benchmark-compare-fail: there is nothing to compare with: add --benchmark-compare")


def find(storage: Any, wanted: Any) -> Runs | None:
    """The runs that `compare_with` stands for; None where nothing is wanted, and none where the latest is and there is
    no run yet. Raises UsageError for a name that there is not."""
    if not wanted:
        return None
    if wanted is True:
        return list(storage.load())[-1:]
    try:
        found = list(storage.load(wanted))
    except ValueError:  # of a name with several folders in it
        found = []
    if not found:
        saved = [path.name for path, _ in storage.load()]
        mend = f"the latest there is {saved[-1]}" if saved else "save one with --benchmark-autosave"
        raise UsageError(f"--benchmark-compare={wanted}: there is no such run in {storage}: {mend}")
    return found


def compare(benchmarks: Any, runs: Runs | None) -> str:
    """Has pytest-benchmark (its session) show these runs beside this one; a sentence for the notes."""
    if runs is None:
        return ""
    if not runs:
        benchmarks.compare_fail = []
        return f"No run is saved in {benchmarks.storage} yet: this one is compared with none."
    benchmarks.compared_mapping = {
        path: {benchmark["fullname"]: benchmark for benchmark in run["benchmarks"]} for path, run in runs
    }
    now = json.loads(json.dumps(benchmarks.get_machine_info()))  # as it would be read from a file
    return " ".join(f"Compared with {path}{_elsewhere(now, run['machine_info'])}." for path, run in runs)


def keep_on(benchmarks: Any, warnings: list[str]) -> None:
    """Has pytest-benchmark (its session) go on where it cannot save, which it would end in a traceback of its own,
    before anything is shown: why it cannot is added to `warnings`, and no part of a file is left among its runs."""
    handle_saving = benchmarks.handle_saving

    def runs() -> set[Path]:
        return set(benchmarks.storage.query("[0-9][0-9][0-9][0-9]_*"))

    def save() -> None:
        before = runs()
        try:
            handle_saving()
        except OSError as error:
            warnings.append(f"{benchmarks.storage}: pytest-benchmark cannot save there ({error.strerror}).")
            with contextlib.suppress(OSError):
                for path in runs() - before:
                    path.unlink()

    benchmarks.handle_saving = save


def regressions(benchmarks: Any) -> list[str]:
    """What `--benchmark-compare-fail` has found, which pytest-benchmark would end in a traceback of its own."""
    found, benchmarks.performance_regressions = benchmarks.performance_regressions, []
    return [f"{name}: {what}" for name, what in found]


def _elsewhere(now: dict[str, Any], then: dict[str, Any]) -> str:
    """What was not the same there, if anything."""
    a, b = _flat(now), _flat(then)
    names = [name for name in dict.fromkeys([*a, *b]) if a.get(name) != b.get(name)]
    return f", which had another {', '.join(names)}" if names else ""


def _flat(info: Mapping[str, Any]) -> dict[str, Any]:
    """Machine, processor and versions by name, without the clock rate of the moment."""
    own = {name: value for name, value in info.items() if not isinstance(value, dict)}
    parts = {f"{part} {name}": value for part in ("cpu", "udaciheadline") for name, value in info.get(part, {}).items()}
    return {name: value for name, value in {**own, **parts}.items() if not name.startswith("cpu hz_")}
