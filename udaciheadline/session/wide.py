"""The quality of a row on more articles than are timed: 50 of them cannot see a loss that matters.

They are written as offline jobs, which takes a fraction of the time; a row that takes one article at a time writes them
one by one. That a job writes what the rounds wrote is seen on the timed articles.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from udaciheadline.records import Generation
from udaciheadline.session.jobs import Jobs
from udaciheadline.session.run import Run
from udaciheadline.techniques import REFERENCE, Technique

QUALITY_SECONDS = 2.0  # of a row, where it is ours to choose: all together some 5 % of the default session


class Wide:
    """What a row wrote beside the timed rounds: `further` headlines, of the articles behind those of the rounds, with
    the likelihoods of the true ones, `nll`; and `timed`, a job of the rounds' own articles (nothing, of a row that has
    jobs only, or none). What the workers raise goes through; `ask_all` asks those of the row.
    """

    def __init__(self, run: Run, technique: Technique, jobs: Jobs, ask_all: Callable[..., list[Any]]) -> None:
        self._run, self._technique, self._jobs, self._ask_all = run, technique, jobs, ask_all
        self.timed: list[Generation] = []
        self.further: list[Generation] = []
        self.nll: list[float] = []

    def write(
        self,
        own: Sequence[Generation],
        reference: Sequence[Generation],
        likelihood_seconds: float,
        seconds_left: float,
    ) -> None:
        """Answers the session's further articles: all that were asked for or, where it is ours to choose, as many as
        take about the time that the rounds took, which wrote these headlines of the row and of the reference.
        `likelihood_seconds` is what the likelihoods of their articles took."""
        run, first = self._run, len(self._run.articles)
        if len(own) < first:  # the time was too short for the timed ones
            return
        count = len(run.all_prompts) - first
        if run.quality_articles is None:
            rounds = math.fsum(g.seconds for g in reference)
            own_seconds = own[0].seconds if self._technique.offline else math.fsum(g.seconds for g in own)
            seconds = min(QUALITY_SECONDS, rounds + own_seconds, seconds_left)
            rate = run.rates.get(self._technique.name, first / own_seconds)
            count = min(count, int(seconds / (1 / rate + likelihood_seconds / first)))
        these = slice(first, first + count)
        texts = run.all_prompts[these], run.all_completions[these]
        count = min(self._ask_all("fitting", *texts)[0], run.ask(REFERENCE, "fitting", *texts))
        if count < 1:
            return
        run.progress(self._technique.name, f"writing {count} more articles", 0, 1)
        size = self._jobs.likely_size if self._technique.batches else 1
        if self._technique.batches and not self._technique.offline:
            last = self._jobs.last
            self.timed = last if len(last) == first else self._jobs.write(run.prompts, size)
        prompts, completions = (some[:count] for some in texts)
        self.further = self._jobs.write(prompts, size)
        self.nll = self._ask_all("likelihood", prompts, completions)[0]
