"""Rows of tables, whose columns have names and types: Parquet files, and datasets on the hub."""

import logging
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from udaciheadline.data.lines import Row
from udaciheadline.records import UsageError


def parquet_rows(
    path: Path, source: str, wanted: Collection[str] | None
) -> tuple[Iterator[Row], Callable[[], float | None]]:
    """The rows of a Parquet file, as far as they are asked for, and the share that has been. Raises UsageError, naming
    `source`, with the rows.

    `datasets` would copy the whole file into a cache first; and where it reads a file as a stream that ends early, its
    threads abort the process at its end.
    """
    count = read = 0

    def rows() -> Iterator[Row]:
        nonlocal count, read
        from pyarrow import parquet

        try:
            with parquet.ParquetFile(path) as file:
                count, names = file.metadata.num_rows, file.schema_arrow.names
                batches = file.iter_batches(1024, columns=_read_columns(names, wanted), use_threads=False)
                for row in _rows(names, (row for batch in batches for row in batch.to_pylist())):
                    read += 1
                    yield row
        except Exception as error:  # whatever the parser raises
            reason = f"not a whole Parquet file ({_root_cause(error)}): it may have been cut off, fetch it again"
            raise UsageError(f"{source}, line 1: {reason}") from error

    return rows(), lambda: read / count if count else None


def hub_rows(source: str, wanted: Collection[str] | None) -> Iterator[Row]:
    """The rows of the `train` split of a dataset on the hub, kept in the hub's cache. Raises UsageError, naming
    `source`, and the cache folder where that is what cannot be used."""
    import datasets  # here, because it takes more than a second

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it warns of each retry; we say the outcome once
    try:
        table = datasets.load_dataset(source, split="train")
        names = table.column_names
        yield from _rows(names, table.select_columns(_read_columns(names, wanted)))
    except Exception as error:  # whatever the parser or the hub raises
        _require_cache(source)
        raise UsageError(
            f"{source}: neither a file here nor a dataset that the hub gives ({_root_cause(error)}): "
            "check the name, the network and, for a gated dataset, HF_TOKEN"
        ) from error


def _rows(names: Sequence[str], rows: Iterable[dict[str, Any]]) -> Iterator[Row]:
    """Each row with all the names, also those of columns that were not read."""
    for number, row in enumerate(rows, start=1):
        yield f"row {number}", dict.fromkeys(names) | row


def _read_columns(names: Sequence[str], wanted: Collection[str] | None) -> list[str]:
    """Those that are `wanted` (None: all); of another nobody knows whether it can be decoded (a picture). Where there
    is none, all: a row of no column would be no row."""
    return [name for name in names if wanted is None or name in wanted] or list(names)


def _require_cache(source: str) -> None:
    """Raises UsageError where nothing can be written to the folders in which what the hub gives is kept."""
    import datasets
    import huggingface_hub

    for folder in (datasets.config.HF_DATASETS_CACHE, huggingface_hub.constants.HF_HUB_CACHE):
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise UsageError(
                f"{source}: nothing can be written to the cache folder {folder} ({error.strerror}): "
                "set HF_HOME to a folder that can be written"
            ) from error


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]
