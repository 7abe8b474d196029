"""Where workers come from, seen in sessions of their own: each has a server of its own to fork from."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from udaciheadline.workers.processes import LONGEST_FOLDER, SHORT_FOLDERS

TESTS = Path(__file__).parent.parent
SCRIPT = """
import json, os, sys
{first}
from multiprocessing import util
from udaciheadline.checkpoints.models import resolve
from udaciheadline.records import EngineSpec
from udaciheadline.techniques import techniques
from udaciheadline.workers import processes
from udaciheadline.workers.worker import Worker

if __name__ == "__main__":
    model = resolve("embedded", "--model")
    worker = Worker(techniques()["kv-cache"], EngineSpec(model, None, model, "cpu", "float32"), timeout=120)
    (generation,) = worker.call("generate", ["A council has met."])
    found = {{"tokens": generation.token_ids, "forks": processes.forks(), "sockets": util.get_temp_dir()}}
    worker.close()
    print(json.dumps(found))
"""


def in_a_session(folder: Path, first: str = "", **environment: str) -> dict[str, Any]:
    """What a session of one worker has found; its script is in this folder."""
    script = folder / "session.py"
    script.write_text(SCRIPT.format(first=first), "utf-8")
    path = os.pathsep.join(filter(None, [str(folder), str(TESTS), os.environ.get("PYTHONPATH", "")]))
    output = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert output.returncode == 0, output.stderr
    return json.loads(output.stdout)


def with_torchao_session(folder: Path) -> tuple[Path, dict[str, Any]]:
    """A session with a library that transformers would import, and with a long TMPDIR."""
    (folder / "torchao").mkdir()
    (folder / "torchao" / "__init__.py").write_text(f"open({str(folder / 'imported')!r}, 'w').close()\n", "utf-8")
    (folder / "torchao-99.0.dist-info").mkdir()
    (folder / "torchao-99.0.dist-info" / "METADATA").write_text("Name: torchao\nVersion: 99.0\n", "utf-8")
    long = folder / "temporary".ljust(95 - len(str(folder)), "y")
    long.mkdir()
    return folder, in_a_session(folder, TMPDIR=str(long))


def with_cuda_session(folder: Path) -> dict[str, Any]:
    """A session whose server has touched CUDA."""
    return in_a_session(folder, "import cuda_taken", TMPDIR=tempfile.gettempdir())


@pytest.fixture(scope="module")
def with_torchao(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    return with_torchao_session(tmp_path_factory.mktemp("with_torchao"))


@pytest.fixture(scope="module")
def with_cuda(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return with_cuda_session(tmp_path_factory.mktemp("with_cuda"))


def test_an_optional_library_is_not_imported_where_workers_are_forked(
    with_torchao: tuple[Path, dict[str, Any]],
) -> None:
    folder, found = with_torchao
    assert found["forks"]
    assert found["tokens"]
    assert not (folder / "imported").exists()


def test_a_long_temporary_folder_gets_its_sockets_a_short_one_that_goes_with_the_session(
    with_torchao: tuple[Path, dict[str, Any]],
) -> None:
    folder, found = with_torchao
    sockets = Path(found["sockets"])
    assert str(sockets.parent) in SHORT_FOLDERS
    assert not sockets.exists()
    assert [list(path.iterdir()) for path in folder.glob("temporary*")] == [[]]


def test_a_temporary_folder_of_the_longest_length_holds_the_sockets() -> None:
    assert LONGEST_FOLDER + len("/pymp-12345678/listener-12345678") < 104


def test_where_the_server_has_touched_cuda_workers_are_started_anew(
    with_torchao: tuple[Path, dict[str, Any]], with_cuda: dict[str, Any]
) -> None:
    assert not with_cuda["forks"]
    assert with_cuda["tokens"] == with_torchao[1]["tokens"]
