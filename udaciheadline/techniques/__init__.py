"""One file per technique; each says what changes in the weights or the decoding, why that helps and when it does not.

A module here that defines `TECHNIQUES` is found by itself: adding a technique is a file in this folder and a table in
`bench/gates.toml`. Finding them imports no torch; that happens inside `build`, in the worker process.

Others use `techniques` (all of them) and `select` (some of them), each a `Technique`; the `REFERENCE` is the name of
the one that all are compared with. The rows that remove weights
are the `PRUNED` ones: the trainer does as they do, by `prune_with` and what `depth_pruning` or `width_pruning` remove.
"""

import importlib
import pkgutil
from collections.abc import Iterable
from functools import cache

from udaciheadline.records import UsageError
from udaciheadline.techniques._removal import PRUNED, prune_with
from udaciheadline.techniques._technique import REFERENCE, Technique

__all__ = ["PRUNED", "REFERENCE", "Technique", "depth_pruning", "prune_with", "select", "techniques", "width_pruning"]


@cache
def techniques() -> dict[str, Technique]:
    """All techniques by name, in the order of the table."""
    found: list[Technique] = []
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            found += importlib.import_module(f"{__name__}.{module.name}").TECHNIQUES
    found.sort(key=lambda technique: technique.order)
    return {technique.name: technique for technique in found}


def select(names: Iterable[str]) -> list[Technique]:
    """The techniques of these names, in the order of the table; "all" means each. Raises UsageError for another."""
    wanted = list(names)
    if unknown := [name for name in wanted if name != "all" and name not in techniques()]:
        known = ", ".join(techniques())
        raise UsageError(f"--technique {unknown[0]!r}: there is no such technique: choose from {known}, or all")
    return [t for t in techniques().values() if "all" in wanted or t.name in wanted]
