"""One technique while it is measured: its engine, the timed rounds, memory, quality, and the record in the end."""

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path

from udaciheadline.evidence import gates, measure
from udaciheadline.evidence.quality import Answers
from udaciheadline.records import (
    BatchCurve,
    BuildInfo,
    Energy,
    Estimate,
    Measurement,
    Memory,
    PerArticle,
    Record,
    Scores,
    Throughput,
    Verdict,
)
from udaciheadline.session.engine import RowEngine
from udaciheadline.session.jobs import Jobs
from udaciheadline.session.other_code import BesideOtherCode
from udaciheadline.session.passes import FEW_ARTICLES, Passes
from udaciheadline.session.rounds import Rounds
from udaciheadline.session.run import Answered, Run
from udaciheadline.session.scoring import Scoring
from udaciheadline.session.wide import Wide
from udaciheadline.techniques import REFERENCE, Technique
from udaciheadline.workers.nvml import Watch, watching
from udaciheadline.workers.worker import WorkerError

ROUNDS_SHARE = 0.6  # of a row's time, where there is a limit: jobs, memory and likelihood need the rest


class RowFailed(Exception):
    """A row cannot go on; the message is one sentence."""


class Row:
    """One technique while it is measured: build, timed rounds, memory, quality, and the record in the end.

    The first method that the worker fails ends the row: its status is kept, and every later method raises RowFailed.
    """

    def __init__(self, run: Run, technique: Technique) -> None:
        self.run, self.technique = run, technique
        self._began, self._seconds = time.monotonic(), run.row_seconds()
        self.status, self.reason = "ok", ""
        self._last_words, self._told = "", False  # of the worker, where it crashed or hung
        self._engine = RowEngine(run, technique)
        self._rounds = Rounds(run, technique, self._engine)
        self.generations = self._rounds.own
        self.reference_generations = self._rounds.others[REFERENCE]
        self._is_warm = False
        self._open = contextlib.ExitStack()
        self._watch: Watch | None = None
        self._jobs = Jobs(run, technique, self._engine, lambda: self.prompts)
        if math.isfinite(self._seconds):
            self._jobs.launches = 1
        self._throughput: Throughput | None = None
        self._passes = Passes(run, technique, self._jobs, lambda: self.prompts, self._engine)
        self._scoring = Scoring(run, technique, self._engine.ask_all)
        self._beside_other_code = BesideOtherCode(run, technique, self._rounds, self._jobs)
        self._wide = Wide(run, technique, self._jobs, self._engine.ask_all)
        self._verdicts: list[Verdict] | None = None
        self.extra_info: dict[str, object] = {}  # of the latency benchmark; receives the whole row when it ends
        if technique.offline and math.isfinite(self._seconds):  # what the reference need not answer for it alone
            self._rounds.count = max(FEW_ARTICLES, len(run.heard))
        self.was_begun = False
        if reason := technique.unavailable(run.spec):
            self.status, self.reason = "skipped", reason
            return
        self.was_begun = True
        if run.spec.device == "cuda":
            self._watch = self._open.enter_context(watching(technique.ranks(run.spec)))
        run.begin_row()
        run.progress(technique.name, "building", 0, 1)
        with contextlib.suppress(RowFailed), self._guarded():
            self._engine.start()

    # -- the timed rounds --------------------------------------------------------------------------------------------

    def warm_up(self) -> None:
        """Answers an article, untimed, and settles how many rounds there are: all that the time allows."""
        self.check()
        if self._is_warm:
            return
        self._is_warm = True
        with self._guarded():
            own, seconds = self._rounds.warm_up()
        left = ROUNDS_SHARE * self._seconds - (time.monotonic() - self._began)
        if left < seconds * self._rounds.count:
            self._rounds.count = min(self._rounds.count, max(FEW_ARTICLES, int(left / seconds)))
        # Where time is limited, more articles are of more use than more processes.
        wanted = 1 if self.run.launches is None and math.isfinite(self._seconds) else self.run.launches
        self._rounds.divide(wanted, self._engine.build_seconds + own, seconds)

    def next_round(self) -> int:
        """Prepares a round, untimed, and returns its number; see `Rounds`."""
        self.check()
        with self._guarded():
            return self._rounds.next()

    def play_round(self, number: int) -> float:
        """Generates the headline of this round's article; the engine's seconds."""
        self.check()
        with self._guarded():
            return self._rounds.play(number)

    @property
    def rounds(self) -> int:
        """How many there are: the first so many articles are what the row is measured on."""
        return self._rounds.count

    @property
    def prompts(self) -> list[str]:
        """Those of these articles."""
        return self.run.prompts[: self.rounds]

    @property
    def info(self) -> BuildInfo:
        """What the engine said of itself when it was built."""
        self.check()
        return self._engine.info

    def finish_rounds(self) -> None:
        """Plays whatever rounds are left, so that quality is judged on all articles whoever ran the first ones."""
        self.check()
        if self.technique.offline and not self.generations:
            self.play_job(self.batch_size)
        with self._guarded():
            if self.technique.offline:
                self.reference_generations = self.run.reference_answers(self.rounds)
            else:
                self.warm_up()
                self._rounds.finish()
                self.run.hear(self.reference_generations)
            if self.technique.exact_to not in self._rounds.not_compared:
                self._scoring.ask_near_ties(self.generations, self.reference_generations)
            self._beside_other_code.ask()
            self._beside_other_code.score(self.generations)
        self.run.dismiss_companions()

    # -- what else is measured ---------------------------------------------------------------------------------------

    def measure_memory(self) -> Memory:
        """The peaks in a pass of their own; see `Passes`."""
        self.check()
        with self._guarded():
            return self._passes.memory()

    def measure_energy(self) -> Energy | None:
        """Joules a headline in a pass of its own; see `Passes`."""
        self.check()
        with self._guarded():
            return self._passes.energy()

    def measure_batch_curve(self) -> BatchCurve | None:
        """What more articles at a time give; see `Passes`. None of a row whose engine takes one at a time."""
        self.check()
        if not self.technique.takes_batches(self.run.spec):
            return None
        left = min(self._engine.seconds_left, self.seconds_left)
        alone = [] if self.technique.offline else [generation.seconds for generation in self.generations]
        each = math.fsum(alone) / len(alone) if alone else 0.0
        with self._guarded():
            return self._passes.batch_curve(left / 2, each)  # no more of it: a curve is not worth the row

    def profile(self, folder: Path) -> tuple[Path, Path]:
        """Writes a trace and a table to `folder`; their paths; see `Passes`. Where they cannot be written, the row goes
        on."""
        self.check()
        with self._guarded():
            return self._passes.profile(folder)

    def play_job(self, batch_size: int) -> float:
        """Generates all headlines as one job, `batch_size` at a time; seconds."""
        self.check()
        with self._guarded():
            seconds = self._jobs.play_timed(batch_size)
        if self.technique.offline:
            self.generations = self._jobs.last
        return seconds

    @property
    def seconds_left(self) -> float:
        """What is left of the row's share of a session's time, or below 0; inf where there is no limit."""
        return self._began + self._seconds - time.monotonic()

    @property
    def job_launches(self) -> int:
        """The fresh processes that the timed jobs are divided over; see `Jobs`."""
        return self._jobs.launches

    @property
    def first_job_counts(self) -> bool:
        """Whether the first job is worth no other one to warm up for: where time is limited, and a CPU has nothing to
        make for a new size."""
        return math.isfinite(self._seconds) and self.run.spec.device == "cpu"

    def next_job(self) -> None:
        """Prepares a timed job, untimed; see `Jobs`."""
        self.check()
        with self._guarded():
            self._jobs.next()

    @property
    def batch_size(self) -> int:
        """Articles at a time in a job: what the session asks for, or the fastest."""
        self.check()
        with self._guarded():
            return self._jobs.size

    def keep_throughput(self, seconds: list[float]) -> Throughput:
        """Keeps the figures of the rounds that `play_job` took."""
        with self._guarded():
            limits = self.run.limits()
        self._throughput = self._jobs.throughput(seconds, self.info, limits)
        return self._throughput

    # -- quality -----------------------------------------------------------------------------------------------------

    def answers(self) -> tuple[Answers, Answers]:
        """What this row and the reference answered in the timed rounds, scored."""
        self.check()
        if self._scoring.answers is None:
            self.finish_rounds()
            self.run.progress(self.technique.name, "quality", 0, 1)
            with self._guarded():
                own, _ = self._scoring.score(self.generations, self.reference_generations)
                wide_seconds = ROUNDS_SHARE * self.seconds_left
                self._wide.write(self.generations, self.reference_generations, self._scoring.seconds, wide_seconds)
                self._scoring.score_wide(self._wide)
            ratios = [] if self.technique.offline else measure.log_ratios(self.reference_generations, self.generations)
            wide = self._scoring.wide[0] if self._scoring.wide else None
            self.run.answered[self.technique.name] = Answered(
                own, wide, ratios, self._rounds.launches, self._jobs.log_ratios
            )
        assert self._scoring.answers is not None
        return self._scoring.answers

    def verdicts(self) -> list[Verdict]:
        """The verdicts of this row's gates and, on the embedded default, of the reference's absolute floor."""
        if self._verdicts is None:
            evidence = self._evidence()
            self._verdicts = gates.judge(self.run.thresholds[self.technique.name], evidence)
            if self.run.has_floor:
                self._verdicts += gates.judge_floor(self.run.thresholds["reference"], self.answers()[1])
        return self._verdicts

    def _evidence(self) -> gates.Evidence:
        """What the gates look at."""
        self.answers()
        timed = self._throughput if self.technique.offline else self._measurement()
        speed_up = timed.speed_up if timed else None
        with self._guarded():
            return self._scoring.evidence(speed_up, self._speed_ups(), self._rounds.not_compared)

    def _speed_ups(self) -> dict[str, Estimate]:
        """Over other rows, by their names."""
        return (self._jobs if self.technique.offline else self._rounds).speed_ups()

    # -- the end -----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises RowFailed where the row has ended."""
        if self.status != "ok":
            raise RowFailed(f"{self.technique.name}: {self.status}: {self.reason}")
        if self._watch is not None:
            self._watch.look()

    def tell_end(self) -> str:
        """Why the row has ended, with what its worker wrote last where that crashed or hung; only once, and nothing of
        a row that was skipped: then an empty text."""
        if self._told or self.status in ("ok", "skipped"):
            return ""
        self._told = True
        return f"{self.technique.name}: {self.status}: {self.reason}\n{self._last_words}".rstrip()

    def record(self) -> Record:
        """The row as it stands."""
        measurement: Measurement | None = None
        scores: tuple[Scores | None, Scores | None] = None, None
        verdicts: list[Verdict] = []
        over: dict[str, Estimate] = {}
        per_article: PerArticle | None = None
        if self.status == "ok" and self.generations:
            with contextlib.suppress(RowFailed):
                self.answers()
                with self._guarded():
                    scores = self._scoring.scores()
                verdicts = self.verdicts()
                seconds = [] if self.technique.offline else [g.seconds for g in self.generations]
                per_article = self.run.answered[self.technique.name].per_article(seconds)
                over = self._speed_ups()
                if not self.technique.offline:
                    measurement = self._measurement()
        worker = self._engine.worker
        return Record(
            run=self.run.name,
            technique=self.technique.name,
            title=self.technique.title,
            status=self.status,
            reason=self.reason,
            engine=self.technique.engine_for(self.run.spec),
            build_seconds=self._engine.build_seconds if worker else None,
            build=worker.info if worker else None,
            measurement=measurement,
            speed_up_over=over,
            in_turn=self._rounds.in_turn if measurement else (),
            not_compared=self._not_compared(measurement is not None),
            throughput=self._throughput,
            batch_curve=self._passes.curve,
            memory=self._passes.peaks,
            energy=self._passes.spent,
            parallel=self._passes.parallel,
            scores=scores[0],
            job_scores=scores[1],
            per_article=per_article,
            other_code=self._beside_other_code.found,
            verdicts=verdicts,
            disturbances=self._watch.said() if self._watch else (),
            settings=self.run.all_settings,
            environment=self.run.environment,
        )

    def _not_compared(self, has_rounds: bool) -> dict[str, str]:
        found = self._jobs.not_compared | self._beside_other_code.not_compared
        return found | self._rounds.not_compared if has_rounds else found

    def close(self) -> None:
        """Ends the worker, and with it frees all of its memory."""
        self._open.close()
        self.run.dismiss_companions()  # of rounds that were not played to their end
        self._engine.close()

    def _measurement(self) -> Measurement:
        with self._guarded():
            limits = self.run.limits()
        limit = measure.limit_seconds(self.info, self.generations, limits)
        return measure.summarise(self.generations, self.reference_generations, limit, self._rounds.launches)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Ends the row where a worker gives no answer."""
        try:
            yield
        except WorkerError as error:
            self.status, self.reason = error.status, error.reason
            if error.status in ("crash", "timeout"):
                self._last_words = error.details
            raise RowFailed(f"{self.technique.name}: {error.status}: {error.reason}") from None
