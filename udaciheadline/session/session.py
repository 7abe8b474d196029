"""One run of the suite: what its options ask for, its rows as they end, and what it says in the end."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udaciheadline.checkpoints import models
from udaciheadline.data import articles, newswire, prompts
from udaciheadline.evidence import compare, gates
from udaciheadline.evidence.verdict import decide, parse_budget
from udaciheadline.records import Article, EngineSpec, Record, UsageError
from udaciheadline.report import comparison, details, page, progress, table, verdict
from udaciheadline.report.colour import Paint
from udaciheadline.report.colour import plain as colourless
from udaciheadline.session import runs
from udaciheadline.session.options import check_counts, engine_spec
from udaciheadline.session.row import Row
from udaciheadline.session.run import Run
from udaciheadline.session.store import Store, plain, table_row
from udaciheadline.techniques import Technique, select, stand_ins
from udaciheadline.workers import processes, worker
from udaciheadline.workers.installation import Installation

if TYPE_CHECKING:
    from udaciheadline.workers.hosts import Host
    from udaciheadline.workers.processes import Here

MOST_QUALITY_ARTICLES = 1000  # where it is ours to choose: what .02 ROUGE-1 and .02 nats need, and more

# How long a row takes, beside one of a lone compiled engine, as read off a session on two cores: for the time left.
OFFLINE_SIZE = 0.4  # that is a job only: the reference does not answer beside it
GENERATE_SIZE = 1.7
RANKS_SIZE = 1.8
TARGET_SIZE = 2.0


def size(technique: Technique, spec: EngineSpec) -> float:
    """How long the row of a technique takes, as a share of what that of a lone compiled engine does."""
    share = OFFLINE_SIZE if technique.offline else 1.0
    share *= GENERATE_SIZE if technique.engine_for(spec) == "transformers" else 1.0
    share *= RANKS_SIZE if technique.parallel else 1.0
    return share * (TARGET_SIZE if technique.needs_target else 1.0)


def chosen_techniques(option: Any) -> list[Technique]:
    """The techniques that `--technique` names, or what stands for them on the engine that is asked for. Raises
    UsageError for one that there is not."""
    return select(_names(option), option.engine)


def _names(option: Any) -> list[str]:
    return [name.strip() for name in option.technique.split(",") if name.strip()]


def check_options(option: Any) -> None:
    """Raises UsageError for options that can be seen to be wrong before anything is read."""
    chosen_techniques(option)
    check_counts(option)
    if option.against == "":
        raise UsageError("--against=: it names nothing: give a checkout, or a Python that has another version")
    if option.quality_articles is not None and option.quality_articles < option.articles:
        raise UsageError(
            f"--quality-articles {option.quality_articles}: the {option.articles} that are timed are among them: give "
            "no fewer, or fewer --articles"
        )
    if option.minutes is not None and not 0 < option.minutes < math.inf:
        raise UsageError(f"--minutes {option.minutes:g}: give more than 0")
    prompts.few_shot_count(option.prompt)
    parse_budget(option.budget, option.goal)


def write_report(records: Sequence[Record], folder: Path, articles: Sequence[Article]) -> str:
    """Writes the page on a run; where it is, or why there is none, in one line. The run has been measured by then:
    nothing that goes wrong here may take that away."""
    try:
        return f"Report: {page.write(records, folder, articles)[0]}"
    except UsageError as error:
        return f"No {page.HTML}: {error}"
    except Exception as error:
        return f"No {page.HTML}: {type(error).__name__}: {error}".replace("\n", " ")


class Session:
    """The run, its store and its progress line.

    `option` has the command line's options by name; progress goes to `write`; `gather` gives the hosts, where torchrun
    has started several. Raises UsageError for a dataset, a model or an option that cannot be used.
    """

    def __init__(
        self,
        option: Any,
        write: Callable[[str], None],
        is_terminal: bool,
        gather: "Callable[[], Sequence[Here | Host]] | None" = None,
    ) -> None:
        self._start = time.perf_counter()
        self._option = option
        self._budget = parse_budget(option.budget, option.goal)
        self.store = Store(option.results)
        wanted = chosen_techniques(option)
        thresholds = gates.load_gates(option.gates)
        gates.require_tables(thresholds, wanted, option.gates)
        calibrates = any(technique.calibrates for technique in wanted)
        chosen = articles.load_articles(
            option.dataset,
            option.articles,
            text_column=option.text_column,
            headline_column=option.headline_column,
            examples=prompts.few_shot_count(option.prompt),
            further=max(0, (option.quality_articles or MOST_QUALITY_ARTICLES) - option.articles),
            calibration=articles.CALIBRATION_ARTICLES if calibrates and option.dataset != articles.EMBEDDED else 0,
        )
        calibration = chosen.calibration or tuple(
            newswire.training_articles(articles.CALIBRATION_ARTICLES * calibrates)
        )
        embedded = option.model == models.EMBEDDED
        start = time.perf_counter()
        if gather and option.against:
            raise UsageError("--against under torchrun: other code runs on one host only: leave one of them out")
        spec, hosts = engine_spec(option, gather, calibration)
        prompt = prompts.make_prompt(
            option.prompt, chosen.examples, lambda text: processes.elsewhere(models.in_chat_template, spec.model, text)
        )
        starting = time.perf_counter() - start  # all workers are forked from what this has built
        rows = [technique for technique in wanted if technique.unavailable(spec) is None]
        sizes = [size(technique, spec) for technique in rows]
        self.progress = progress.Progress(write, sizes, is_terminal)
        self._grown = [name for name in (spec.model, spec.target) if name and name.startswith(models.SHAPE)]
        has_floor = (embedded or spec.model in self._grown) and option.dataset == articles.EMBEDDED
        settings = {
            "model_name": option.model,
            "target_name": option.target or (models.EMBEDDED if embedded else ""),
            "draft_name": option.draft or option.model,
            "pruned_model": option.pruned_model or None,
            "dataset": option.dataset,
            "articles": len(chosen.articles),
            "skipped_rows": chosen.skipped,
            "calibrated_on": (option.dataset if chosen.calibration else "newswire") if calibrates else None,
            "prompt": prompt.name,
            "batch_size": option.batch_size or "auto",
            "launches": option.launches or "auto",
            "quality_articles": option.quality_articles or "auto",
            "goal": option.goal,
            "budget": option.budget,
            "grown_from_embedded_weights": bool(self._grown),
            "against": option.against,
        }
        against = Installation(option.against) if option.against else None
        if against:
            settings["against_versions"] = against.versions
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
            prompt=prompt,
            launches=option.launches,
            quality_articles=option.quality_articles,
            against=against,
        )
        self._ended = chosen.ended
        self.run.rows_left = len(rows)
        like = [Record("", "", "", "skipped", settings=self.run.all_settings, environment=self.run.environment)]
        self._baseline = runs.load(option.baseline, option.results, like) if option.baseline else None
        if self._baseline:
            compare.require_fit(like[0].settings, like[0].environment, self._baseline[0])
        if option.minutes is not None:
            self.run.deadline = time.monotonic() + 60 * option.minutes - (time.perf_counter() - self._start)
        if rows:
            self._build_reference()
        self._compared_with_baseline = self._beside_other_code = self._report = ""
        self.warnings: list[str] = []  # of what could not be written in the end, a sentence each
        self.compared = ""  # with what, in a sentence for the notes
        self.regressions: list[str] = []  # where this run is worse than that
        self.interrupted = False  # Ctrl-C: the row in progress is lost, the others are kept
        self.records: list[Record] = []
        self.headlines: dict[str, list[str]] = {}

    def pytest_keyboard_interrupt(self) -> None:
        """Notes that Ctrl-C was pressed: pytest's hook of this name is not told of which session it is."""
        self.interrupted = True

    def _build_reference(self) -> None:
        """Every row is measured beside it: without it there is nothing to measure. Raises UsageError."""
        try:
            self.run.reference_info()
        except worker.WorkerError as error:
            subject = "" if error.status == "error" else f"--model {self._option.model}: "
            raise UsageError(f"{subject}{error.reason}") from None

    def keep(self, row: Row) -> None:
        """Stores a row that has ended, and the tables with it. Raises UsageError where they cannot be written."""
        record = row.record()
        self.records.append(record)
        if record.scores:
            self.headlines[record.title] = [generation.headline for generation in row.generations]
        row.extra_info.update(table_row(record), record=plain(record))
        if row.was_begun:
            self.run.rows_left -= 1
            self.progress.technique_ended()
        try:
            self.store.append(record)
            self._write_tables()
        except OSError as error:
            raise UsageError(
                f"--results {self.store.folder}: {record.technique} cannot be written ({error.strerror}): make room, "
                "it is tried again with the next row and at the end"
            ) from None

    def _write_tables(self) -> None:
        self.store.keep_articles(str(self.run.settings["fingerprint"]), self.run.all_articles)
        self.store.write_table(self.records, self.run.copy_rouge())
        self.store.write_headlines(self.run.articles, self.headlines)

    def end(self, exit_status: int) -> int:
        """Notes how the session ended, and what is worse than in its baseline: the exit status, 1 where it was 0 and
        something is, or could not be written."""
        if self._baseline and self.records:
            found = compare.compare(self._baseline, self.records)
            self._compared_with_baseline = comparison.text(found)
            exit_status = exit_status or int(bool(found.regressions))
        if self._option.against and self.records:
            found = compare.in_turn(self.records)
            self._beside_other_code = comparison.text(found)
            exit_status = exit_status or int(bool(found.regressions))
            if not found.changes:
                self.warnings.append(f"--against {self._option.against}: no row was measured beside it.")
        exit_status = exit_status or int(bool(self.warnings))
        try:
            self.store.write_rows()
            if self.records:
                self._write_tables()
            self.store.end(self.run.name, exit_status)
        except OSError as error:
            self.warnings.append(f"{self.store.folder}: the end of this run cannot be written ({error.strerror}).")
        if self.records:
            self._report = write_report(self.records, self.store.folder, self.run.all_articles)
        return exit_status or int(bool(self.warnings))

    def summary(self, paint: Paint = colourless) -> dict[str, str]:
        """What the terminal shows in the end, by section, the answer last, which is where the eye is; nothing where no
        row has ended."""
        if not self.records:
            return {}
        decision = decide(self.records, self._budget)
        shown = table.table(self.records, decision, self.run.copy_rouge(), paint)
        sections = {
            "headlines": table.samples(self.run.articles, self.headlines),
            "details": details.details(self.records, self.run.copy_rouge()) if self._option.details else "",
            "techniques": "\n".join([shown, *self._notes()]),
            "baseline": self._compared_with_baseline,
            "against": self._beside_other_code,
            "regressions": "\n".join(self.regressions),
            "verdict": verdict.text(decision, self.records, paint),
        }
        return {title: text for title, text in sections.items() if text}

    def _notes(self) -> list[str]:
        """What the reader of the table must know beside it."""
        run = self.run
        lines = [f"{run.spec.dtype} on {run.environment.get('gpu', 'CPU')}. Articles: {self._option.dataset}."]
        ends = "their first line break" if run.spec.stop == "newline" else "the model's own end"
        lines[0] += f" Prompt: {self._option.prompt}. Headlines end at {ends}, or {run.spec.max_new_tokens} tokens."
        for name in self._grown:
            lines.append(f"{name} is grown from embedded weights: true size and cost, the embedded model's headlines.")
        if len(run.articles) < self._option.articles:
            lines.append(f"The dataset has only {len(run.articles)} of the {self._option.articles} articles asked for.")
        wanted = self._option.quality_articles or 0
        if len(run.all_articles) < wanted:
            line = f"Quality is judged on {len(run.all_articles)} of the {wanted} articles that it was asked for"
            lines.append(f"{line}: {self._ended or 'the dataset has no more'}.")
        asked, replaced = _names(self._option), stand_ins(self._option.engine)
        if stand := [f"{by} for {name}" for name, by in replaced.items() if name in asked or "all" in asked]:
            lines.append(f"On --engine {self._option.engine} one row stands for another: {', '.join(stand)}.")
        if run.skipped_rows:
            lines.append(f"{run.skipped_rows} rows without a description or a headline were skipped.")
        lines += [self.compared, *self.warnings] if self.compared else self.warnings
        if not processes.forks():
            lines.append(
                "Workers were started anew, not forked: a library that is imported before them has touched CUDA."
            )
        seconds = time.perf_counter() - self._start
        share = 1 - run.useful_seconds / seconds
        measured = {r.technique: r.measurement.count for r in self.records if r.measurement}
        if self._option.minutes is not None and measured:
            shares = ", ".join(f"{name} {count}" for name, count in measured.items())
            lines.append(f"--minutes {self._option.minutes:g}: articles that each row was measured on: {shares}.")
        lines.append(f"{seconds:.0f} s, of which {share:.0%} outside generation, building and warm-up.")
        lines.append(f"Results: {self.store.folder}")
        return lines + [self._report] * bool(self._report)
