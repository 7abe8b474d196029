"""Wires the package to pytest: command-line options, the fixtures of a run, and what it says on the terminal."""

import argparse
import contextlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from udaciheadline import articles, gates, growth, models, quality, techniques, workers
from udaciheadline.engines import ENGINES
from udaciheadline.records import EngineSpec, Record, UsageError
from udaciheadline.report import progress, table
from udaciheadline.row import Row
from udaciheadline.run import Run
from udaciheadline.store import Store, table_row

ROOT = Path(__file__).parent
SESSION = pytest.StashKey["BenchSession"]()
HOSTS = pytest.StashKey[Any]()  # hosts.Hosts, under torchrun --nnodes


def _batch_size(text: str) -> int | None:
    try:
        return None if text == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor auto: give one of them") from None


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("udaciheadline", "headline benchmark (pytest bench)")
    shapes = "shape:NAME (embedded, grown to a true Llama's size: " + ", ".join(growth.SHAPES) + ")"
    add = group.addoption
    add("--technique", default="all", metavar="NAME[,NAME]", help="techniques to measure (default: all)")
    add("--dataset", default=articles.EMBEDDED, help="embedded, a .jsonl/.json/.csv/.parquet file, or a hub id")
    add("--articles", type=int, default=50, help="measure the first N usable articles (default: 50)")
    add("--text-column", default="short_description", help="column that the model reads")
    add("--headline-column", default="headline", help="column with the true headline")
    add("--model", default=models.EMBEDDED, help=f"embedded, {shapes}, a checkpoint folder or a hub id")
    add("--target", help="larger model of the target and speculative rows (default: embedded with an embedded --model)")
    add("--draft", help="draft model of the speculative row (default: --model)")
    add("--max-new-tokens", type=int, default=25, help="longest headline, in tokens (default: 25)")
    add(
        "--batch-size",
        type=_batch_size,
        metavar="N",
        help="articles at a time in test_throughput; auto: the fastest (default: auto)",
    )
    add(
        "--engine",
        choices=ENGINES,
        default=ENGINES[0],
        help="of techniques that exist on several (default: %(default)s)",
    )
    add(
        "--ranks",
        type=int,
        metavar="N",
        help="processes of a parallel technique (default: all GPUs, up to 4; 2 on CPU; at least one a host)",
    )
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto takes a GPU where there is one")
    dtypes = ("auto", "float32", "bfloat16", "float16")
    add(
        "--dtype",
        choices=dtypes,
        default="auto",
        help="of every row; auto: bfloat16 on a GPU that has it, else float32",
    )
    add("--gates", type=Path, default=ROOT / "bench" / "gates.toml", help="thresholds (default: bench/gates.toml)")
    add("--results", type=Path, default=ROOT / "results", help="folder for what the run leaves (default: results)")
    add("--profile", action="store_true", help="write a torch.profiler trace and table for each technique")
    with contextlib.suppress(ValueError, argparse.ArgumentError):  # pytest-timeout has one of this name and meaning
        add("--timeout", type=float, help="seconds that one technique may take (default: 600)")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> pytest.ExitCode | None:
    """Under `torchrun --nnodes` every host but the first works for that one, and runs no test of its own."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    from udaciheadline import agent, hosts, torchrun

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
    if hasattr(config, "workerinput"):
        raise pytest.UsageError("-n: side by side, techniques would measure each other: run without pytest-xdist")
    option.technique = [name.strip() for name in option.technique.split(",") if name.strip()]
    try:
        techniques.select(option.technique)
        for name in ("articles", "max_new_tokens", "batch_size", "ranks"):
            if (value := getattr(option, name)) is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} {value}: give at least 1")
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if collection_path.name == "test_profile.py" and not config.option.profile else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "row" in metafunc.fixturenames:
        chosen = techniques.select(metafunc.config.option.technique)
        metafunc.parametrize("row", [technique.name for technique in chosen], indirect=True, scope="session")


@pytest.hookimpl(tryfirst=True)  # before pytest brings together the tests of each row
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is timed comes first, so that memory and quality are those of what was timed."""
    timed = ("test_latency.py", "test_throughput.py")
    items.sort(key=lambda item: item.path.name not in timed)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Prepares the run before its first test, so that an unusable dataset or model ends the session at once."""
    if session.config.option.collectonly or not any("row" in getattr(i, "fixturenames", ()) for i in session.items):
        return
    try:
        prepared = BenchSession(session.config)
    except UsageError as error:
        raise pytest.UsageError(workers.redact(str(error))) from None
    session.config.stash[SESSION] = prepared
    session.config.pluginmanager.register(prepared)


class BenchSession:
    """The run, its store and its progress line, for the fixtures below."""

    def __init__(self, config: pytest.Config) -> None:
        option = config.option
        self._start = time.perf_counter()
        self._option = option
        self.store = Store(option.results)
        wanted = techniques.select(option.technique)
        thresholds = gates.load_gates(option.gates)
        gates.require_tables(thresholds, wanted, option.gates)
        chosen = articles.load_articles(
            option.dataset,
            option.articles,
            text_column=option.text_column,
            headline_column=option.headline_column,
        )
        embedded = option.model == models.EMBEDDED
        target = option.target or (models.EMBEDDED if embedded else None)
        model = models.resolve(option.model, "--model")
        target = target and models.resolve(target, "--target", "target")
        draft = models.resolve(option.draft, "--draft") if option.draft else model
        start = time.perf_counter()
        with ThreadPoolExecutor() as imports:  # both take seconds, and neither needs the other
            imports.submit(quality.metric)
            device, dtype = workers.choose_device(option.device, option.dtype)
            hosts = config.stash[HOSTS].gather() if HOSTS in config.stash else workers.HERE
            ranks = workers.choose_ranks(option.ranks, device, hosts)
        starting = time.perf_counter() - start  # all workers are forked from what this has built
        spec = EngineSpec(model, target, draft, device, dtype, option.max_new_tokens, option.engine, ranks)
        self.terminal: Any = config.pluginmanager.getplugin("terminalreporter")
        self._capture: Any = config.pluginmanager.getplugin("capturemanager")
        self.progress = progress.Progress(self._write, len(wanted), self.terminal.isatty)
        self._grown = [name for name in (model, target) if name and name.startswith(models.SHAPE)]
        has_floor = (embedded or model in self._grown) and option.dataset == articles.EMBEDDED
        settings = {
            "dataset": option.dataset,
            "articles": len(chosen.articles),
            "skipped_rows": chosen.skipped,
            "batch_size": option.batch_size or "auto",
            "grown_from_embedded_weights": bool(self._grown),
        }
        self.run = Run(
            chosen,
            spec,
            thresholds,
            option.timeout or 600.0,
            settings,
            has_floor,
            batch_size=option.batch_size,
            progress=self.progress,
            useful_seconds=starting,
            hosts=hosts,
        )
        self.interrupted = False  # Ctrl-C: the row in progress is lost, the others are kept
        self.records: list[Record] = []
        self.headlines: dict[str, list[str]] = {}

    def notes(self) -> list[str]:
        """What the reader of the table must know beside it."""
        run = self.run
        lines = [f"{run.spec.dtype} on {run.environment.get('gpu', 'CPU')}. Articles: {self._option.dataset}."]
        for name in self._grown:
            lines.append(f"{name} is grown from embedded weights: true size and cost, the embedded model's headlines.")
        if len(run.articles) < self._option.articles:
            lines.append(f"The dataset has only {len(run.articles)} of the {self._option.articles} articles asked for.")
        if run.skipped_rows:
            lines.append(f"{run.skipped_rows} rows without a description or a headline were skipped.")
        seconds = time.perf_counter() - self._start
        share = 1 - run.useful_seconds / seconds
        lines.append(f"{seconds:.0f} s, of which {share:.0%} outside generation, building and warm-up.")
        lines.append(f"Results: {self.store.folder}")
        return lines

    def pytest_keyboard_interrupt(self) -> None:
        self.interrupted = True

    def _write(self, text: str) -> None:
        with self._capture.global_and_fixture_disabled():
            self.terminal.write(text, flush=True)

    def keep(self, row: Row) -> None:
        """Stores a row that has ended, and the tables with it."""
        record = row.record()
        self.records.append(record)
        if record.scores:
            self.headlines[record.title] = [generation.headline for generation in row.generations]
        self.store.append(record)
        self.store.write_table(self.records, self.run.copy_rouge())
        self.store.write_headlines(self.run.articles, self.headlines)
        row.extra_info.update(table_row(record))
        self.progress.technique_ended()


@pytest.fixture(scope="session")
def bench_session(pytestconfig: pytest.Config) -> Iterator[BenchSession]:
    """The prepared session; the engines that rows are compared with end with it."""
    session = pytestconfig.stash[SESSION]
    yield session
    session.run.close()


@pytest.fixture(scope="session")
def row(request: pytest.FixtureRequest, bench_session: BenchSession) -> Iterator[Row]:
    """One technique's row with its engine, built once a session, in a worker process that ends with it."""
    row = Row(bench_session.run, techniques.techniques()[request.param])
    if row.status == "skipped":
        bench_session.keep(row)
        pytest.skip(row.reason)
    yield row
    try:
        if not bench_session.interrupted:
            bench_session.keep(row)
    finally:
        row.close()


@pytest.hookimpl(tryfirst=True)
def pytest_benchmark_generate_json(benchmarks: list[Any]) -> None:
    """Saves what was measured: pytest-benchmark fails on a benchmark that Ctrl-C cut off before its first round."""
    benchmarks[:] = [benchmark for benchmark in benchmarks if benchmark]


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    if session := config.stash.get(SESSION, None):
        machine_info["udaciheadline"] = session.run.environment


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    session = config.stash.get(SESSION, None)
    if session is None or not session.records:
        return
    terminalreporter.section("headlines")
    terminalreporter.write_line(table.samples(session.run.articles, session.headlines))
    terminalreporter.section("techniques")
    terminalreporter.write_line(table.table(session.records, session.run.copy_rouge(), session.notes()))
