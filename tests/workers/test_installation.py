"""Other code on this host: its agent, the engines that it starts, and what cannot be one."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from sessions import ROOT

from udaciheadline.checkpoints.models import resolve
from udaciheadline.records import EngineSpec, UsageError
from udaciheadline.techniques import techniques
from udaciheadline.workers.installation import Installation
from udaciheadline.workers.torchrun import versions
from udaciheadline.workers.worker import HERE, Worker, WorkerError

MODEL = resolve("embedded", "--model")
SPEC = EngineSpec(MODEL, None, MODEL, "cpu", "float32", max_new_tokens=4)


@pytest.fixture(scope="module")
def this_code() -> Iterator[Installation]:
    made = Installation(str(ROOT))
    yield made
    made.close()


def test_other_code_says_which_versions_it_has(this_code: Installation) -> None:
    assert this_code.versions == versions()


def test_an_engine_of_other_code_answers_as_one_of_this(this_code: Installation) -> None:
    prompt = "Headline of: it rained all day.\nHeadline:"
    engines = [Worker(techniques()["kv-cache"], SPEC, 600.0, hosts) for hosts in ((this_code.host,), HERE)]
    there, here = (engine.call("generate", [prompt])[0] for engine in engines)
    assert there.token_ids == here.token_ids
    for engine in engines:
        engine.close()


def test_other_code_says_itself_what_its_techniques_are(this_code: Installation) -> None:
    other = replace(techniques()["kv-cache"], build=lambda spec: pytest.fail("built"))
    Worker(other, SPEC, 600.0, (this_code.host,)).close()


def test_a_technique_that_other_code_does_not_have_is_an_error_of_its_row(this_code: Installation) -> None:
    with pytest.raises(WorkerError, match="there is no newest"):
        Worker(replace(techniques()["kv-cache"], name="newest"), SPEC, 600.0, (this_code.host,))


def test_other_code_has_its_own_embedded_models(this_code: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(this_code.host, "_package", "/there")
    pruned = {"depth-pruned": resolve("embedded", "--model", "depth-pruned"), "width-pruned": "/elsewhere"}
    there = this_code.host._localised(replace(SPEC, pruned=pruned))
    assert there.model == "/there/checkpoints/embedded/main"
    assert there.pruned == {"depth-pruned": "/there/checkpoints/embedded/depth-pruned", "width-pruned": "/elsewhere"}


def test_an_engine_that_other_code_cannot_build_is_an_error_of_its_row(this_code: Installation) -> None:
    with pytest.raises(WorkerError, match="there is no pruned checkpoint of --model"):
        Worker(techniques()["depth-pruned"], SPEC, 600.0, (this_code.host,))


def test_nothing_is_left_of_other_code_that_was_closed() -> None:
    made = Installation(str(ROOT))
    worker = Worker(techniques()["kv-cache"], SPEC, 600.0, (made.host,))
    pid = worker.pids[0]
    made.close()
    worker.close()
    assert not psutil.pid_exists(pid)
    assert made._agent.returncode == 0


def test_a_python_that_has_this_installed_is_other_code() -> None:
    made = Installation(sys.executable)
    made.close()
    assert made.versions == versions()


def test_what_is_neither_a_checkout_nor_a_python_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it is neither a checkout of udaciheadline nor a Python"):
        Installation(str(tmp_path))


@pytest.mark.parametrize(
    ("agent", "why"),
    [
        pytest.param("", "it ended at once", id="of old, without an agent that can be asked"),
        pytest.param("import no_such_package", "No module named 'no_such_package'", id="without all that it needs"),
    ],
)
def test_other_code_that_does_not_come_up_is_refused_with_what_it_said(tmp_path: Path, agent: str, why: str) -> None:
    workers = tmp_path / "udaciheadline" / "workers"
    workers.mkdir(parents=True)
    for file in (workers.parent / "__init__.py", workers / "__init__.py"):
        file.touch()
    (workers / "agent.py").write_text(agent, "utf-8")
    with pytest.raises(UsageError, match=f"no process of it comes up .*{why}"):
        Installation(str(tmp_path))
