"""What a technique is."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass

from udaciheadline.engines import Engine
from udaciheadline.records import EngineSpec

REFERENCE = "kv-cache"
"""The technique that every other one is paired with, article by article."""


def plain(engine: str) -> str:
    """The row of this engine that nothing but the engine makes fast."""
    return "compiled" if engine == "compiled" else REFERENCE


@dataclass(frozen=True)
class Technique:
    """One row of the table.

    `name` is what the command line calls it, `title` what the table calls it, `order` its place there. `build` makes
    its engine in a worker process. `exact_to` names the row whose tokens it must repeat in float32 (None: it may write
    other headlines), and `optimises` the one that it is there to make faster. `counterpart` names the row that stands
    for it on the compiled engine (None, or a row that there is not: nothing does). `needs_target` where it is about the
    larger model. `needs_cuda` where it runs on a GPU only, `batches` where it takes several prompts at a time,
    `offline` where it takes all of them as one job, so that only its throughput can be measured. `parallel` where it is
    spread over several ranks, whose `build` each makes its part of the engine. `calibrates` where it asks articles that
    are not measured what of a model matters (`calibration` of the spec). `engines` are those that it exists on. `note`
    is a sentence, without its full stop, that a reader of the row's figures must know. `arguments` are those of
    transformers' `from_pretrained` and of `generate` that are all of it, for techniques that need nothing else (None:
    it is more than that); `{dtype}` stands for the session's.
    """

    name: str
    title: str
    order: int
    build: Callable[[EngineSpec], Engine]
    exact_to: str | None = None
    optimises: str = REFERENCE
    counterpart: str | None = None
    needs_target: bool = False
    needs_cuda: bool = False
    batches: bool = True
    offline: bool = False
    parallel: bool = False
    calibrates: bool = False
    engines: tuple[str, ...] = ("transformers",)
    note: str = ""
    arguments: tuple[str, str] | None = None

    def engine_for(self, spec: EngineSpec) -> str:
        """The engine that it runs on: the one asked for, where it exists there."""
        return spec.engine if spec.engine in self.engines else self.engines[0]

    def beside(self, engine: str) -> tuple[str, ...]:
        """The rows that answer in turn with it on this engine, besides the reference: the one whose tokens it repeats;
        of a parallel technique, one rank; and last, next to it, the one that it is there to make faster."""
        names = self.exact_to, plain(engine) if self.parallel else None, self.optimises
        return tuple(dict.fromkeys(name for name in names if name and name not in (REFERENCE, self.name)))

    def takes_batches(self, spec: EngineSpec) -> bool:
        """Whether its engine can work on several prompts at a time, even where its row is of one article at a time."""
        return self.batches or self.engine_for(spec) == "compiled"

    def ranks(self, spec: EngineSpec) -> int:
        """The number of processes that its engine lives in."""
        return spec.ranks if self.parallel else 1

    def unavailable(self, spec: EngineSpec) -> str | None:
        """Why this technique cannot run with `spec`, or None where it can."""
        if self.needs_target and spec.target is None:
            return "it needs a target model: name one with --target"
        if self.needs_cuda and spec.device != "cuda":
            return "it needs a CUDA GPU"
        if self.parallel and spec.ranks < 2:
            return "it needs two ranks: a second GPU, or --ranks 2 on a CPU"
        compiles = self.engine_for(spec) == "compiled" and not self.parallel  # what is between ranks is not in our C++
        if compiles and spec.device == "cpu" and not _has_compiler():
            return "it needs a C++ compiler on the CPU: install g++, or name another in CXX"
        return None


def _has_compiler() -> bool:
    """Whether there is the compiler that the compiled engine's C++ is built with."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None
