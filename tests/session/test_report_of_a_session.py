"""What a session says of its page: it has been measured by then, and nothing that goes wrong there takes that away."""

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest
from rows import ARTICLES, run

from udaciheadline.records import UsageError
from udaciheadline.report import page
from udaciheadline.session.session import write_report


def test_it_says_where_the_page_is(tmp_path: Path) -> None:
    assert write_report(run(), tmp_path, ARTICLES) == f"Report: {tmp_path / 'report.html'}"
    assert (tmp_path / "report.html").exists()
    assert (tmp_path / "report.md").exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UsageError('the report needs jinja2: pip install -e ".[report]"'), 'needs jinja2: pip install -e ".[report]"'),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (ValueError("a figure\nof two lines"), "ValueError: a figure of two lines"),
    ],
    ids=["no extra", "full disk", "a fault of ours"],
)
def test_a_page_that_cannot_be_made_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fails(*_: object) -> NoReturn:
        raise error

    monkeypatch.setattr(page, "write", fails)
    found = write_report(run(), tmp_path, ARTICLES)
    assert found.startswith("No report.html: ")
    assert said in found
    assert "\n" not in found
