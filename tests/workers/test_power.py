"""Counters of energy, as the machine has them: none of these devices is here."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gpus_made import Gpus

from udaciheadline.workers import power
from udaciheadline.workers.nvml import Nvml


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second a look."""
    seconds: Iterator[int] = iter(range(100))
    monkeypatch.setattr(power, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))


def rapl(folder: Path, name: str, microjoules: int, most: int = 1000) -> Path:
    package = folder / name
    package.mkdir(exist_ok=True)
    (package / "max_energy_range_uj").write_text(f"{most}\n", "utf-8")
    (package / "energy_uj").write_text(f"{microjoules}\n", "utf-8")
    return package


def test_joules_a_headline_are_those_of_all_gpus_of_the_row(clock: None) -> None:
    energy = power.spent(Nvml(Gpus(), 2), lambda: 10)
    assert (energy.headlines, energy.seconds, energy.source) == (20, 3.0, "NVML")
    assert energy.joules_per_headline == 100 / 20


@pytest.mark.parametrize(
    ("bits", "said"), [(0x00, []), (0x01, []), (0x20, ["its temperature"]), (0x04, ["its power limit"])]
)
def test_what_slows_a_gpu_down_is_said_and_its_idling_is_not(clock: None, bits: int, said: list[str]) -> None:
    assert list(power.spent(Nvml(Gpus((0, bits)), 2), lambda: 1).slowed) == said


def test_a_processor_counter_that_begins_anew_goes_on(tmp_path: Path) -> None:
    meter = power.Rapl([rapl(tmp_path, "intel-rapl:0", 900)])
    before = meter.joules()
    rapl(tmp_path, "intel-rapl:0", 100)
    assert meter.joules() - before == pytest.approx(200e-6)


def test_only_whole_packages_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("intel-rapl:0", 100), ("intel-rapl:1", 200), ("intel-rapl:0:0", 50)):
        rapl(tmp_path, name, value)
    monkeypatch.setattr(power, "RAPL", tmp_path)
    with power.meter("cpu", 1) as meter:
        assert meter is not None
        assert meter.joules() == pytest.approx(300e-6)


def test_where_nothing_counts_there_is_no_meter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "RAPL", tmp_path)
    found: Any
    with power.meter("cpu", 1) as found:
        assert found is None
    with power.meter("cuda", 1) as found:  # neither a driver nor, perhaps, nvidia-ml-py
        assert found is None
