import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_workers import FakeWorker
from hypothesis import settings

from udaciheadline.checkpoints import models
from udaciheadline.data import newswire
from udaciheadline.records import Article, EngineSpec
from udaciheadline.session import run
from udaciheadline.techniques import techniques

# Before torch is imported: two threads that wait for each other crawl on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before the first process is started: pytest.ini is for this one, and a library's warning is an error in all of them.
os.environ.setdefault("PYTHONWARNINGS", "error::FutureWarning")
# Before Triton is imported: its kernels are run by an interpreter, on the CPU.
os.environ["TRITON_INTERPRET"] = "1"

# What tests calibrate is not kept in the user's home; what else lies there stays where it is.
for _variable, _folder in (("HF_HOME", "huggingface"), ("TORCHINDUCTOR_CACHE_DIR", "udaciheadline/inductor")):
    _cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    os.environ.setdefault(_variable, str(_cache / _folder))
_own = tempfile.TemporaryDirectory()
os.environ["XDG_CACHE_HOME"] = _own.name

# The same examples on every run, and no time limit on a busy machine.
settings.register_profile("tests", database=None, derandomize=True, deadline=None)
# Other ones, many more of them, where it is asked for: pytest --hypothesis-profile thorough
settings.register_profile("thorough", database=None, deadline=None, max_examples=10_000)
settings.load_profile("tests")


LONGEST = (
    "test_bench.py",
    "test_hosts.py",
    "test_compare.py",
    "test_faults.py",
    "test_gguf.py",
    "test_parallel.py",
    "test_compiled_tokens.py",
    "test_kernels.py",
    "test_interruptions.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """With `-n`, the tests of a file stay together: they share models, programs and sessions, which take the time."""
    if getattr(config.option, "dist", "no") == "load":
        config.option.dist, config.option.loadscopereorder = "loadfile", False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, so that no process is left alone with it in the end."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def huggingface_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Datasets are cached in a temporary folder, and the hub is off line, as with HF_HUB_OFFLINE=1."""
    import datasets
    import huggingface_hub

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="session")
def main_checkpoint() -> str:
    return models.resolve(models.EMBEDDED, "--model")


@pytest.fixture(scope="session")
def target_checkpoint() -> str:
    return models.resolve(models.EMBEDDED, "--target", "target")


@pytest.fixture
def main_copy(main_checkpoint: str, tmp_path: Path) -> Path:
    """A copy of the embedded main model that a test may spoil."""
    return Path(shutil.copytree(main_checkpoint, tmp_path / "model"))


@pytest.fixture(scope="session")
def tokenizer(main_checkpoint: str) -> Any:
    return models.load_tokenizer(main_checkpoint)


@pytest.fixture(scope="session")
def news() -> tuple[Article, ...]:
    """A few articles of the embedded evaluation set."""
    return newswire.evaluation_articles()[:24]


@pytest.fixture
def spec(main_checkpoint: str, target_checkpoint: str) -> EngineSpec:
    return EngineSpec(main_checkpoint, target_checkpoint, main_checkpoint, "cpu", "float32", max_new_tokens=8, ranks=2)


@pytest.fixture
def build(spec: EngineSpec) -> Callable[..., Any]:
    """Builds the engine of a technique by name, on the embedded models."""
    return lambda name, **changes: techniques()[name].build(replace(spec, **changes))


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> type[FakeWorker]:
    """What every row and the reference get; a test may change how fast it is and what fits."""
    kind = type("Worker", (FakeWorker,), {"started": []})
    monkeypatch.setattr(run, "Worker", kind)
    monkeypatch.setattr(run, "machine", lambda device: {})
    return kind


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, bytes | str], str]:
    """Writes a file of this name; its path."""

    def write(name: str, content: bytes | str) -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any question to the hub is a failure of the test."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a, **k: pytest.fail("the hub was asked"))
