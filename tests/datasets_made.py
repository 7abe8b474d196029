"""News datasets in every format that can be read."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from typing import Any

from udaciheadline.records import Article

ROWS = [
    {
        "link": f"https://news.invalid/{n}",
        "headline": f"Café {n} Opens, at Last",
        "category": "FOOD",
        "short_description": f'"It took {n} years," says its owner, who paid 5 €.',
        "authors": "A. Writer",
        "date": f"2022-09-0{n}",
    }
    for n in range(1, 6)
]
ARTICLES = tuple(Article(**row) for row in ROWS)
GOOD = '{"headline": "H", "short_description": "T"}\n'


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def array(rows: list[dict[str, Any]]) -> bytes:
    return json.dumps(rows, indent=1, ensure_ascii=False).encode()


def comma_separated(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, rows[0].keys())
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow
    from pyarrow.parquet import write_table

    file = io.BytesIO()
    write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


FORMATS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "news.jsonl": jsonl,
    "lines.json": jsonl,
    "array.json": array,
    "news.csv": comma_separated,
    "news.parquet": parquet,
    "news.jsonl.gz": lambda rows: gzip.compress(jsonl(rows)),
    "lines.json.gz": lambda rows: gzip.compress(jsonl(rows)),
    "array.json.gz": lambda rows: gzip.compress(array(rows)),
    "news.csv.gz": lambda rows: gzip.compress(comma_separated(rows)),
    "NEWS.JSONL": jsonl,
}


Write = Callable[[str, bytes | str], str]
