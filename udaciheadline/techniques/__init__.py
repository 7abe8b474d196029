"""One file per technique; each says what changes in the weights or the decoding, why that helps and when it does not.

A module here that defines `TECHNIQUES` is found by itself: adding a technique is a file in this folder and a table in
`bench/gates.toml`. Finding them imports no torch; that happens inside `build`, in the worker process.

Others use `techniques` (all of them) and `select` (some of them), each a `Technique`, and `stand_ins`, which of them
stand for others on the compiled engine; the `REFERENCE` is the name of the one that all are compared with, and `plain`
gives that of an engine's plain row. The rows that remove weights are the `PRUNED` ones: the trainer does as they do, by
`prune_with` and what `depth_pruning` or `width_pruning` remove.
"""

import importlib
import pkgutil
from collections.abc import Iterable
from functools import cache

from udaciheadline.records import UsageError
from udaciheadline.techniques._removal import PRUNED, prune_with
from udaciheadline.techniques._technique import REFERENCE, Technique, plain

__all__ = [
    "PRUNED",
    "REFERENCE",
    "Technique",
    "depth_pruning",
    "plain",
    "prune_with",
    "select",
    "stand_ins",
    "techniques",
    "width_pruning",
]


@cache
def techniques() -> dict[str, Technique]:
    """All techniques by name, in the order of the table."""
    found: list[Technique] = []
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            found += importlib.import_module(f"{__name__}.{module.name}").TECHNIQUES
    found.sort(key=lambda technique: technique.order)
    return {technique.name: technique for technique in found}


def stand_ins(engine: str) -> dict[str, str]:
    """The techniques that another one stands for on this engine, and that other one, by their names."""
    if engine != "compiled":
        return {}
    return {t.name: t.counterpart for t in techniques().values() if t.counterpart and t.counterpart in techniques()}


def select(names: Iterable[str], engine: str = "transformers") -> list[Technique]:
    """The techniques of these names, in the order of the table, or what stands for them on this engine; "all" means
    each for which nothing does. Raises UsageError for another name."""
    wanted = list(names)
    if unknown := [name for name in wanted if name != "all" and name not in techniques()]:
        known = ", ".join(techniques())
        raise UsageError(f"--technique {unknown[0]!r}: there is no such technique: choose from {known}, or all")
    replaced = stand_ins(engine)
    chosen = {replaced.get(name, name) for name in wanted}
    if "all" in wanted:
        chosen |= techniques().keys() - replaced.keys()
    return [technique for name, technique in techniques().items() if name in chosen]
