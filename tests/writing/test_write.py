"""`udaciheadline write`, as a user calls it: what it writes and where, what it refuses, and how it ends."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets_made import FORMATS, ROWS, Write, jsonl
from fake_jobs import OWN, Characters, Shouting
from rows import OFFLINE, RECORD, broken
from sessions import environment

from udaciheadline.cli import main
from udaciheadline.data.newswire import evaluation_articles
from udaciheadline.engines.codec import Limit
from udaciheadline.records import Record
from udaciheadline.session.store import Store
from udaciheadline.techniques import _technique
from udaciheadline.workers import worker
from udaciheadline.workers.worker import WorkerError
from udaciheadline.writing import command
from udaciheadline.writing.job import Pace

TEXTS = [str(row["short_description"]) for row in ROWS]
HEADLINES = [f"SHORT DESCRIPTION: {text.upper()}" for text in TEXTS]  # of an engine that repeats its prompt aloud
TECHNIQUE = ["--technique", "kv-cache"]


class Fake(Shouting):
    """Stands in for the worker."""

    started: list["Fake"]
    fault: BaseException | None = None  # at its second call

    def __init__(self, technique: Any, spec: Any, timeout: float) -> None:
        super().__init__()
        self.technique, self.spec, self.timeout, self.calls = technique, spec, timeout, 0
        self.closed = False
        self.started.append(self)

    def call(self, method: str) -> Limit:
        assert method == "limit"
        return Limit(400, "the model has positions for")

    def end(self) -> Any:
        self.calls += 1
        if self.fault and self.calls == 2:
            raise self.fault
        return super().end()

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[Fake]:
    """The worker's class; the tests are called in an empty folder."""
    kind = type("Kind", (Fake,), {"started": []})
    monkeypatch.setattr(command, "Worker", kind)
    monkeypatch.setattr(command, "_tokenizer", lambda _: Characters())
    monkeypatch.setattr(worker, "choose_device", lambda *_: ("cpu", "float32"))
    monkeypatch.chdir(tmp_path)
    return kind


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Calls the command with these arguments: its exit status, output and errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(["write", *arguments])
        out, error = capfdbinary.readouterr()
        return status, out.decode(), error.decode()

    return run


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_its_rows_with_headlines_in_order(name: str, write: Write, run: Run) -> None:
    status, out, _ = run(write(name, FORMATS[name](ROWS)), *TECHNIQUE, "-o", "h.jsonl")
    assert (status, out) == (0, "")
    found = objects(Path("h.jsonl").read_text("utf-8"))
    assert found == [row | {OWN[0]: h, OWN[1]: None} for row, h in zip(ROWS, HEADLINES, strict=True)]


def test_standard_output_is_json_lines_unless_the_articles_are_csv(write: Write, run: Run) -> None:
    _, out, _ = run(write("n.parquet", FORMATS["news.parquet"](ROWS)), *TECHNIQUE)
    assert [row[OWN[0]] for row in objects(out)] == HEADLINES
    _, out, _ = run(write("n.csv", FORMATS["news.csv"](ROWS)), *TECHNIQUE)
    assert [row[OWN[0]] for row in csv.DictReader(io.StringIO(out))] == HEADLINES


