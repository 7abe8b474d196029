"""Two hosts, both on this machine: whole sessions under torchrun, and workers with a rank in an agent's hands."""

import os
import socket
import subprocess
import sys
import types
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

import psutil
import pytest
from faulty import FAULTY
from sessions import FEW, PATIENCE, ROOT, Hanging, environment, faulty, records
from test_workers import generate_within
from torch.distributed import TCPStore

from udaciheadline.data.prompts import prompt_for
from udaciheadline.records import EngineSpec, UsageError
from udaciheadline.techniques import Technique, techniques
from udaciheadline.workers import hosts as module
from udaciheadline.workers.hosts import Hosts
from udaciheadline.workers.serving import LOOPBACK, Place
from udaciheadline.workers.torchrun import Hello, Torchrun, versions
from udaciheadline.workers.worker import Worker, WorkerError, choose_ranks, placed

PROMPT = prompt_for("Rescuers packed up on Tuesday, no closer to Nellen Zornrick, and returned to Ashmarch.")
PROMPTS = [PROMPT, prompt_for("A tunnel below the Zornrick was closed, because water had come in.")]
PARALLEL = ("tensor-parallel", "pipeline-parallel")
FROM_TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "1",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_RESTART_COUNT": "0",
}


# -- whole sessions ----------------------------------------------------------------------------------------------------


@dataclass
class Session(Hanging):
    """The same command on two hosts; `process` is host 0's torchrun."""

    other: subprocess.Popen[bytes]

    def output(self, host: int = 0) -> str:
        return (self.results / f"host{host}.txt").read_text("utf-8")

    def kill(self) -> None:
        super().kill()
        self.other.wait()


def start(results: Path, port: int, *arguments: str) -> Session:
    mark = uuid.uuid4().hex
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    torchrun += ["--master-addr", LOOPBACK, "--master-port", str(port)]
    pytest_bench = ["-m", "pytest", "bench", "--results", str(results), "--device", "cpu", *arguments]
    started = []
    for host in range(2):
        with (results / f"host{host}.txt").open("w") as output:
            line = [*torchrun, "--node-rank", str(host), *pytest_bench]
            both = {"stdout": output, "stderr": subprocess.STDOUT, "env": environment(MARK_OF_THIS_TEST=mark)}
            started.append(subprocess.Popen(line, cwd=ROOT, start_new_session=True, **both))
    return Session(results, mark, *started)


def sessions_of_two_hosts(folder: Path) -> tuple[tuple[Session, tuple[int, int]], tuple[Session, list[str]]]:
    """Side by side: a sound one with its exit codes, and one whose host 0 was killed in a row that hangs, with the
    processes that were left."""
    sound, hanging = folder / "sound", folder / "hanging"
    sound.mkdir()
    hanging.mkdir()
    with socket.create_server((LOOPBACK, 0)) as one, socket.create_server((LOOPBACK, 0)) as two:
        ports = [free.getsockname()[1] for free in (one, two)]
    whole = start(sound, ports[0], *FEW, "--technique", "tensor-parallel", "--batch-size", "2")
    torn = start(hanging, ports[1], *faulty(hanging, "raises,rank-sleeps"), *FEW)
    try:
        torn.reach("rank-sleeps")
        (pytest_0,) = psutil.Process(torn.process.pid).children()
        pytest_0.kill()
        assert torn.process.wait(PATIENCE) != 0
        assert torn.other.wait(PATIENCE) != 0
        left = torn.left()
        return (whole, (whole.process.wait(PATIENCE), whole.other.wait(PATIENCE))), (torn, left)
    finally:
        torn.kill()
        whole.kill()


@pytest.fixture(scope="module")
def two_hosts(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[tuple[Session, tuple[int, int]], tuple[Session, list[str]]]:
    return sessions_of_two_hosts(tmp_path_factory.mktemp("two_hosts"))


def test_when_host_0_is_killed_the_other_host_says_so_and_nothing_is_left_on_either(two_hosts) -> None:
    _, (session, left) = two_hosts
    assert "raises" in records(session.results)
    assert f"ERROR: host 0 ({LOOPBACK}) has gone before the end of its session" in session.output(1)
    assert left == []


def test_techniques_of_two_hosts_are_rows_like_any_other_and_both_commands_end_well(two_hosts) -> None:
    (session, codes), _ = two_hosts
    assert codes == (0, 0), session.output(0) + session.output(1)
    name = socket.gethostname()
    record = records(session.results)["tensor-parallel"]
    assert (record["status"], record["reason"]) == ("ok", "")
    assert [v["status"] for v in record["verdicts"] if v["gate"] == "parity"] == ["pass"]
    assert len(record["parallel"]["weights_bytes"]) == 2
    assert record["environment"]["hosts"] == f"host 0 ({name}), host 1 ({name})"
    assert f"host 1 ({name}) starts ranks for host 0 ({LOOPBACK})" in session.output(1)


# -- workers with a rank on host 1 -------------------------------------------------------------------------------------


class Pair:
    """Host 0 in this process, and an agent for host 1 in another one."""

    def __init__(self) -> None:
        store = TCPStore(LOOPBACK, 0, is_master=True, wait_for_workers=False)
        script = f"import udaciheadline.workers.agent as a; a.work(a.Torchrun(1, 2, {LOOPBACK!r}, {store.port}, '0'))"
        self.agent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env=environment())
        self._all = Hosts(Torchrun(0, 2, LOOPBACK, store.port, "0"))
        self.hosts = self._all.gather()

    def close(self) -> int:
        self._all.close()
        return self.agent.wait(PATIENCE)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


