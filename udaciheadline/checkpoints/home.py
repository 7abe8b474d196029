"""Where what was found out about a model is kept for the next process: `~/.cache/udaciheadline`, or below
`XDG_CACHE_HOME`. All of it may be deleted: it is made again."""

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

UNUSED_SECONDS = 30 * 24 * 3600  # for which a file is kept


def folder(name: str) -> Path | None:
    """The folder of this name there; None where there is no home for it."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "udaciheadline" / name
    except RuntimeError:
        return None


def fingerprint(model: Any, sources: Iterable[Path], *said: object) -> str:
    """Stands for a transformers model with its weights and kind of device, for the code in these files, and for what
    else is said."""
    import torch

    key = hashlib.sha256()
    for source in sources:
        key.update(source.read_bytes())
    key.update(f"{torch.__version__} {model.device.type} {model.dtype} {model.config} {said}".encode())
    for name, weight in model.state_dict().items():
        key.update(name.encode())
        key.update(weight.contiguous().view(-1).view(torch.uint8).cpu().numpy())
    return key.hexdigest()[:24]


@contextlib.contextmanager
def writing(file: Path) -> Iterator[Path]:
    """A place to write what is to be kept as `file`, which it becomes when it is whole: another process may be writing
    it, too. What was not `used` for long, beside it, goes. Raises OSError where nothing can be kept."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=file.parent) as folder:
        yield (own := Path(folder) / file.name)
        own.replace(file)
    for other in file.parent.iterdir():
        if time.time() - other.stat().st_mtime > UNUSED_SECONDS:
            other.unlink() if other.is_file() else shutil.rmtree(other)  # of a process that was killed


def used(file: Path) -> None:
    """Notes that what is kept was of use."""
    with contextlib.suppress(OSError):
        os.utime(file)
