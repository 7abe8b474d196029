"""Techniques that go wrong, as a pytest plugin (`-p faulty`): what a session must survive.

They join the real ones, so that a whole `pytest bench` can be run with them.
"""

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import distributed

from udaciheadline.engines import Engine
from udaciheadline.records import EngineSpec, Generation, Unsupported, UsageError
from udaciheadline.techniques import Technique, techniques
from udaciheadline.techniques.cache import build_kv_cache
from udaciheadline.workers.worker import Worker


def raises_while_building(spec: EngineSpec) -> Engine:
    raise ValueError("the weights are upside down")


def says_what_to_mend(spec: EngineSpec) -> Engine:
    raise UsageError("the checkpoint is torn: mend it")


def is_not_for_this_model(spec: EngineSpec) -> Engine:
    raise Unsupported("its layers are round, and this takes square ones")


def runs_out_of_memory(spec: EngineSpec | None) -> Engine:
    torch.empty(2**60, dtype=torch.uint8)
    raise AssertionError("an exabyte was had")


def hangs(spec: EngineSpec) -> Engine:
    print("I am waiting for something that never comes", flush=True)
    time.sleep(3600)
    raise AssertionError("an hour has passed")


class _FaultAtThird:
    """A KV cache engine that has a fault at the third headline."""

    def __init__(self, fault: Callable[[], object], spec: EngineSpec) -> None:
        self._fault = fault
        self._engine = build_kv_cache(spec)
        self.info, self.texts, self.close = self._engine.info, self._engine.texts, self._engine.close
        self.shape = self._engine.shape
        self._calls = 0

    def generate(self, prompts: list[str], batch_size: int | None = None) -> list[Generation]:
        self._calls += 1
        if self._calls == 3:
            self._fault()
        return self._engine.generate(prompts, batch_size)


def in_rank_1(fault: Callable[[], object], spec: EngineSpec) -> Engine:
    """Builds nothing: one rank has a fault, the other waits for it."""
    if distributed.get_rank() == 1:
        fault()
    distributed.barrier()
    raise AssertionError("the ranks have met")


def in_rank_1_later(fault: Callable[[], object], spec: EngineSpec) -> Engine:
    """A KV cache engine that has the fault when it is asked for headlines."""
    engine = build_kv_cache(spec)
    engine.generate = lambda *_: in_rank_1(fault, spec)  # type: ignore[method-assign]
    return engine


def raises() -> None:
    raise ValueError("the second half is upside down")


def has_no_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory: the second half is too large")


def is_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


FAULTY = {
    technique.name: technique
    for technique in (
        Technique("raises", "Raises", 1, raises_while_building),
        Technique("mend", "Says what to mend", 2, says_what_to_mend),
        Technique("oom", "Out of memory", 3, runs_out_of_memory),
        Technique("killed", "Killed", 4, partial(_FaultAtThird, is_killed)),
        Technique("oom-later", "Out of memory later", 13, partial(_FaultAtThird, partial(runs_out_of_memory, None))),
        Technique("gpu-only", "GPU only", 5, build_kv_cache, needs_cuda=True),
        Technique("unsupported", "Unsupported", 6, is_not_for_this_model),
        Technique("rank-raises", "Rank raises", 7, partial(in_rank_1, raises), parallel=True),
        Technique("rank-oom", "Rank without memory", 11, partial(in_rank_1, has_no_memory), parallel=True),
        Technique("rank-killed", "Rank killed", 8, partial(in_rank_1, is_killed), parallel=True),
        Technique("rank-exits", "Rank exits", 9, partial(in_rank_1, partial(os._exit, 3)), parallel=True),
        Technique("rank-sleeps", "Rank sleeps", 10, partial(in_rank_1, partial(time.sleep, 3600)), parallel=True),
        Technique(
            "rank-sleeps-later",
            "Rank sleeps later",
            12,
            partial(in_rank_1_later, partial(time.sleep, 3600)),
            parallel=True,
        ),
        Technique("hangs", "Hangs", 100, hangs),
    )
}


def pytest_configure(config: Any) -> None:
    """Where there is a --timeout, the row that hangs has a sixth of it: the others have work to do in that time."""
    start = Worker.__init__

    def impatient(self: Worker, technique: Technique, spec: EngineSpec, timeout: float, *args: Any) -> None:
        hangs = config.option.timeout and technique is FAULTY["hangs"]
        start(self, technique, spec, timeout / 6 if hangs else timeout, *args)

    Worker.__init__ = impatient  # type: ignore[method-assign]


def pytest_addoption() -> None:
    """Adds them before the root conftest checks the names on the command line."""
    everything = sorted({**techniques(), **FAULTY}.items(), key=lambda item: item[1].order)
    techniques().clear()
    techniques().update(everything)
