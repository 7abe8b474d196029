"""Rows whose workers are none: they answer each call at once, as a test wants them to."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from rows import generation

from udaciheadline.data.articles import ArticleSet
from udaciheadline.evidence.gates import Thresholds
from udaciheadline.records import Article, BuildInfo, EngineSpec, Generation, Limits, Memory
from udaciheadline.session.row import Row
from udaciheadline.session.run import Run
from udaciheadline.techniques import Technique

LIMITS = Limits(bytes_per_second=1000.0, flops_per_second=10_000.0)
INFO = BuildInfo(parameters=30, weights_bytes=120, pass_bytes=100, layer_parameters=20, head_parameters=10)
ONLINE = Technique("online", "Online", 1, build=lambda spec: pytest.fail("built"))


class FakeWorker:
    """Answers each call at once: a job takes the `seconds` of its batch size, and more than `fits` are halved."""

    seconds: Mapping[int, float] = {}  # 1.0 where it is not named
    fits = 10**6
    rests = True
    started: list["FakeWorker"]

    def __init__(self, technique: Technique, spec: EngineSpec, timeout: float, hosts: Sequence[Any]) -> None:
        self.name, self.infos, self.build_seconds, self.hosts = technique.name, [INFO], 50.0, hosts
        self.timeout, self.seconds_left = timeout, timeout - 50.0
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.jobs = 0
        self.started.append(self)

    @property
    def info(self) -> BuildInfo:
        return self.infos[0]

    def call(self, method: str, *args: Any) -> Any:
        self.calls.append((method, args))
        return self.info if method == "info" else getattr(self, method)(*args)

    def call_all(self, method: str, *args: Any) -> list[Any]:
        return [self.call(method, *args)]

    def generate(self, prompts: list[str], batch_size: int | None = None) -> Any:
        self.jobs += 1
        size = min(batch_size or len(prompts), len(prompts))
        while size > self.fits:
            size //= 2
        return [
            generation(
                f"{self.name} wrote {i} in job {self.jobs}",
                seconds=self.seconds.get(size, 1.0),
                batch_size=size,
                prompt_tokens=5,
            )
            for i in range(len(prompts))
        ]

    def check(self, prompts: list[str], completions: list[str]) -> None:
        pass

    def fitting(self, prompts: list[str], completions: list[str]) -> int:
        return len(prompts)

    def likelihood(self, prompts: list[str], completions: list[str]) -> list[float]:
        return [1.0] * len(prompts)

    def preferences(self, prompts: list[str], tokens: list[list[int]], others: list[int]) -> list[float]:
        return [0.5] * len(prompts)

    def rounding(self, prompts: list[str], tokens: list[list[int]]) -> float:
        return 0.25

    def answer(self, prompt: str) -> tuple[Generation, float]:
        return self.call("generate", [prompt])[0], 0.0

    def warm_up(self, prompts: list[str]) -> tuple[float, float]:
        seconds: float = self.call("generate", [prompts[-1]])[0].seconds
        return seconds, seconds

    def rest(self) -> bool:
        return self.rests

    def met(self, prompts: list[str]) -> list[int]:
        return list(range(len(prompts)))

    def longest(self, prompts: list[str]) -> int:
        return len(prompts) - 1

    def peak_memory(self) -> Memory:
        return Memory((), (), 2**20)

    def profile(self, jobs: list[list[str]], batch_size: int, trace: str) -> Any:
        return "aten::mm", [], ""

    def limits(self, dtype: str) -> Limits:
        return LIMITS

    def reset_memory(self) -> None:
        pass

    renew = close = reset_memory

    def sizes(self) -> list[int]:
        """The batch sizes of the jobs, as they were asked for."""
        return [args[1] for method, args in self.calls if method == "generate" and len(args) > 1]


def row_of(technique: Technique, articles: int = 8, batch_size: int | None = None, further: int = 0) -> Row:
    """A new row of a session with so many timed articles, so many of them at a time in a job, and `further` ones."""
    chosen = tuple(Article(f"True headline {i}", f"Description {i}.") for i in range(articles + further))
    spec = EngineSpec("model", None, "model", "cpu", "float32", ranks=2)
    thresholds = {technique.name: Thresholds(work_tolerance=0.1, speed_up_min=2.0)}
    found = ArticleSet("a test", chosen[:articles], 0, further=chosen[articles:])
    run = Run(found, spec, thresholds, 600.0, {}, has_floor=False, batch_size=batch_size)
    return Row(run, technique)


def worker_of(row: Row) -> FakeWorker:
    """The row's own worker."""
    assert isinstance(row._engine.worker, FakeWorker)
    return row._engine.worker


def asked(worker: FakeWorker) -> list[str]:
    """The prompts that it was given one by one."""
    return [args[0][0] for method, args in worker.calls if method == "generate" and len(args[0]) == 1]
