"""The texts of the articles, which are kept once."""

from dataclasses import replace
from pathlib import Path

import pytest
from fake_workers import FakeWorker, row_of
from rows import ARTICLES

from udaciheadline.session.store import Store, articles
from udaciheadline.techniques import techniques


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def test_articles_are_kept_once_for_all_rows_and_runs_and_read_back(store: Store) -> None:
    for _ in range(2):
        store.keep_articles("abc", ARTICLES[:2])
        store.keep_articles("abcdef", ARTICLES)
    assert len((store.folder / "articles.jsonl").read_text("utf-8").splitlines()) == 2
    assert articles(store.folder, "abc") == list(ARTICLES[:2])
    assert articles(store.folder, "abcdef") == list(ARTICLES)


@pytest.mark.parametrize("fingerprint", ["ab", "", None])
def test_articles_that_were_not_kept_are_not_known(store: Store, fingerprint: str | None) -> None:
    assert articles(store.folder, fingerprint) is None
    store.keep_articles("abc", ARTICLES)
    assert articles(store.folder, fingerprint) is None


@pytest.mark.parametrize("line", ['{"fingerprint": "abc", "articles": [["a"', '{"fingerprint": "abc", "articles": 7}'])
def test_articles_whose_line_is_damaged_are_not_known(store: Store, line: str) -> None:
    (store.folder / "articles.jsonl").write_text(line, "utf-8")
    assert articles(store.folder, "abc") is None


def test_articles_whose_file_is_removed_under_the_run_are_kept_again(store: Store) -> None:
    store.keep_articles("abc", ARTICLES)
    (store.folder / "articles.jsonl").unlink()
    store.keep_articles("abc", ARTICLES)
    assert articles(store.folder, "abc") == list(ARTICLES)


def test_articles_for_calibration_are_in_no_record(worker: type[FakeWorker]) -> None:
    run = row_of(techniques()["depth-pruned"]).run
    run.spec = replace(run.spec, calibration=ARTICLES)
    assert ARTICLES[0].headline not in str(run.all_settings)
