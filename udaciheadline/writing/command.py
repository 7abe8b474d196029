"""`udaciheadline write`, from its options to its exit status."""

import contextlib
import hashlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from udaciheadline.checkpoints import models
from udaciheadline.data import articles, prompts, sources
from udaciheadline.data.prompts import Prompt
from udaciheadline.engines.codec import Codec
from udaciheadline.evidence import verdict
from udaciheadline.records import Article, EngineSpec, UsageError
from udaciheadline.report.progress import JobProgress, per_second
from udaciheadline.session import runs
from udaciheadline.session.options import check_counts, engine_spec
from udaciheadline.techniques import PRUNED, Technique, select
from udaciheadline.workers import processes
from udaciheadline.workers.worker import Worker, WorkerError
from udaciheadline.writing.headlines import ENDINGS, Csv, HeadlineFile, JsonLines, Layout, Stream
from udaciheadline.writing.incoming import Incoming, peek
from udaciheadline.writing.job import Job, Pace

ENGINE_ENDED, INTERRUPTED, READER_GONE = 3, 130, 141  # exit statuses, the last two as of a shell


def write(option: Any) -> int:
    """Writes the headlines that the options ask for; the exit status. Raises UsageError, without secrets in it."""
    go_on = "" if option.output == sources.STREAM else ": the same command goes on where the file ends"
    try:
        return _write(option)
    except UsageError as error:
        raise UsageError(processes.redact(str(error))) from None
    except WorkerError as error:
        if error.status in ("error", "skipped"):  # something to mend
            raise UsageError(processes.redact(error.reason)) from None
        _say(f"the engine ended ({error.status}: {error.reason}){go_on}")
        return ENGINE_ENDED
    except KeyboardInterrupt:
        _say(f"interrupted{go_on}")
        return INTERRUPTED
    except BrokenPipeError:  # whoever read standard output has had enough: what is left in its buffer goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE


def _write(option: Any) -> int:
    check_counts(option)
    own = option.output_column, option.error_column
    if own[0] == own[1]:
        raise UsageError(f"--error-column {own[1]}: this is --output-column, too: name another one")
    name = "standard input" if option.source == sources.STREAM else option.source
    columns, source = peek(sources.open_source(option.source, stream=sys.stdin.buffer), name, option.text_column)
    out_kind = _kind(option.output) or (".csv" if source.kind == ".csv" else ".jsonl")
    layout: Layout = Csv(own, columns) if out_kind == ".csv" else JsonLines(own)
    task = _task(option)
    out = _open(option, task)
    with contextlib.closing(out), _Engine(task, option) as engine:
        incoming = Incoming(
            source,
            name,
            option.text_column,
            layout,
            task.prompt.fill,
            engine.codec,
            engine.worker.call("limit"),
            task.spec.max_new_tokens,
        )
        return _work(option, task, incoming, engine, out)


@dataclass(frozen=True)
class _Task:
    """What writes: the technique, what its engine is built from, and what it is asked."""

    technique: Technique
    spec: EngineSpec
    prompt: Prompt

    def settings(self, option: Any) -> dict[str, object]:
        """What must be the same where a job is gone on with, by the options' names."""
        names = ["model", "max_new_tokens", "stop", "text_column", "output_column", "error_column"]
        names += ["target", "draft"] if self.technique.needs_target else []
        names += ["pruned_model"] if self.technique.name in PRUNED else []
        asked = f"{self.prompt.before}{prompts.PLACE}{self.prompt.after}"
        return {
            "--technique": self.technique.name,
            "--engine": self.spec.engine,
            "--dtype": self.spec.dtype,
            "--prompt": f"{self.prompt.name} ({hashlib.sha256(asked.encode()).hexdigest()[:8]})",
        } | {f"--{name.replace('_', '-')}": getattr(option, name) for name in names}


def _task(option: Any) -> _Task:
    few = prompts.few_shot_count(option.prompt)
    examples = _examples(option, few) if few else ()
    spec, _ = engine_spec(option)
    technique = _technique(option, spec)
    prompt = prompts.make_prompt(
        option.prompt, examples, lambda text: processes.elsewhere(models.in_chat_template, spec.model, text)
    )
    return _Task(technique, replace(spec, engine=technique.engine_for(spec)), prompt)


def _examples(option: Any, count: int) -> tuple[Article, ...]:
    """The first articles that have a headline, for a prompt that shows so many. Raises UsageError for fewer."""
    where = option.examples or option.source
    if where == sources.STREAM:
        raise UsageError(f"--prompt {option.prompt}: standard input is read once: name a file with --examples")
    columns = {"text_column": option.text_column, "headline_column": option.headline_column}
    found = articles.load_articles(where, count, **columns).articles
    if len(found) < count:
        raise UsageError(
            f"--prompt {option.prompt}: {where} has {len(found)} articles with a headline: name a file with more of "
            "them with --examples, or show fewer"
        )
    return found


def _technique(option: Any, spec: EngineSpec) -> Technique:
    """The one that `--technique` names, or else the last run. Raises UsageError."""
    name = option.technique or _deployed(option, spec)
    (technique, *more) = select([name], spec.engine)
    if more:
        raise UsageError(f"--technique {name}: a job is written by one: name one")
    if reason := technique.unavailable(spec):
        raise UsageError(f"--technique {name}: {reason}")
    return technique


