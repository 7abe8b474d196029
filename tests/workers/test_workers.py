import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from faulty import FAULTY

from udaciheadline.checkpoints.models import resolve
from udaciheadline.data.prompts import prompt_for
from udaciheadline.records import EngineSpec, UsageError
from udaciheadline.techniques import techniques
from udaciheadline.workers.machine import machine
from udaciheadline.workers.processes import Here, redact
from udaciheadline.workers.worker import Worker, WorkerError, choose_device, choose_ranks

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


def generate_within(seconds: float, worker: Worker) -> None:
    """With a time-out that is for this call alone: a build takes longer on a slow machine."""
    worker._timeout = seconds
    worker.renew()
    worker.call("generate", [PROMPT])


def test_a_job_of_prompts_in_tokens_is_begun_and_ended_apart(worker: Worker, tokenizer: Any) -> None:
    worker.begin("job", tokenizer([PROMPT] * 3)["input_ids"], 2)
    made, seconds, size = worker.end()
    (generation,) = worker.call("generate", [PROMPT])
    assert made == [generation.token_ids] * 3
    assert seconds > 0
    assert size == 2


def test_a_worker_says_how_long_a_text_it_takes(worker: Worker) -> None:
    limit = worker.call("limit")
    assert limit.excess(limit.tokens, 1)
    assert not limit.excess(limit.tokens - 1, 1)


def test_a_worker_answers_with_what_its_engine_made(worker: Worker) -> None:
    (generation,) = worker.call("generate", [PROMPT])
    assert generation.headline
    assert 0 < generation.first_token_seconds <= generation.seconds


def test_a_worker_runs_in_a_process_of_its_own_that_close_ends(worker: Worker) -> None:
    pid = worker.pids[0]
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
    os.kill(worker.pids[0], signal.SIGKILL)
    with pytest.raises(WorkerError, match="killed by SIGKILL") as error:
        worker.call("generate", [PROMPT])
    assert error.value.status == "crash"


@pytest.mark.parametrize(
    ("technique", "status", "reason"),
    [
        ("rank-raises", "crash", "^rank 1: ValueError: the second half is upside down$"),
        ("rank-oom", "oom", "^rank 1: OutOfMemoryError: CUDA out of memory: the second half is too large$"),
        ("rank-killed", "crash", "^rank 1: the worker was killed by SIGKILL$"),
        ("rank-exits", "crash", "^rank 1: the worker ended with exit code 3$"),
        ("rank-sleeps-later", "timeout", "^no answer from rank 1 within the 2 s of --timeout$"),
    ],
)
def test_a_fault_of_one_rank_ends_them_all_and_names_it(
    spec: EngineSpec, monkeypatch: pytest.MonkeyPatch, technique: str, status: str, reason: str
) -> None:
    pids: list[int] = []
    end = Worker.close
    monkeypatch.setattr(Worker, "close", lambda self: (pids.extend(self.pids), end(self)))
    with pytest.raises(WorkerError, match=reason) as error:
        generate_within(2, Worker(FAULTY[technique], replace(spec, ranks=2), timeout=120))
    assert error.value.status == status
    assert len(set(pids)) == 2
    assert not any(map(exists, pids))


def test_an_answer_of_a_type_that_there_is_not_here_is_a_crash(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def recv(self: Connection) -> Any:
        raise AttributeError("no such class")

    monkeypatch.setattr(Connection, "recv", recv)
    with pytest.raises(WorkerError, match=r"cannot be read \(AttributeError: no such class\)") as caught:
        worker.call("info")
    assert caught.value.status == "crash"


def test_a_rank_that_is_killed_between_two_calls_ends_the_next_one(spec: EngineSpec) -> None:
    worker = Worker(techniques()["tensor-parallel"], replace(spec, ranks=2), timeout=120)
    pids = worker.pids
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(WorkerError, match="rank 1: the worker was killed by SIGKILL"):
        worker.call("generate", [PROMPT])
    assert not any(map(exists, pids))


def test_groups_side_by_side_do_not_meet(spec: EngineSpec) -> None:
    workers = [Worker(techniques()["tensor-parallel"], replace(spec, ranks=2), timeout=120) for _ in range(2)]
    first, second = (worker.call("generate", [PROMPT])[0] for worker in workers)
    assert first.token_ids == second.token_ids
    for worker in workers:
        worker.close()


def test_ranks_are_two_on_a_cpu_unless_others_are_asked_for() -> None:
    assert [choose_ranks(ranks, "cpu") for ranks in (None, 1, 3)] == [2, 1, 3]


@pytest.mark.parametrize(("gpus", "default"), [(1, 1), (2, 2), (8, 4)])
def test_a_rank_needs_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch, gpus: int, default: int) -> None:
    monkeypatch.setattr(Here, "gpus", gpus)
    assert choose_ranks(None, "cuda") == default
    assert choose_ranks(gpus, "cuda") == gpus
    with pytest.raises(UsageError, match=f"--ranks 9: PyTorch finds {gpus} CUDA GPUs here"):
        choose_ranks(9, "cuda")


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
    assert {"python", "torch", "transformers", "bitsandbytes", "threads", "cores", "cpu"} <= machine("cpu").keys()


def test_tokens_never_leave_in_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "my-own-secret")
    assert redact("401 for my-own-secret, or hf_abcdefghijkl") == "401 for ***, or ***"
