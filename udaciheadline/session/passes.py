"""What is measured of a row in a pass of its own, beside the timed rounds and jobs: memory, energy, and where the time
goes."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from udaciheadline.evidence import measure
from udaciheadline.records import Energy, Generation, Memory, Parallel, Timeline, UsageError
from udaciheadline.report.timeline import write_profile
from udaciheadline.session.jobs import Jobs
from udaciheadline.session.run import Run
from udaciheadline.techniques import Technique
from udaciheadline.workers import power

FEW_ARTICLES = 3  # for what is measured so, and however little time there is


class Passes:
    """Those of one row: each is made once. `prompts` gives those of the row's articles; `ask_all` asks its workers, and
    `generate` has them write. What they raise goes through."""

    def __init__(
        self,
        run: Run,
        technique: Technique,
        jobs: Jobs,
        prompts: Callable[[], list[str]],
        ask_all: Callable[..., list[Any]],
        generate: Callable[..., list[Generation]],
    ) -> None:
        self._run, self._technique, self._jobs, self._prompts = run, technique, jobs, prompts
        self._ask_all, self._generate = ask_all, generate
        self.peaks: Memory | None = None
        self.spent: Energy | None = None
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
            longest = [prompts[self._ask_all("warm_up", prompts)[0][0]]]
            self._ask_all("reset_memory")
            for asked in self._asked(longest):
                size = self._jobs.size if self._technique.offline else None
                self._run.useful_seconds += self._generate(asked, size)[0].seconds
            peaks = self._ask_all("peak_memory")
            self.peaks = measure.together(peaks)
            if len(peaks) > 1:
                jobs = (prompts[:FEW_ARTICLES],), (prompts, self._jobs.likely_size)
                shares = [self._ask_all("communication_share", *job) for job in jobs]
                self._parallel = measure.parallel(self._run.spec.device, self._ask_all("info"), peaks, *shares)
        return self.peaks

    def energy(self) -> Energy | None:
        """Joules a headline, one article after the other or whole offline jobs; None where this machine counts none,
        or several hosts have a part in it."""
        with power.meter(self._run.spec.device, self._technique.ranks(self._run.spec)) as meter:
            if meter is not None and self._run.one_machine and self.spent is None:
                self._run.progress(self._technique.name, "energy", 0, 1)
                size = self._jobs.size if self._technique.offline else None
                jobs = itertools.cycle(self._asked(self._prompts()))
                self.spent = power.spent(meter, lambda: len(self._generate(next(jobs), size)))
                self._run.useful_seconds += self.spent.seconds
        return self.spent

    def profile(self, folder: Path) -> tuple[Path, Path]:
        """Writes a Chrome trace of a few articles and the table of the top operators to `folder`; their paths. Of a
        parallel row, all articles as a job are in them too, and each other rank has a trace of its own beside it.
        Raises UsageError where they cannot be written."""
        self._run.progress(self._technique.name, "profiling", 0, 1)
        trace, table = (folder.resolve() / f"{self._technique.name}{ending}" for ending in (".json.gz", ".txt"))
        jobs = self._asked(self._prompts()[:FEW_ARTICLES])
        if self._technique.parallel:
            jobs.append(self._prompts())
        found = self._ask_all("profile", jobs, self._jobs.likely_size, str(trace))
        profiles, spans, unwritten = zip(*found, strict=True)
        if reason := next(filter(None, unwritten), ""):
            raise UsageError(reason)
        try:
            found = list(zip(profiles, spans, strict=True))
            self._timeline = write_profile(table, found, one_clock=self._run.one_machine)
        except OSError as error:
            raise UsageError(f"{table}: the profile cannot be written ({error.strerror})") from None
        return trace, table

    def _asked(self, prompts: list[str]) -> list[list[str]]:
        """These prompts one by one; of an offline row, all of its articles as one job."""
        return [self._prompts()] if self._technique.offline else [[prompt] for prompt in prompts]