def _deployed(option: Any, spec: EngineSpec) -> str:
    """The technique that the last run tells to deploy for jobs; a run of other models, or of another engine, device or
    dtype, tells nothing. Raises UsageError."""
    mend = "measure with `pytest bench`, or name one with --technique"
    try:
        records = runs.latest(option.results)
    except UsageError as error:
        raise UsageError(f"no run tells which technique to deploy ({error}): {mend}") from None
    settings, run = records[0].settings, records[0].run
    for name, key, value in (
        ("--model", "model_name", option.model),
        ("--target", "target_name", option.target or (models.EMBEDDED if option.model == models.EMBEDDED else "")),
        ("--draft", "draft_name", option.draft or option.model),
        ("--pruned-model", "pruned_model", option.pruned_model or None),
        ("--engine", "engine", spec.engine),
        ("--device", "device", spec.device),
        ("--dtype", "dtype", spec.dtype),
    ):
        if settings.get(key) != value:
            raise UsageError(
                f"run {run} in {option.results} has {name} {settings.get(key)} and tells nothing of {value}: {mend}"
            )
    asked = verdict.budget_of(records[0])  # its limits are for those who wait, unless it was about jobs
    decision = verdict.decide(records, asked if asked.goal == "offline" else verdict.Budget("offline"))
    if decision.technique is None:
        raise UsageError(f"run {run} in {option.results} names no technique for jobs ({decision.sentence}): {mend}")
    _say(f"run {run}: {decision.sentence}")
    return decision.technique


def _kind(output: str) -> str | None:
    """What the ending of the file to be written stands for, None for standard output. Raises UsageError."""
    if output == sources.STREAM:
        return None
    if (kind := ENDINGS.get(Path(output).suffix.lower())) is None:
        raise UsageError(f"--output {output}: unknown file ending {Path(output).suffix!r}: give a .jsonl or .csv file")
    return kind


def _open(option: Any, task: _Task) -> HeadlineFile | Stream:
    if option.output == sources.STREAM:
        return Stream(sys.stdout.buffer)
    path = Path(option.output)
    if path.exists() and Path(option.source).exists() and path.samefile(option.source):
        raise UsageError(f"--output {path}: these are the articles: name another file")
    return HeadlineFile(path, task.settings(option), option.overwrite)


class _Engine(contextlib.AbstractContextManager["_Engine"]):
    """The worker, and the tokenizer, whose imports take seconds, at the same time. Raises WorkerError, UsageError."""

    def __init__(self, task: _Task, option: Any) -> None:
        checkpoint = task.spec.target if task.technique.needs_target and task.spec.target else task.spec.model
        _say(f"building {task.technique.name} on {task.spec.device}, {task.spec.dtype}")
        with ThreadPoolExecutor(1) as pool:
            loaded = pool.submit(_tokenizer, checkpoint)
            self.worker = Worker(task.technique, task.spec, option.timeout)
        try:
            self.codec = Codec(loaded.result(), task.spec.stop)
        except BaseException:
            self.worker.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.worker.close()


def _tokenizer(checkpoint: str) -> Any:
    import transformers

    transformers.logging.set_verbosity_error()  # too long a text is said of its article, not by a warning
    return models.load_tokenizer(checkpoint)


def _work(option: Any, task: _Task, incoming: Incoming, engine: _Engine, out: HeadlineFile | Stream) -> int:
    """The job itself; the exit status."""
    if done := out.resume(incoming.layout, incoming.heads()):
        _say(f"{done:,} articles have their line already: going on behind them")
    progress = JobProgress(sys.stderr.write, sys.stderr.isatty(), incoming.share())
    job = Job(incoming, engine.worker, engine.codec, out, progress)
    start = job.pace()
    try:
        job.run((option.batch_size or out.batch_size) if task.technique.batches else 1)
        out.finish()
    finally:
        progress.end()
    if job.headlines:
        _say(_pace(start, job.ready, job.pace()))
    if job.errors:
        _say(f"{job.errors:,} articles have an error: see {option.error_column!r}")
    return int(job.errors > 0)


def _pace(start: Pace, ready: Pace | None, end: Pace) -> str:
    """How long it took, and what share of the engine's own rate that was, from when it was ready for batches."""
    if ready is None or end.headlines == ready.headlines:  # so few that there was nothing else
        ready = start
    seconds, engine_seconds = end.seconds - ready.seconds, end.engine_seconds - ready.engine_seconds
    rates = [per_second((end.headlines - ready.headlines) / divisor) for divisor in (seconds, engine_seconds)]
    first = "" if ready == start else f"; after the first {ready.headlines:,}, in {ready.seconds - start.seconds:.1f} s"
    return (
        f"{end.headlines:,} headlines in {end.seconds - start.seconds:.1f} s{first}, {rates[0]}, "
        f"and the engine alone {rates[1]} ({engine_seconds / seconds:.0%})"
    )


def _say(sentence: str) -> None:
    print(f"udaciheadline: {processes.redact(sentence)}", file=sys.stderr, flush=True)
