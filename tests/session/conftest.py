"""A session of which a test plays as many rows as it wants to."""

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_workers import FakeWorker

from udaciheadline.session import session as module
from udaciheadline.session.session import Session

GATES = Path(__file__).parents[2] / "bench" / "gates.toml"
OPTIONS = {
    "technique": "kv-cache,pruned", "gates": GATES, "dataset": "embedded", "articles": 4, "prompt": "notebook",
    "text_column": "short_description", "headline_column": "headline", "model": "embedded", "target": None,
    "draft": None, "device": "cpu", "dtype": "auto", "ranks": None, "max_new_tokens": 8, "engine": "transformers",
    "stop": "newline", "batch_size": 2, "launches": 1, "timeout": None, "minutes": None, "baseline": None,
    "quality_articles": None, "goal": "interactive", "budget": "", "details": False,
    "pruned_model": [], "against": None,
}  # fmt: skip


@pytest.fixture
def session(tmp_path: Path, worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch) -> Session:
    """A session whose workers are none, and its rows as far as a test takes them."""
    monkeypatch.setattr(module.worker, "choose_device", lambda *_: ("cpu", "float32"))
    monkeypatch.setattr(module.processes, "forks", lambda: True)
    return Session(Namespace(**OPTIONS, results=tmp_path / "results"), lambda text: None, False)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock on which an answer takes no time, so that what is left is what was given."""
    clock = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr("time.monotonic", lambda: clock.seconds)
    return clock
