"""Wires the package to pytest: command-line options, the fixtures of a run, and what it says on the terminal."""

import argparse
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from udaciheadline.checkpoints import growth, models
from udaciheadline.data import articles, prompts
from udaciheadline.engines import ENGINES
from udaciheadline.evidence.verdict import GOALS, METRICS
from udaciheadline.records import UsageError
from udaciheadline.session import saved
from udaciheadline.session.row import Row, RowFailed
from udaciheadline.session.session import Session, batch_size, check_options, chosen_techniques
from udaciheadline.techniques import techniques
from udaciheadline.workers.processes import redact

ROOT = Path(__file__).parent
SESSION = pytest.StashKey[Session]()
HOSTS = pytest.StashKey[Any]()  # hosts.Hosts, under torchrun --nnodes


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    if not hasattr(pluginmanager.hook, "pytest_benchmark_group_stats"):
        raise pytest.UsageError("pytest-benchmark is missing here: install it, and leave out -p no:benchmark")
    group = parser.getgroup("udaciheadline", "headline benchmark (pytest bench)")
    shapes = "shape:NAME (embedded, grown to a true Llama's size: " + ", ".join(growth.SHAPES) + ")"
    add = group.addoption
    add("--technique", default="all", metavar="NAME[,NAME]", help="techniques to measure (default: all)")
    add("--dataset", default=articles.EMBEDDED, help="embedded, a .jsonl/.json/.csv/.parquet file, or a hub id")
    add("--articles", type=int, default=50, help="measure the first N usable articles (default: 50)")
    add("--text-column", default="short_description", help="column that the model reads")
    add("--headline-column", default="headline", help="column with the true headline")
    kinds = f"embedded, {shapes}, smollm2-135m, a checkpoint folder, a GGUF file or a hub id"
    add("--model", default=models.EMBEDDED, help=kinds)
    add("--target", help="larger model of the target and speculative rows (default: embedded with an embedded --model)")
    add("--draft", help="draft model of the speculative row (default: --model)")
    add("--prompt", default="notebook", help="notebook (default), chat, few-shot:K, or a text file with {text} in it")
    add("--stop", choices=prompts.STOPS, default="newline", help="where a headline ends besides (default: newline)")
    add("--minutes", type=float, metavar="M", help="divide so much time over the techniques (default: no limit)")
    add("--launches", type=int, metavar="N", help="processes that a row's rounds are divided over (default: up to 5)")
    add("--max-new-tokens", type=int, default=25, help="longest headline, in tokens (default: 25)")
    add("--batch-size", type=batch_size, metavar="N", help="articles at a time in a job (default: auto, the fastest)")
    add("--engine", choices=ENGINES, default=ENGINES[0], help="of techniques that exist on several (%(default)s)")
    ranks = "processes of a parallel technique (default: all GPUs, up to 4; 2 on CPU; at least one a host)"
    add("--ranks", type=int, metavar="N", help=ranks)
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto takes a GPU where there is one")
    dtypes = ("auto", "float32", "bfloat16", "float16")
    add("--dtype", choices=dtypes, default="auto", help="of every row; auto: bfloat16 where the GPU has it")
    add("--gates", type=Path, default=ROOT / "bench" / "gates.toml", help="thresholds (default: bench/gates.toml)")
    add("--results", type=Path, default=ROOT / "results", help="folder for what the run leaves (default: results)")
    baseline = "fail on what is worse than in that run: a file, a folder of baselines or of results, or a run's name"
    add("--baseline", metavar="RUN", help=baseline)
    add("--goal", choices=GOALS, default=GOALS[0], help="what to prefer among rows that keep --budget (%(default)s)")
    limits = 'limits that what is deployed must keep, such as "p99<50ms, memory<4GiB, nll<+0.02": ' + ", ".join(METRICS)
    add("--budget", default="", metavar="LIMITS", help=limits)
    add("--details", action="store_true", help="show all figures in the end, in a wide table with its legend")
    add("--profile", action="store_true", help="write a torch.profiler trace and table for each technique")
    with contextlib.suppress(ValueError, argparse.ArgumentError):  # pytest-timeout has one of this name and meaning
        add("--timeout", type=float, help="seconds that one technique may take (default: 600)")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> pytest.ExitCode | None:
    """Under `torchrun --nnodes` every host but the first works for that one, and runs no test of its own."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    from udaciheadline.workers import agent, hosts, torchrun

    try:
        here = torchrun.Torchrun.from_environment()
        if here.number > 0:
            agent.work(here)
            return pytest.ExitCode.OK
        if here.count > 1:
            config.stash[HOSTS] = hosts.Hosts(here)
            config.add_cleanup(config.stash[HOSTS].close)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None
    except KeyboardInterrupt:
        return pytest.ExitCode.INTERRUPTED
    return None


@pytest.hookimpl(tryfirst=True)  # before pytest-benchmark opens its storage
def pytest_configure(config: pytest.Config) -> None:
    option = config.option
    if option.benchmark_storage == "file://./.benchmarks":
        option.benchmark_storage = f"file://{option.results}"
    paths = [(config.invocation_params.dir / arg.partition("::")[0]).resolve() for arg in config.args]
    benches = [path for path in paths if path.is_relative_to(ROOT / "bench") or ROOT.is_relative_to(path)]
    if benches and getattr(option, "dist", "no") != "no":
        raise pytest.UsageError("-n: side by side, techniques would measure each other: run without pytest-xdist")
    try:
        check_options(option)
        saved.take_over(option)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if collection_path.name == "test_profile.py" and not config.option.profile else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "row" in metafunc.fixturenames:
        chosen = chosen_techniques(metafunc.config.option)
        metafunc.parametrize("row", [technique.name for technique in chosen], indirect=True, scope="session")


@pytest.hookimpl(tryfirst=True)  # before pytest brings together the tests of each row
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is timed comes first, so that memory and quality are those of what was timed."""
    timed = ("test_latency.py", "test_throughput.py")
    items.sort(key=lambda item: item.path.name not in timed)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Prepares the run before its first test, so that an unusable dataset or model ends the session at once."""
    config: Any = session.config
    if config.option.collectonly or not any("row" in getattr(i, "fixturenames", ()) for i in session.items):
        return
    terminal: Any = config.pluginmanager.getplugin("terminalreporter")
    if terminal is None:
        raise pytest.UsageError("-p no:terminal: the report of the run is shown there: leave it out")
    capture: Any = config.pluginmanager.getplugin("capturemanager")

    def write(text: str) -> None:
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            terminal.write(text, flush=True)

    gather = config.stash[HOSTS].gather if HOSTS in config.stash else None
    try:
        runs = saved.find(config._benchmarksession.storage, config.option.compare_with)
        prepared = config.stash[SESSION] = Session(config.option, write, terminal.isatty, gather)
        prepared.compared = saved.compare(config._benchmarksession, runs)
    except UsageError as error:
        raise pytest.UsageError(redact(str(error))) from None
    config.pluginmanager.register(prepared)


@pytest.fixture(scope="session")
def bench_session(pytestconfig: pytest.Config) -> Iterator[Session]:
    """The prepared session; the engines that rows are compared with end with it."""
    session = pytestconfig.stash[SESSION]
    yield session
    session.run.close()


@pytest.fixture(scope="session")
def row(request: pytest.FixtureRequest, bench_session: Session) -> Iterator[Row]:
    """One technique's row with its engine, built once a session, in a worker process that ends with it."""
    row = Row(bench_session.run, techniques()[request.param])
    if row.status == "skipped":
        bench_session.keep(row)
        pytest.skip(row.reason)
    yield row
    try:
        if not bench_session.interrupted:
            bench_session.keep(row)
    finally:
        row.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: Any) -> Iterator[None]:
    """A row that has ended is one failure, of the first test that meets the end: the others are skipped."""
    try:
        return (yield)
    except RowFailed:
        row: Row = item.funcargs["row"]
        if why := row.tell_end():
            raise pytest.fail.Exception(why, pytrace=False) from None
        raise pytest.skip.Exception(f"{row.technique.name}: the row ended ({row.status})") from None


@pytest.hookimpl(tryfirst=True)
def pytest_benchmark_generate_json(benchmarks: list[Any]) -> None:
    """Saves what was measured: pytest-benchmark fails on a benchmark that Ctrl-C cut off before its first round."""
    benchmarks[:] = [benchmark for benchmark in benchmarks if benchmark]


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    if session := config.stash.get(SESSION, None):
        machine_info["udaciheadline"] = session.run.environment


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails on what `--benchmark-compare-fail` has found: pytest-benchmark has compared."""
    if found := saved.regressions(session.config._benchmarksession):
        session.config.stash[SESSION].regressions = found
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
    if prepared := session.config.stash.get(SESSION, None):
        session.exitstatus = prepared.end(int(session.exitstatus))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    session = config.stash.get(SESSION, None)
    writer = config.get_terminal_writer()
    sections = session.summary(lambda text, colour: writer.markup(text, **{colour: True})) if session else {}
    for title, text in sections.items():
        terminalreporter.section(title)
        terminalreporter.write_line(text)
