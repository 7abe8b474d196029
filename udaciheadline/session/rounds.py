"""The timed rounds of a row: each is one article, which the row's engine answers and, right before or right after it,
the engines that it is compared with do too. Machines drift by more than most techniques win; the ratio of two answers
to one article in the same minute does not.

Who comes after whom changes from round to round (`statistics.turns`): right behind itself an engine finds its own
caches warm, and wrote headlines of 4 ms in 7 % less on two CPU cores, those of 50 ms in 3 % less.
"""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from udaciheadline.evidence import measure
from udaciheadline.evidence.statistics import blocks, geometric_mean, turns
from udaciheadline.records import Estimate, Generation
from udaciheadline.session.engine import RowEngine
from udaciheadline.session.run import OTHER_CODE, Run
from udaciheadline.techniques import REFERENCE, Technique, plain, techniques
from udaciheadline.workers.worker import WorkerError

T = TypeVar("T")

# OpenMP threads go on spinning for some milliseconds after an engine has answered, on the cores that the other engine
# needs next: without a pause, a technique read 20 % slower beside the reference than alone.
SETTLE_SECONDS = 0.01
MOST_LAUNCHES, FEWEST_LAUNCHES = 5, 3  # where it is ours to choose; two give no interval to speak of
LAUNCHES_SECONDS, LAUNCHES_SHARE = (
    5.0,
    0.5,
)  # that more of them may take: so much, or that share of the rounds, if it is more


