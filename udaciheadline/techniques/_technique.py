"""What a technique is."""

from collections.abc import Callable
from dataclasses import dataclass

from udaciheadline.records import Engine, EngineSpec

REFERENCE = "kv-cache"
"""The technique that every other one is paired with, article by article."""


@dataclass(frozen=True)
class Technique:
    """One row of the table.

    `name` is what the command line calls it, `title` what the table calls it, `order` its place there. `build` makes
    its engine in a worker process. `exact_to` names the row whose tokens it must repeat in float32 (None: it may
    write other headlines). `needs_target` where it is about the larger model. `needs_cuda` where it runs on a GPU only,
    `batches` where it takes several prompts at a time.
    """

    name: str
    title: str
    order: int
    build: Callable[[EngineSpec], Engine]
    exact_to: str | None = None
    needs_target: bool = False
    needs_cuda: bool = False
    batches: bool = True

    def unavailable(self, spec: EngineSpec) -> str | None:
        """Why this technique cannot run with `spec`, or None where it can."""
        if self.needs_target and spec.target is None:
            return "it needs a target model: name one with --target"
        if self.needs_cuda and spec.device != "cuda":
            return "it needs a CUDA GPU"
        return None
