"""Which saved runs this one is compared with, and what is said of them."""

from argparse import Namespace
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from udaciheadline.records import UsageError
from udaciheadline.session import saved

MACHINE = {
    "node": "here",
    "python_build": ("main", "today"),
    "cpu": {"count": 2, "hz_actual": [2_000, 0]},
    "udaciheadline": {"torch": "2.13"},
}
SAVED = {"node": "here", "python_build": ["main", "today"], "cpu": {"count": 2}, "udaciheadline": {"torch": "2.13"}}


class Storage:
    """Runs by number, as pytest-benchmark's folder has them."""

    def __init__(self, *numbers: int) -> None:
        self.runs: saved.Runs = [
            (Path(f"Linux/{n:04}_run.json"), {"benchmarks": [{"fullname": "a test"}], "machine_info": deepcopy(SAVED)})
            for n in numbers
        ]

    def __str__(self) -> str:
        return "/results"

    def load(self, *names: str) -> Any:
        if any(name.count("/") > 1 for name in names):
            raise ValueError("it is no acceptable glob")
        return iter(run for run in self.runs if not names or run[0].name.startswith(names))


def benchmarks(storage: Storage) -> Any:
    """pytest-benchmark's session, as far as it matters."""
    return SimpleNamespace(
        storage=storage,
        compare_fail=["mean:5%"],
        compared_mapping={},
        performance_regressions=[("test_latency[pruned]", "mean is 3.0 higher")],
        get_machine_info=lambda: MACHINE,
    )


def test_pytest_benchmark_does_not_hear_of_the_comparison() -> None:
    option = Namespace(benchmark_compare="0001", benchmark_compare_fail=None)
    saved.take_over(option)
    assert (option.benchmark_compare, option.compare_with) == ([], "0001")


def test_a_limit_without_a_comparison_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"--benchmark-compare-fail: .* add --benchmark-compare"):
        saved.take_over(Namespace(benchmark_compare=[], benchmark_compare_fail=["mean:5%"]))


def test_the_latest_run_is_taken_unless_one_is_named() -> None:
    storage = Storage(1, 2, 3)
    assert saved.find(storage, True) == storage.runs[-1:]
    assert saved.find(storage, "0002") == storage.runs[1:2]
    assert saved.find(storage, []) is None


@pytest.mark.parametrize("name", ["0009", "a/b/c"])
def test_a_name_that_there_is_not_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match=f"--benchmark-compare={name}: .* in /results: the latest there is 0002_run"):
        saved.find(Storage(1, 2), name)
    with pytest.raises(UsageError, match=f"--benchmark-compare={name}: .* save one with --benchmark-autosave"):
        saved.find(Storage(), name)


def test_a_first_run_is_compared_with_none_and_no_limit_holds() -> None:
    session = benchmarks(Storage())
    assert saved.compare(session, []) == "No run is saved in /results yet: this one is compared with none."
    assert session.compare_fail == []


def test_without_a_comparison_nothing_is_said() -> None:
    session = benchmarks(Storage(1))
    assert saved.compare(session, None) == ""
    assert session.compared_mapping == {}


def test_a_run_of_the_same_machine_is_shown_beside_this_one() -> None:
    storage = Storage(1)
    session = benchmarks(storage)
    assert saved.compare(session, storage.runs) == "Compared with Linux/0001_run.json."
    assert session.compared_mapping == {Path("Linux/0001_run.json"): {"a test": {"fullname": "a test"}}}
    assert session.compare_fail == ["mean:5%"]


def test_a_run_of_another_machine_is_named_with_what_was_not_the_same() -> None:
    storage = Storage(1)
    machine = storage.runs[0][1]["machine_info"]
    machine["cpu"]["count"] = 64
    machine["udaciheadline"] = {"torch": "2.12", "gpu": "H100"}
    sentence = saved.compare(benchmarks(storage), storage.runs)
    assert sentence.endswith("0001_run.json, which had another cpu count, udaciheadline torch, udaciheadline gpu.")


def test_what_is_worse_is_taken_from_pytest_benchmark_which_would_end_in_a_traceback() -> None:
    session = benchmarks(Storage(1))
    assert saved.regressions(session) == ["test_latency[pruned]: mean is 3.0 higher"]
    assert session.performance_regressions == []
