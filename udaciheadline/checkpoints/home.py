"""Where what was found out about a model is kept for the next process: `~/.cache/udaciheadline`, or below
`XDG_CACHE_HOME`. All of it may be deleted: it is made again."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def folder(name: str) -> Path | None:
    """The folder of this name there; None where there is no home for it."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "udaciheadline" / name
    except RuntimeError:
        return None


def fingerprint(model: Any, sources: Iterable[Path], *said: object) -> str:
    """Stands for a transformers model with its weights, for the code in these files, and for what else is said."""
    import torch

    key = hashlib.sha256()
    for source in sources:
        key.update(source.read_bytes())
    key.update(f"{torch.__version__} {model.dtype} {model.config} {said}".encode())
    for name, weight in model.state_dict().items():
        key.update(name.encode())
        key.update(weight.contiguous().view(-1).view(torch.uint8).cpu().numpy())
    return key.hexdigest()[:24]
