"""A table as a reader takes it apart."""

import re

from udaciheadline.records import Estimate, Record
from udaciheadline.report.details import details

COPY_ROUGE = dict.fromkeys(("rouge1", "rouge2", "rougeL", "rougeLsum"), Estimate(0.234, 0.2, 0.3))


def text(*records: Record) -> str:
    """The wide table of these rows, with its legend."""
    return details(records, COPY_ROUGE)


def cells(written: str, technique: str) -> dict[str, str]:
    """The cells of a technique's row by the names of their columns: a column ends where its name ends."""
    header, _, _, *rows = written.splitlines()
    row = next(row for row in rows if row.startswith(technique))
    found, start = {"technique": technique}, len(technique)
    for column in list(re.finditer(r"\S+(?: \S+)*", header))[1:]:
        found[column[0]] = row[start : column.end()].strip()
        start = column.end()
    return found


def legend(written: str) -> str:
    return written.partition("\n\n")[2]
