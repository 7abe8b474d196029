"""What is measured of a row in a pass of its own, beside the timed rounds and jobs: memory, energy, where the time
goes, and what more articles at a time give."""

import itertools
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from udaciheadline.evidence import measure
from udaciheadline.evidence.measure import FIRST_BATCH
from udaciheadline.records import BatchCurve, BatchPoint, Energy, Memory, Parallel, Timeline, UsageError
from udaciheadline.report.timeline import write_profile
from udaciheadline.session.engine import RowEngine
from udaciheadline.session.jobs import Jobs
from udaciheadline.session.run import Run
from udaciheadline.techniques import Technique
from udaciheadline.workers import power

FEW_ARTICLES = 3  # for what is measured so, and however little time there is
BATCH_SIZES = (1, 4, 16, 64, 256)
CURVE_SECONDS = 60.0  # of a row's curve: what would take longer is left out
POINT_SECONDS, MOST_ROUNDS = 2.0, 3  # of a size's rounds together, and how many of short ones


class Passes:
    """Those of one row: each is made once. `prompts` gives those of the row's articles, and `engine` is its own: what
    that raises goes through."""

    def __init__(
        self,
        run: Run,
        technique: Technique,
        jobs: Jobs,
        prompts: Callable[[], list[str]],
        engine: RowEngine,
    ) -> None:
        self._run, self._technique, self._jobs, self._prompts = run, technique, jobs, prompts
        self._engine = engine
        self.peaks: Memory | None = None
        self.spent: Energy | None = None
        self.curve: BatchCurve | None = None
        self._parallel: Parallel | None = None
        self._timeline: Timeline | None = None

    @property
    def parallel(self) -> Parallel | None:
        """What the ranks have and do, of a row that has several; with what they did at the same time, once it was
        profiled."""
        return self._parallel and replace(self._parallel, timeline=self._timeline)

    def memory(self) -> Memory:
        """The peaks over the article with the longest prompt, or a whole offline job."""
        if self.peaks is None:
            self._run.progress(self._technique.name, "memory", 0, 1)
            prompts = self._prompts()
            longest = [prompts[self._engine.ask_all("longest", prompts)[0]]]
            self._engine.ask_all("reset_memory")
            for asked in self._asked(longest):
                size = self._jobs.size if self._technique.offline else None
                self._run.useful_seconds += self._engine.generate(asked, size)[0].seconds
            peaks = self._engine.ask_all("peak_memory")
            self.peaks = measure.together(peaks)
            if len(peaks) > 1:
                jobs = (self._warm_prompts()[:FEW_ARTICLES],), (prompts, self._jobs.likely_size)
                shares = [self._engine.ask_all("communication_share", *job) for job in jobs]
                self._parallel = measure.parallel(self._run.spec.device, self._engine.ask_all("info"), peaks, *shares)
        return self.peaks

    def energy(self) -> Energy | None:
        """Joules a headline, one article after the other or whole offline jobs; None where this machine counts none,
        or several hosts have a part in it."""
        with power.meter(self._run.spec.device, self._technique.ranks(self._run.spec)) as meter:
            if meter is not None and self._run.one_machine and self.spent is None:
                self._run.progress(self._technique.name, "energy", 0, 1)
                size = self._jobs.size if self._technique.offline else None
                jobs = itertools.cycle(self._asked([] if self._technique.offline else self._warm_prompts()))
                self.spent = power.spent(meter, lambda: len(self._engine.generate(next(jobs), size)))
                self._run.useful_seconds += self.spent.seconds
        return self.spent

    def batch_curve(self, seconds: float, each: float) -> BatchCurve:
        """The rates of jobs with so many articles at a time as `BATCH_SIZES` has, and with as many as the row's jobs
        took. They may take so many `seconds` together, at most `CURVE_SECONDS`, where one article alone takes `each`: a
        size that would take longer is left out, and so are all that the engine does not take."""
        if self.curve is not None:
            return self.curve
        until, most = time.monotonic() + min(seconds, CURVE_SECONDS), math.inf
        articles, own = self._prompts(), self._run.job_sizes.get(self._technique.name)
        points: list[BatchPoint] = []
        left_out: list[tuple[int, str]] = []
        for size in sorted({*BATCH_SIZES, own or 1}):
            self._run.progress(self._technique.name, f"{size} at a time", 0, 1)
            prompts = list(itertools.islice(itertools.cycle(articles), max(size, min(FIRST_BATCH, len(articles)))))
            expected = each * len(prompts)
            if size <= most and time.monotonic() + expected <= until:
                found = self._point(prompts, size)
                if found.batch_size == size:
                    points.append(found)
                    each = min(1 / point.headlines_per_second for point in points)
                    continue
                most = found.batch_size
            too_long = f"it would take about {expected:.0f} s"
            left_out.append((size, too_long if size <= most else f"the engine takes no more than {most:.0f} at a time"))
        self.curve = self._run.curves[self._technique.name] = BatchCurve(tuple(points), own, tuple(left_out))
        return self.curve

    def _point(self, prompts: list[str], size: int) -> BatchPoint:
        """These as a job, so many at a time or as many of them as the engine takes; a short job several times."""
        if self._run.spec.device == "cuda":
            self._engine.generate(prompts, size)  # the first job of a size warms up, as in `Jobs`
        seconds: list[float] = []
        while len(seconds) < MOST_ROUNDS and math.fsum(seconds) * (1 + 1 / max(len(seconds), 1)) <= POINT_SECONDS:
            made = self._engine.generate(prompts, size)
            seconds.append(made[0].seconds)
            self._run.useful_seconds += made[0].seconds
        rate, fitted = len(made) / statistics.median(seconds), made[0].batch_size
        tokens = sum(len(generation.token_ids) for generation in made)
        other = self._run.curves.get(self._technique.optimises)
        rates = {point.batch_size: point.headlines_per_second for point in other.points} if other else {}
        times = rate / rates[size] if size in rates else None
        return BatchPoint(fitted, len(seconds), rate, tokens * rate / len(made), times)

    def profile(self, folder: Path) -> tuple[Path, Path]:
        """Writes a Chrome trace of a few articles and the table of the top operators to `folder`; their paths. Of a
        parallel row, all articles as a job are in them too, and each other rank has a trace of its own beside it.
        Raises UsageError where they cannot be written."""
        self._run.progress(self._technique.name, "profiling", 0, 1)
        trace, table = (folder.resolve() / f"{self._technique.name}{ending}" for ending in (".json.gz", ".txt"))
        jobs = self._asked(self._prompts()[:FEW_ARTICLES])
        if self._technique.parallel:
            jobs.append(self._prompts())
        found = self._engine.ask_all("profile", jobs, self._jobs.likely_size, str(trace))
        profiles, spans, unwritten = zip(*found, strict=True)
        if reason := next(filter(None, unwritten), ""):
            raise UsageError(reason)
        try:
            found = list(zip(profiles, spans, strict=True))
            self._timeline = write_profile(table, found, one_clock=self._run.one_machine)
        except OSError as error:
            raise UsageError(f"{table}: the profile cannot be written ({error.strerror})") from None
        return trace, table

    def _warm_prompts(self) -> list[str]:
        """Those of the row's articles for whose shapes the engine as it runs now has nothing to prepare."""
        prompts = self._prompts()
        return [prompts[i] for i in self._engine.ask_all("met", prompts)[0]]

    def _asked(self, prompts: list[str]) -> list[list[str]]:
        """These prompts one by one; of an offline row, all of its articles as one job."""
        return [self._prompts()] if self._technique.offline else [[prompt] for prompt in prompts]