class Rounds:
    """The rounds of one technique, `count` of them, one for each of the first articles.

    `own` are the technique's headlines, `others` those of the engines that it is compared with: the reference, and the
    rows that must answer in turn with it (`Technique.beside`), and itself in other code (`Run.against`). Where one of
    those fails, only the comparison with it is lost, and `not_compared` says why. What the reference or the technique
    raises goes through.

    `engine` is the technique's. The rounds are divided over `launches`: between two of them it is started anew, and
    other processes of the others answer (`Run.begin_launch`).
    """

    def __init__(
        self,
        run: Run,
        technique: Technique,
        engine: RowEngine,
    ) -> None:
        self._run, self._technique, self._engine = run, technique, engine
        self.count, self.launches = len(run.articles), 1
        self.own: list[Generation] = []
        self.others: dict[str, list[Generation]] = {REFERENCE: []}
        self.not_compared: dict[str, str] = {}
        kind = technique.engine_for(run.spec)
        self._plain = plain(kind)
        for name in technique.beside(kind):
            if reason := techniques()[name].unavailable(run.spec):
                self.not_compared[name] = reason
            else:
                self.others[name] = []
        self._other_code = technique.name + OTHER_CODE
        if run.against and not technique.offline:
            self.others[self._other_code] = []  # last: next to the technique
        self._number = 0
        self._owed: tuple[int, list[str]] = 0, []  # a round, and who answers it after the technique
        self._last: str | None = None  # who answered last; None is the technique

    def warm_up(self) -> tuple[float, float]:
        """Answers an article, untimed, and has the others do so. The seconds that this takes the technique, and those
        of a round: what an article takes all of them."""
        start = time.monotonic()
        seconds = self._warm_up("warming up")
        own = time.monotonic() - start
        return own, seconds + sum(self._ask(list(self.others), self._run.ready).values())

    def divide(self, launches: int | None, launch_seconds: float, round_seconds: float) -> None:
        """Divides the rounds over so many launches (None: as many as are worth their time, and no fewer than give an
        interval: a first one that compiled is no measure of the others), at most one a round.
        A launch takes the technique `launch_seconds`, and a round takes all together `round_seconds`."""
        if launches is None:
            others = sum(self._run.launch_seconds.get(name, 0.0) for name in self.others)
            allowed = max(LAUNCHES_SECONDS, LAUNCHES_SHARE * round_seconds * self.count)
            worth = 1 + int(allowed / (launch_seconds + others))
            launches = max(FEWEST_LAUNCHES, min(worth, MOST_LAUNCHES))
        self.launches = min(launches, self.count)

    def next(self) -> int:
        """Prepares a round, untimed, and returns its number, which is that of its article: of the others those answer
        here that come before the technique, and those that came after it in the last one."""
        self._settle_debt()
        number = self._number
        starts = [block.start for block in blocks(self.count, self.launches)]
        if number and number in starts:
            self._run.begin_launch(starts.index(number))
            self._engine.relaunch()
            self._warm_up("warming up again")
            self._ask(list(self.others), self._run.ready)
        self._number += 1
        self._run.progress(self._technique.name, "measuring", number, self.count)
        before, after = self._order(number)
        if number in starts and self.launches > 1:  # who was warmed up last would find its caches warm: once, in order
            self._ask_others(number, before)
            self._answer(number)
            self._ask_others(number, after)
        self._hear_others(number, before)
        self._owed = number, after
        return number

    def _order(self, number: int) -> tuple[list[str], list[str]]:
        """Who of the others answers this round before the technique, and who after it."""
        names = list(self.others)
        orders = turns(len(names) + 1)
        order = orders[number % len(orders)]
        turn = order.index(len(names))
        return [names[i] for i in order[:turn]], [names[i] for i in order[turn + 1 :]]

    def play(self, number: int) -> float:
        """Generates the headline of this round's article; the engine's seconds."""
        self.own.append(self._answer(number))
        return self.own[-1].seconds

    def finish(self) -> None:
        """Plays whatever rounds are left, so that quality is judged on all articles whoever ran the first ones."""
        while self._number < self.count:
            self.play(self.next())
        self._settle_debt()

    @property
    def in_turn(self) -> tuple[str, ...]:
        """The rows, beside the reference, that answered in turn with this one."""
        return tuple(name for name in self.others if name not in (REFERENCE, self._other_code))

    @property
    def by_other_code(self) -> list[Generation]:
        """What the same row of other code answered in turn with this one (`Run.against`)."""
        return self.others.get(self._other_code, [])

    def speed_ups(self) -> dict[str, Estimate]:
        """Paired speed-ups: over the engines that answered in turn with this one, and over the plain ones of earlier
        rows by what each of the two gained over the reference."""
        answered = self._run.answered
        mine = answered[self._technique.name].log_ratios
        found = {
            name: geometric_mean(measure.log_ratios(self.others[name], self.own), self.launches)
            for name in self.in_turn
        }
        in_turn = {self._technique.name, REFERENCE, *self.in_turn, *self.not_compared}
        for name in ({"baseline", self._plain} - in_turn) & answered.keys():
            gained = [a - b for a, b in zip(mine, answered[name].log_ratios, strict=False)]  # articles of both
            if gained:
                found[name] = geometric_mean(gained, min(self.launches, answered[name].launches))
        return dict(sorted(found.items()))

    def _settle_debt(self) -> None:
        number, names = self._owed
        self._owed = number, []
        self._hear_others(number, names)

    def _hear_others(self, number: int, names: Sequence[str]) -> None:
        for name, generation in self._ask_others(number, names).items():
            self.others[name].append(generation)

    def _ask_others(self, number: int, names: Sequence[str]) -> dict[str, Generation]:
        return self._ask([name for name in names if name in self.others], lambda name: self._run.answer(name, number))

    def _warm_up(self, doing: str) -> float:
        """Answers an article, untimed; what one takes from then on."""
        self._run.progress(self._technique.name, doing, 0, 1)
        self._take_turn(None)
        taken, seconds = self._engine.warm_up()
        self._run.useful_seconds += taken
        return seconds

    def _answer(self, article: int) -> Generation:
        self._take_turn(None)
        generation, untimed = self._engine.answer(self._run.prompts[article])
        self._run.useful_seconds += generation.seconds + untimed
        return generation

    def _ask(self, names: Sequence[str], ask: Callable[[str], T]) -> dict[str, T]:
        made = {}
        for name in names:
            self._take_turn(name)
            try:
                made[name] = ask(name)
            except WorkerError as error:
                if name == REFERENCE:
                    raise
                del self.others[name]
                self.not_compared[name] = f"{error.status}: {error.reason}"
        return made

    def _take_turn(self, name: str | None) -> None:
        if name != self._last:
            time.sleep(SETTLE_SECONDS)
        self._last = name