@pytest.fixture(scope="module")
def spec(main_checkpoint: str) -> EngineSpec:
    return EngineSpec(main_checkpoint, None, main_checkpoint, "cpu", "float32", ranks=2)


@pytest.fixture(scope="module")
def one_process(pair: Pair, spec: EngineSpec) -> Iterator[Worker]:
    worker = Worker(techniques()["kv-cache"], spec, 120, pair.hosts)
    yield worker
    worker.close()


def test_a_worker_of_one_process_is_on_host_0(pair: Pair, one_process: Worker) -> None:
    (pid,) = one_process.pids
    assert psutil.Process(pid) not in psutil.Process(pair.agent.pid).children(recursive=True)


@pytest.mark.parametrize("technique", PARALLEL)
def test_ranks_are_on_both_hosts_and_gone_with_the_worker(
    pair: Pair, spec: EngineSpec, one_process: Worker, technique: str
) -> None:
    worker = Worker(techniques()[technique], spec, 120, pair.hosts)
    ours, theirs = (psutil.Process(pid) for pid in worker.pids)
    agent = psutil.Process(pair.agent.pid)
    assert theirs in agent.children(recursive=True)
    assert ours not in agent.children(recursive=True)
    made, expected = ([g.token_ids for g in each.call("generate", PROMPTS)] for each in (worker, one_process))
    assert made == expected
    worker.close()
    assert not theirs.is_running()
    assert not ours.is_running()


@pytest.mark.parametrize(
    ("technique", "status", "reason"),
    [
        ("rank-raises", "crash", r"^rank 1 on host 1 \(.+\): ValueError: the second half is upside down$"),
        ("rank-killed", "crash", r"^rank 1 on host 1 \(.+\): the worker was killed by SIGKILL$"),
        ("rank-exits", "crash", r"^rank 1 on host 1 \(.+\): the worker ended with exit code 3$"),
        ("rank-sleeps-later", "timeout", r"^no answer from rank 1 on host 1 \(.+\) within the 2 s of --timeout$"),
    ],
)
def test_a_fault_of_a_rank_names_its_host_and_ends_them_all(
    pair: Pair, spec: EngineSpec, technique: str, status: str, reason: str
) -> None:
    agent = psutil.Process(pair.agent.pid)
    before = agent.children(recursive=True)
    with pytest.raises(WorkerError, match=reason) as error:
        generate_within(2, Worker(FAULTY[technique], spec, 120, pair.hosts))
    assert error.value.status == status
    assert agent.children(recursive=True) == before


def test_what_an_agent_cannot_do_is_said_and_it_goes_on(
    pair: Pair, spec: EngineSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = types.ModuleType("only_here")
    exec("def build(spec): ...", vars(plugin))
    monkeypatch.setitem(sys.modules, "only_here", plugin)
    reason = r"^rank 1 on host 1 \(.+\) cannot be started: ModuleNotFoundError: No module named 'only_here'$"
    with pytest.raises(WorkerError, match=reason):
        Worker(Technique("new", "New", 1, plugin.build, parallel=True), spec, 120, pair.hosts)
    Worker(techniques()["tensor-parallel"], spec, 120, pair.hosts).close()


def test_a_host_that_goes_away_ends_the_worker_and_only_later_ones_that_need_it(pair: Pair, spec: EngineSpec) -> None:
    """The last test of the `pair`: its host 1 is not there any more."""
    worker = Worker(techniques()["tensor-parallel"], spec, 120, pair.hosts)
    ranks = [psutil.Process(pid) for pid in worker.pids]
    pair.agent.kill()
    gone = r"pytest there has ended, or cannot be reached$"
    psutil.wait_procs(ranks[1:], 30)
    with pytest.raises(WorkerError, match=rf"^rank 1 on host 1 \(.+\): {gone}"):
        worker.call("generate", [PROMPT])
    psutil.wait_procs(ranks, 30)
    assert not any(rank.is_running() for rank in ranks)
    with pytest.raises(WorkerError, match=rf"^rank 1 on host 1 \(.+\) cannot be started: {gone}"):
        Worker(techniques()["tensor-parallel"], spec, 120, pair.hosts)
    Worker(techniques()["kv-cache"], spec, 120, pair.hosts).close()


# -- who joins, and where ranks go -------------------------------------------------------------------------------------

HELLO = Hello(1, "node1", "10.0.0.2", 8, versions(), "/opt/there")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Hosts, tuple[str, int], bytes]]:
    """Host 0 that waits for host 1, and the port and the key that it left for it."""
    left: list[str] = []
    monkeypatch.setattr(module, "elsewhere", lambda function, torchrun, text: left.append(text))
    hosts = Hosts(Torchrun(0, 2, LOOPBACK, 0, "0"))
    port, key = left[0].split()
    yield hosts, (LOOPBACK, int(port)), bytes.fromhex(key)
    hosts.close()


