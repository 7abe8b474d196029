"""What disturbs a row on its GPUs, as the driver tells it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from gpus_made import Gpus

from udaciheadline.workers import nvml
from udaciheadline.workers.nvml import SLOWED, Nvml, Watch


@pytest.fixture(autouse=True)
def all_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """It stands until a test moves it."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(nvml, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


@pytest.mark.parametrize(("shown", "bits"), [("", [0]), ("1", [0x20]), ("GPU-1,0", [0x20])])
def test_the_gpus_that_cuda_shows_are_those_that_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, shown: str, bits: list[int]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert Nvml(Gpus((0, 0x20)), 1).slowed() == [SLOWED[bit] for bit in bits if bit]


def test_clocks_that_are_held_down_are_said_with_their_share_of_the_time(clock: SimpleNamespace) -> None:
    gpus = Gpus()
    gpus.slowed_seconds[0] = [50.0, 50.0]  # before
    watch = Watch(Nvml(gpus, 2))
    clock.seconds += 10
    gpus.slowed_seconds = [[50.0, 54.0], [0.4, 0.0]]
    assert watch.said() == ("its GPU was slowed down by its power limit for 40% of the time",)


def test_a_process_of_others_is_said_once_it_was_there_at_two_looks(clock: SimpleNamespace) -> None:
    gpus = Gpus()
    watch = Watch(Nvml(gpus, 2))
    gpus.pids[1] = [1]
    clock.seconds += 1
    watch.look()
    assert watch._strangers == set()
    clock.seconds += 1
    watch.look()
    gpus.pids[1] = []
    assert watch.said() == ("its GPU was shared with other processes (1)",)


def test_looks_that_follow_each_other_at_once_are_one(clock: SimpleNamespace) -> None:
    gpus = Gpus()
    gpus.pids[0] = [1]
    watch = Watch(Nvml(gpus, 2))
    clock.seconds += 0.1
    watch.look()
    gpus.pids[0] = []
    assert watch.said() == ()


def test_own_processes_and_those_that_cannot_be_seen_from_here_are_nobody_elses(clock: SimpleNamespace) -> None:
    gpus = Gpus()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        gpus.pids = [[os.getpid(), child.pid], [2**30]]
        watch = Watch(Nvml(gpus, 2))
        clock.seconds += 1
        assert watch.said() == ()
        child.communicate(b"\n")


def test_a_driver_that_answers_no_more_ends_no_row(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = Gpus()
    watch = Watch(Nvml(gpus, 2))

    def lost(device: int) -> None:
        raise Gpus.NVMLError("GPU is lost")

    monkeypatch.setattr(gpus, "nvmlDeviceGetComputeRunningProcesses", lost)
    clock.seconds += 1
    watch.look()
    assert watch.said() == ()
