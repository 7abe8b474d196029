"""The timed rounds of a row: each is one article, which the row's engine answers and, right before or right after it,
the engines that it is compared with do too. Machines drift by more than most techniques win; the ratio of two answers
to one article in the same minute does not."""

import time
from collections.abc import Callable

from udaciheadline.records import EngineSpec, Generation
from udaciheadline.run import Run
from udaciheadline.techniques import REFERENCE, Technique, techniques
from udaciheadline.workers import WorkerError

# OpenMP threads go on spinning for some milliseconds after an engine has answered, on the cores that the other engine
# needs next: without a pause, a technique read 20 % slower beside the reference than alone.
SETTLE_SECONDS = 0.01


class Rounds:
    """The rounds of one technique, as many as there are articles, and as many before them to warm up: on a GPU a fresh
    engine was slow on every article that it had not seen (0.76 times the speed of an engine that had), as if kernels
    were prepared for each new length.

    `own` are the technique's headlines, `others` those of the engines that it is compared with: the reference, and
    for a parallel technique its engine on one rank, where that can run this model. Whatever a worker raises goes
    through.
    """

    def __init__(self, run: Run, technique: Technique, generate: Callable[[list[str]], list[Generation]]) -> None:
        self._run, self._technique, self._generate = run, technique, generate
        self.count = len(run.articles)
        self.own: list[Generation] = []
        self.others: dict[str, list[Generation]] = {REFERENCE: []}
        if alone := _on_one_rank(technique, run.spec):
            self.others[alone] = []
        self._number = -self.count
        self._owed: int | None = None  # a round that the others answer after the technique
        self._last: str | None = None  # who answered last; None is the technique

    def next(self) -> int:
        """Prepares a round, untimed, and returns its number: the others answer here, before every even round and after
        every odd one. Negative rounds warm up, without the others."""
        self._settle_debt()
        number = self._number
        self._number += 1
        doing, done = ("measuring", number) if number >= 0 else ("warming up", number + self.count)
        self._run.progress(self._technique.name, doing, done, self.count)
        if number >= 0 and number % 2 == 0:
            self._others_answer(number)
        return number

    def play(self, number: int) -> float:
        """Generates the headline of this round's article; the engine's seconds."""
        self._take_turn(None)
        generation = self._generate([self._run.prompts[number % self.count]])[0]
        self._run.useful_seconds += generation.seconds
        if number >= 0:
            self.own.append(generation)
            if number % 2:
                self._owed = number
        return generation.seconds

    def finish(self) -> None:
        """Plays whatever rounds are left, so that quality is judged on all articles whoever ran the first ones."""
        while self._number < self.count:
            self.play(self.next())
        self._settle_debt()

    def _settle_debt(self) -> None:
        if self._owed is not None:
            self._others_answer(self._owed)
            self._owed = None

    def _others_answer(self, number: int) -> None:
        for name, made in list(self.others.items()):
            self._take_turn(name)
            try:
                generation = self._run.ask(name, "generate", [self._run.prompts[number]])[0]
            except WorkerError as error:
                if error.status != "skipped" or name == REFERENCE:
                    raise
                del self.others[name]  # what runs on several ranks may be too much for one
                continue
            self._run.useful_seconds += generation.seconds
            made.append(generation)

    def _take_turn(self, name: str | None) -> None:
        if name != self._last:
            time.sleep(SETTLE_SECONDS)
        self._last = name


def _on_one_rank(technique: Technique, spec: EngineSpec) -> str | None:
    """The row that is a parallel technique's engine on one rank, where that is not the reference and can run here."""
    if not technique.parallel or technique.engine_for(spec) == techniques()[REFERENCE].engine_for(spec):
        return None
    alone = technique.engine_for(spec)
    return None if techniques()[alone].unavailable(spec) else alone