def test_a_host_with_another_version_is_refused(alone) -> None:
    hosts, address, key = alone
    with Client(address, authkey=key) as control:
        control.send(replace(HELLO, versions=versions() | {"torch": "1.0"}))
        with pytest.raises(
            UsageError, match=r"^host 1 \(node1\) has torch 1\.0, and host 0 has \d.+: install the same"
        ):
            hosts.gather()


def test_who_does_not_know_the_key_is_not_a_host(alone, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts, address, _ = alone
    monkeypatch.setattr(module, "JOIN_SECONDS", 0.2)
    with pytest.raises(AuthenticationError):
        Client(address, authkey=b"guessed")
    with pytest.raises(UsageError, match=r"^host 1 of 0 to 1 has not joined within 0\.2 s: run the same command there"):
        hosts.gather()


def test_an_embedded_model_is_that_of_the_hosts_own_installation(alone, spec: EngineSpec) -> None:
    hosts, address, key = alone
    with Client(address, authkey=key) as control:
        control.send(HELLO)
        _, there = hosts.gather()
        control.send((False, "it has been asked enough"))
        with pytest.raises(ConnectionError, match="enough"):
            there.start(techniques()["kv-cache"], replace(spec, target="shape:llama-3.2-1b/main", draft="own"), Place())
        _, _, asked, _ = control.recv()
    assert asked.model == str(Path("/opt/there/checkpoints/embedded/main"))
    assert (asked.target, asked.draft) == ("shape:llama-3.2-1b/main", "own")


def test_torchruns_variables_are_read_and_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FROM_TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert Torchrun.from_environment() == Torchrun(1, 2, "node0", 29500, "0")
    assert not FROM_TORCHRUN.keys() & os.environ.keys()


def test_several_processes_a_host_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (FROM_TORCHRUN | {"LOCAL_WORLD_SIZE": "4"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=r"^--nproc-per-node 4: give 1: pytest itself starts the ranks"):
        Torchrun.from_environment()


@dataclass(frozen=True)
class Machine:
    name: str
    gpus: int
    address: str = ""


def machines(*gpus: int) -> list[Any]:
    return [Machine(f"host {number} (node{number})", each, f"10.0.0.{number}") for number, each in enumerate(gpus)]


@pytest.mark.parametrize(
    ("ranks", "hosts", "expected"),
    [
        (1, 2, [(0, 0, 1)]),
        (2, 2, [(0, 0, 1), (1, 0, 1)]),
        (3, 2, [(0, 0, 2), (0, 1, 2), (1, 0, 1)]),
        (4, 2, [(0, 0, 2), (0, 1, 2), (1, 0, 2), (1, 1, 2)]),
        (4, 3, [(0, 0, 2), (0, 1, 2), (1, 0, 1), (2, 0, 1)]),
    ],
)
def test_ranks_follow_each_other_in_a_block_on_each_host(
    ranks: int, hosts: int, expected: list[tuple[int, int, int]]
) -> None:
    there = machines(*[8] * hosts)
    assert [(there.index(h), p.local_rank, p.local_ranks) for h, p in placed(ranks, there)] == expected
    for rank, (host, place) in enumerate(placed(ranks, there)):
        assert (place.rank, place.ranks, place.address, place.first_address) == (rank, ranks, host.address, "10.0.0.0")


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [
        ("cpu", (0, 0), 2),
        ("cpu", (0, 0, 0), 3),
        ("cuda", (1, 1), 2),
        ("cuda", (8, 8), 4),
        ("cuda", (1, 8), 2),
        ("cuda", (3,) * 5, 5),
    ],
)
def test_by_default_every_host_has_as_many_ranks_up_to_four_in_all_and_one_at_least(
    device: str, gpus: tuple[int, ...], expected: int
) -> None:
    assert choose_ranks(None, device, machines(*gpus)) == expected


@pytest.mark.parametrize(
    ("ranks", "gpus", "message"),
    [
        (6, (4, 2), r"--ranks 6: PyTorch finds 2 CUDA GPUs on host 1 \(node1\), where 3 of them would be"),
        (None, (1, 0), r"--ranks 2: PyTorch finds 0 CUDA GPUs on host 1 \(node1\), where 1 of them would be"),
    ],
)
def test_more_ranks_than_a_host_has_gpus_are_refused(ranks: int | None, gpus: tuple[int, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose_ranks(ranks, "cuda", machines(*gpus))
