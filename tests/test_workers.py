import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty import FAULTY

from udaciheadline.models import resolve
from udaciheadline.prompts import prompt_for
from udaciheadline.records import EngineSpec, UsageError
from udaciheadline.techniques import techniques
from udaciheadline.workers import Worker, WorkerError, choose_device, machine, redact

PROMPT = prompt_for(
    "Strollers will not be free of smoke, because the council in Orrmarch declined to forbid cigarettes."
)


@pytest.fixture(scope="module")
def spec() -> EngineSpec:
    model = resolve("embedded", "--model")
    return EngineSpec(model, None, model, "cpu", "float32")


@pytest.fixture
def worker(spec: EngineSpec) -> Iterator[Worker]:
    worker = Worker(techniques()["kv-cache"], spec, timeout=120)
    yield worker
    worker.close()


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_a_worker_answers_with_what_its_engine_made(worker: Worker) -> None:
    (generation,) = worker.call("generate", [PROMPT])
    assert generation.headline
    assert 0 < generation.first_token_seconds <= generation.seconds


def test_a_worker_runs_in_a_process_of_its_own_that_close_ends(worker: Worker) -> None:
    pid = worker.pid
    assert pid != os.getpid()
    assert exists(pid)
    worker.close()
    assert not exists(pid)


@pytest.mark.parametrize(
    ("technique", "status", "reason"),
    [
        ("raises", "crash", "ValueError: the weights are upside down"),
        ("mend", "error", "the checkpoint is torn: mend it"),
        ("oom", "oom", "memory"),
        ("unsupported", "skipped", "^its layers are round, and this takes square ones$"),
    ],
)
def test_a_build_that_fails_says_why(spec: EngineSpec, technique: str, status: str, reason: str) -> None:
    with pytest.raises(WorkerError, match=reason) as error:
        Worker(FAULTY[technique], spec, timeout=120)
    assert error.value.status == status
    assert "Traceback" in error.value.details


def test_a_worker_that_hangs_is_killed_at_the_time_out_and_its_output_kept(spec: EngineSpec) -> None:
    with pytest.raises(WorkerError, match="no answer within the 3 s of --timeout") as error:
        Worker(FAULTY["hangs"], spec, timeout=3)
    assert error.value.status == "timeout"
    assert "waiting for something that never comes" in error.value.details


def test_a_worker_that_is_killed_is_a_crash_that_names_the_signal(worker: Worker) -> None:
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match="killed by SIGKILL") as error:
        worker.call("generate", [PROMPT])
    assert error.value.status == "crash"


def test_the_time_out_is_for_all_calls_until_it_is_renewed(worker: Worker) -> None:
    worker.call("generate", [PROMPT])
    before = worker.seconds_left
    worker.call("generate", [PROMPT])
    assert worker.seconds_left < before
    worker.renew()
    assert worker.seconds_left == 120


def test_auto_is_float32_on_a_machine_without_a_gpu() -> None:
    device, dtype = choose_device("auto", "auto")
    assert (device, dtype) in {("cpu", "float32"), ("cuda", "bfloat16")}
    assert choose_device("cpu", "auto") == ("cpu", "float32")
    assert choose_device("cpu", "bfloat16") == ("cpu", "bfloat16")


def test_a_gpu_that_is_not_there_is_a_usage_error() -> None:
    if choose_device("auto", "auto")[0] == "cuda":
        pytest.skip("there is one here")
    with pytest.raises(UsageError, match="--device cuda: PyTorch finds no CUDA GPU"):
        choose_device("cuda", "auto")


def test_the_machine_is_described_with_the_versions_that_numbers_depend_on() -> None:
    assert {"python", "torch", "transformers", "bitsandbytes", "threads"} <= machine("cpu").keys()


def test_tokens_never_leave_in_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "my-own-secret")
    assert redact("401 for my-own-secret, or hf_abcdefghijkl") == "401 for ***, or ***"