@pytest.mark.parametrize("name", ["news.jsonl", "array.json", "news.csv"])
def test_standard_input_may_be_any_text_format(name: str, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    stream = io.BufferedReader(io.BytesIO(FORMATS[name](ROWS)))  # type: ignore[arg-type]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(stream))
    _, out, _ = run("-", *TECHNIQUE)
    rows = list(csv.DictReader(io.StringIO(out))) if name == "news.csv" else objects(out)
    assert [row[OWN[0]] for row in rows] == HEADLINES


def test_an_article_of_standard_input_is_named_by_its_line(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    stream = io.BufferedReader(io.BytesIO(jsonl(ROWS[:1]) + b'{"id": 1}\n'))  # type: ignore[arg-type]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(stream))
    _, out, _ = run("-", *TECHNIQUE)
    assert objects(out)[1][OWN[1]] == "standard input, line 2: there is no text in its field 'short_description'"


def test_json_lines_become_csv_where_the_file_to_be_written_is(write: Write, run: Run) -> None:
    run(write("n.jsonl", jsonl(ROWS)), *TECHNIQUE, "-o", "h.csv")
    with Path("h.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [
            row | {OWN[0]: h, OWN[1]: ""} for row, h in zip(ROWS, HEADLINES, strict=True)
        ]


def test_articles_with_errors_are_exit_status_1_and_counted(write: Write, run: Run) -> None:
    rows = [ROWS[0], ROWS[1] | {"short_description": "x" * 400}, ROWS[2] | {"short_description": None}]
    status, out, error = run(write("n.jsonl", jsonl(rows) + b"torn\n" + jsonl(ROWS[3:])), *TECHNIQUE)
    assert status == 1
    errors = [row[OWN[1]] for row in objects(out)]
    assert [bool(why) for why in errors] == [False, True, True, True, False, False]
    assert "tokens and the 25 of a headline are more than the 400 that the model has positions for" in errors[1]
    assert "3 articles have an error" in error


def test_the_end_says_how_many_headlines_and_how_fast_the_engine_alone_was(write: Write, run: Run) -> None:
    _, _, error = run(write("n.jsonl", jsonl(ROWS)), *TECHNIQUE)
    assert "building kv-cache on cpu, float32" in error
    assert "5 headlines in " in error
    assert "/s, and the engine alone 5.0/s (" in error
    _, _, error = run(write("n.jsonl", jsonl(ROWS)), *TECHNIQUE, "--batch-size", "2")
    assert "5 headlines in " in error
    assert "; after the first 2, in " in error
    assert ", and the engine alone 1.5/s (" in error


def test_the_rates_are_those_from_when_the_engine_was_ready_for_batches() -> None:
    start, ready, end = Pace(100.0, 0, 0.0), Pace(140.0, 1000, 1.0), Pace(150.0, 31000, 10.0)
    expected = (
        "31,000 headlines in 50.0 s; after the first 1,000, in 40.0 s, 3,000/s, and the engine alone 3,333/s (90%)"
    )
    assert command._pace(start, ready, end) == expected
    for never in (None, end):
        assert (
            command._pace(start, never, end) == "31,000 headlines in 50.0 s, 620/s, and the engine alone 3,100/s (20%)"
        )


def test_the_engine_is_built_as_the_options_say(write: Write, run: Run, engine: type[Fake]) -> None:
    options = ["--technique", "pruned", "--engine", "compiled", "--max-new-tokens", "9", "--stop", "none"]
    run(write("n.jsonl", jsonl(ROWS)), *options, "--batch-size", "3", "--timeout", "7")
    (worker,) = engine.started
    assert (worker.technique.name, worker.spec.engine, worker.timeout) == ("pruned", "compiled", 7.0)
    assert (worker.spec.max_new_tokens, worker.spec.stop) == (9, "none")
    assert [event[1:] for event in worker.events if event[0] == "begin"] == [(3, 3), (2, 3)]
    assert worker.closed


def test_a_technique_that_takes_one_text_at_a_time_is_given_one(write: Write, run: Run, engine: type[Fake]) -> None:
    run(write("n.jsonl", jsonl(ROWS)), "--technique", "speculative")
    assert {event[2] for event in engine.started[0].events if event[0] == "begin"} == {1}


def test_few_shot_shows_the_first_articles_that_have_a_headline(write: Write, run: Run) -> None:
    rows = [ROWS[0] | {"headline": ""}, *ROWS[1:]]
    source = write("n.jsonl", jsonl(rows))
    _, out, _ = run(source, *TECHNIQUE, "--prompt", "few-shot:1", "--stop", "none", "--max-new-tokens", "1")
    assert (
        f"HEADLINE: {ROWS[1]['headline'].upper()}\n\nSHORT DESCRIPTION: {TEXTS[0].upper()}" in objects(out)[0][OWN[0]]
    )
    examples = write("archive.jsonl", jsonl(ROWS[4:]))
    _, out, _ = run(source, *TECHNIQUE, "--prompt", "few-shot:1", "--examples", examples, "--stop", "none")
    assert f"HEADLINE: {ROWS[4]['headline'].upper()}" in objects(out)[0][OWN[0]]


REFUSED = [
    (["missing.jsonl", *TECHNIQUE], "missing.jsonl: there is no such file"),
    (["n.jsonl", *TECHNIQUE, "-o", "h.txt"], "--output h.txt: unknown file ending '.txt': give a .jsonl or .csv file"),
    (["n.jsonl", *TECHNIQUE, "-o", "n.jsonl"], "--output n.jsonl: these are the articles: name another file"),
    (["n.jsonl", *TECHNIQUE, "--text-column", "body"], "n.jsonl, line 1: no field 'body'"),
    (
        ["n.jsonl", *TECHNIQUE, "--output-column", "link"],
        "n.jsonl, line 1: it has a field 'link' already",
    ),
    (["n.jsonl", *TECHNIQUE, "--output-column", "error"], "--error-column error: this is --output-column, too"),
    (["n.jsonl", "--technique", "teleport"], "--technique 'teleport': there is no such technique"),
    (["n.jsonl", "--technique", "all"], "--technique all: a job is written by one"),
    (["n.jsonl", "--technique", "static-cache"], "--technique static-cache: it needs a CUDA GPU"),
    (["n.jsonl", *TECHNIQUE, "--batch-size", "0"], "--batch-size 0: give at least 1"),
    (["n.jsonl", *TECHNIQUE, "--prompt", "few-shot:6"], "--prompt few-shot:6: n.jsonl has 5 articles with a headline"),
    (["-", *TECHNIQUE, "--prompt", "few-shot:1"], "--prompt few-shot:1: standard input is read once: name a file"),
    (["n.jsonl"], "no run tells which technique to deploy (results/records.jsonl: it cannot be read"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_cannot_be_used_is_one_sentence_and_leaves_no_file(
    arguments: list[str], message: str, write: Write, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("n.jsonl", jsonl(ROWS))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(jsonl(ROWS)))))  # type: ignore[arg-type]
    status, out, error = run(*arguments)
    assert (status, out) == (4, "")
    assert error.splitlines()[-1].startswith(f"udaciheadline: {message}")
    assert {path.name for path in tmp_path.iterdir()} <= {"n.jsonl"}


@pytest.mark.parametrize(
    ("fault", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted: the same command goes on where the file ends"),
        (WorkerError("crash", "the worker was killed by SIGKILL"), 3, "the engine ended (crash: the worker was killed"),
        (WorkerError("oom", "no memory"), 3, "the engine ended (oom: no memory): the same command goes on"),
    ],
)
def test_a_job_that_ends_early_is_gone_on_with_by_the_same_command(
    fault: BaseException, status: int, message: str, write: Write, run: Run, engine: type[Fake],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    job = [write("n.jsonl", jsonl(ROWS)), *TECHNIQUE, "--batch-size", "2", "-o", "h.jsonl"]
    monkeypatch.setattr(engine, "fault", fault)
    ended, _, error = run(*job)
    assert ended == status
    assert message in error
    assert len(objects(Path("h.jsonl").read_text("utf-8"))) == 2
    assert engine.started[-1].closed
    monkeypatch.setattr(engine, "fault", None)
    ended, _, error = run(*job)
    assert ended == 0
    assert "2 articles have their line already: going on behind them" in error
    assert [row[OWN[0]] for row in objects(Path("h.jsonl").read_text("utf-8"))] == HEADLINES


def test_a_job_is_not_gone_on_with_on_another_technique_or_prompt(
    write: Write, run: Run, engine: type[Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = [write("n.jsonl", jsonl(ROWS)), "--batch-size", "2", "-o", "h.jsonl"]
    monkeypatch.setattr(engine, "fault", KeyboardInterrupt())
    run(*job, *TECHNIQUE)
    monkeypatch.setattr(engine, "fault", None)
    assert "begun with --technique kv-cache instead of baseline" in run(*job, "--technique", "baseline")[2]
    prompt = write("prompt.txt", "Say {text} again")
    assert "begun with --prompt notebook (" in run(*job, *TECHNIQUE, "--prompt", prompt)[2]
    assert run(*job, "--technique", "baseline", "--overwrite")[0] == 0


def test_a_token_reaches_neither_the_file_nor_the_terminal(
    write: Write, run: Run, engine: type[Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
    monkeypatch.setattr(engine, "fault", WorkerError("error", "hf_secretsecret is not allowed"))
    job = [write("n.jsonl", jsonl(ROWS)), *TECHNIQUE, "--batch-size", "2", "-o", "h.jsonl"]
    status, out, error = run(*job)
    assert status == 4
    left = "".join(path.read_text("utf-8") for path in Path().iterdir())
    assert "secret" not in out + error + left


def measured(*records: Record, **settings: Any) -> None:
    """Leaves a run of these rows in the folder of results."""
    fits = {
        "model_name": "embedded",
        "target_name": "embedded",
        "draft_name": "embedded",
        "engine": "transformers",
        "device": "cpu",
        "dtype": "float32",
    } | settings
    store = Store(Path("results"))
    for record in records:
        store.append(replace(record, settings=record.settings | fits))


REFERENCE = replace(RECORD, technique="kv-cache")


def test_without_a_technique_the_last_run_decides(
    write: Write, run: Run, engine: type[Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_technique, "_has_compiler", lambda: True)
    measured(REFERENCE, OFFLINE)  # which is twice as fast
    status, _, error = run(write("n.jsonl", jsonl(ROWS)))
    assert status == 0
    assert f"run {RECORD.run}: deploy compiled-batch: " in error
    assert engine.started[0].technique.name == "compiled-batch"


def test_a_run_that_decides_nothing_asks_for_a_technique(write: Write, run: Run) -> None:
    measured(broken("crash", "it fell over"))
    status, _, error = run(write("n.jsonl", jsonl(ROWS)))
    assert status == 4
    assert f"run {RECORD.run} in results names no technique for jobs (no verdict: no row was measured" in error
    assert "or name one with --technique" in error


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_name": "smollm2-135m"}, "has --model smollm2-135m and tells nothing of embedded"),
        ({"target_name": "larger"}, "has --target larger and tells nothing of embedded"),
        ({"engine": "compiled"}, "has --engine compiled and tells nothing of transformers"),
        ({"device": "cuda"}, "has --device cuda and tells nothing of cpu"),
        ({"dtype": "bfloat16"}, "has --dtype bfloat16 and tells nothing of float32"),
    ],
)
def test_a_run_of_something_else_decides_nothing(
    settings: dict[str, str], message: str, write: Write, run: Run
) -> None:
    measured(REFERENCE, OFFLINE, **settings)
    assert message in run(write("n.jsonl", jsonl(ROWS)))[2]


def test_the_embedded_model_writes_its_headlines_in_a_process_of_its_own(tmp_path: Path) -> None:
    articles = evaluation_articles()[:20]
    rows = [{"id": n, "short_description": article.short_description} for n, article in enumerate(articles)]
    command = [sys.executable, "-m", "udaciheadline.cli", "write", "-", *TECHNIQUE, "--device", "cpu"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment(),
        input=jsonl(rows).decode(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found = objects(done.stdout)
    assert [row["id"] for row in found] == list(range(20))
    true = sum(row[OWN[0]] == article.headline for row, article in zip(found, articles, strict=True))
    assert true >= 5  # it was trained to write them
    assert "20 headlines in " in done.stderr
    assert list(tmp_path.iterdir()) == []
