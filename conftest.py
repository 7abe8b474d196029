"""Wires the package to pytest: command-line options, the fixtures of a run, and what it says on the terminal."""

import argparse
import contextlib
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from udaciheadline.data import articles
from udaciheadline.evidence.verdict import GOALS, METRICS
from udaciheadline.records import UsageError
from udaciheadline.session import saved
from udaciheadline.session.options import add_shared
from udaciheadline.session.row import Row, RowFailed
from udaciheadline.session.session import Session, check_options, chosen_techniques
from udaciheadline.techniques import techniques
from udaciheadline.workers.processes import redact

ROOT = Path(__file__).parent
SESSION = pytest.StashKey[Session]()
HOSTS = pytest.StashKey[Any]()  # hosts.Hosts, under torchrun --nnodes
STOPS = signal.SIGINT, signal.SIGTERM


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    if not hasattr(pluginmanager.hook, "pytest_benchmark_group_stats"):
        raise pytest.UsageError("pytest-benchmark is missing here: install it, and leave out -p no:benchmark")
    group = parser.getgroup("udaciheadline", "headline benchmark (pytest bench)")
    if group.options:  # pytest has taken an option's value for tests, and found a conftest.py there
        raise pytest.UsageError("a path into another checkout belongs to its option: write --against=CODE, with =")
    add = group.addoption
    add("--technique", default="all", metavar="NAME[,NAME]", help="techniques to measure (default: all)")
    add("--dataset", default=articles.EMBEDDED, help="embedded, a .jsonl/.json/.csv/.parquet file, or a hub id")
    add("--articles", type=int, default=50, help="measure the first N usable articles (default: 50)")
    add_shared(add)
    quality = "judge quality on the first N (default: as many as jobs write in about the time of the rounds, to 1000)"
    add("--quality-articles", type=int, metavar="N", help=quality)
    add("--minutes", type=float, metavar="M", help="divide so much time over the techniques (default: no limit)")
    add("--launches", type=int, metavar="N", help="processes that a row's rounds are divided over (default: up to 5)")
    add("--gates", type=Path, default=ROOT / "bench" / "gates.toml", help="thresholds (default: bench/gates.toml)")
    add("--results", type=Path, default=ROOT / "results", help="folder for what the run leaves (default: results)")
    baseline = "fail on what is worse than in that run: a file, a folder of baselines or of results, or a run's name"
    add("--baseline", metavar="RUN", help=baseline)
    against = "fail on what is worse than in other code, in turn with it: a checkout, or a Python that has it (with =)"
    add("--against", metavar="CODE", help=against)
    add("--goal", choices=GOALS, default=GOALS[0], help="what to prefer among rows that keep --budget (%(default)s)")
    limits = 'limits that what is deployed must keep, such as "p99<50ms, memory<4GiB, nll<+0.02": ' + ", ".join(METRICS)
    add("--budget", default="", metavar="LIMITS", help=limits)
    add("--details", action="store_true", help="show all figures in the end, in a wide table with its legend")
    add("--batch-curve", action="store_true", help="measure jobs of 1, 4, 16, 64 and 256 articles at a time")
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
    asked = {"test_profile.py": config.option.profile, "test_batch_curve.py": config.option.batch_curve}
    return None if asked.get(collection_path.name, True) else True


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "row" in metafunc.fixturenames:
        chosen = chosen_techniques(metafunc.config.option)
        metafunc.parametrize("row", [technique.name for technique in chosen], indirect=True, scope="session")


@pytest.hookimpl(tryfirst=True)  # before pytest brings together the tests of each row
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is timed comes first, so that memory and quality are those of what was timed; and larger batches last."""
    first, last = ("test_latency.py", "test_throughput.py"), "test_batch_curve.py"
    items.sort(key=lambda item: (item.path.name not in first, item.path.name == last))


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
    for number in STOPS:
        config.add_cleanup(partial(signal.signal, number, signal.signal(number, stop)))
    try:
        runs = saved.find(config._benchmarksession.storage, config.option.compare_with)
        prepared = config.stash[SESSION] = Session(config.option, write, terminal.isatty, gather)
        prepared.compared = saved.compare(config._benchmarksession, runs)
        saved.keep_on(config._benchmarksession, prepared.warnings)
    except UsageError as error:
        raise pytest.UsageError(redact(str(error))) from None
    config.pluginmanager.register(prepared)


def stop(number: int, _: object) -> None:
    """Ends the session at Ctrl-C, or where CI or a scheduler cancels it: at once, and in order."""
    pytest.exit(f"{signal.Signals(number).name}: the row in progress is lost, those that had ended are kept")


def pytest_keyboard_interrupt() -> None:
    let_end()


def let_end() -> None:
    """What is left takes a moment: no Ctrl-C cuts off what pytest-benchmark saves, or the report."""
    for number in STOPS:
        if signal.getsignal(number) is stop:
            signal.signal(number, signal.SIG_IGN)


@pytest.fixture(scope="session")
def bench_session(pytestconfig: pytest.Config) -> Iterator[Session]:
    """The prepared session; the engines that rows are compared with end with it."""
    session = pytestconfig.stash[SESSION]
    yield session
    session.run.close()
    let_end()


@pytest.fixture(scope="session")
def row(request: pytest.FixtureRequest, bench_session: Session) -> Iterator[Row]:
    """One technique's row with its engine, built once a session, in a worker process that ends with it."""

    def keep(row: Row) -> None:
        try:
            bench_session.keep(row)
        except UsageError as error:
            pytest.fail(str(error), pytrace=False)

    row = Row(bench_session.run, techniques()[request.param])
    if row.status == "skipped":
        keep(row)
        pytest.skip(row.reason)
    yield row
    try:
        if not bench_session.interrupted:
            keep(row)
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
    except UsageError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


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


@pytest.hookimpl(trylast=True)  # below pytest-benchmark's tables
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    session = config.stash.get(SESSION, None)
    writer = config.get_terminal_writer()
    sections = session.summary(lambda text, colour: writer.markup(text, **{colour: True})) if session else {}
    for title, text in sections.items():
        terminalreporter.section(title)
        terminalreporter.write_line(text)
