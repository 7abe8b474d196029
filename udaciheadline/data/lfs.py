"""Files that are not there: what git leaves in a checkout whose large files were never fetched."""

from pathlib import Path

_BEGINNING = b"version https://git-lfs.github.com/spec"


def is_lfs_pointer(path: str | Path) -> bool:
    """Whether a file is git-lfs's pointer to the one that was meant: `git lfs pull` puts that in its place."""
    with Path(path).open("rb") as file:
        return file.read(len(_BEGINNING)) == _BEGINNING
