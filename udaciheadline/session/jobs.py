"""All articles of a row as one job: how many at a time, and what it comes to."""

import math
import statistics
from collections.abc import Callable

from udaciheadline.evidence import measure
from udaciheadline.evidence.statistics import geometric_mean
from udaciheadline.records import BuildInfo, Estimate, Generation, Limits, Throughput
from udaciheadline.session.engine import RowEngine
from udaciheadline.session.rounds import FEWEST_LAUNCHES
from udaciheadline.session.run import OTHER_CODE, Run
from udaciheadline.techniques import REFERENCE, Technique
from udaciheadline.workers.worker import WorkerError


class Jobs:
    """The jobs of one row, by its `engine`; `prompts` gives those of its articles, whose number a session with little
    time settles late. `last` is what the last job wrote. What the worker raises goes through."""

    def __init__(
        self,
        run: Run,
        technique: Technique,
        engine: RowEngine,
        prompts: Callable[[], list[str]],
    ) -> None:
        self._run, self._technique, self._engine, self._prompts = run, technique, engine, prompts
        self.last: list[Generation] = []
        self.log_ratios: list[float] = []  # of the reference's seconds over these, where jobs are paired
        self.other_code_log_ratios: list[float] = []  # and of the same row's in other code (`Run.against`),
        self.by_other_code: list[Generation] = []  # with what that wrote in its last job
        self.launches = (run.launches or FEWEST_LAUNCHES) if technique.offline else 1
        self._seconds: dict[str, float] = {}  # of the last jobs of others, by name, where jobs are paired
        self._other_code = technique.name + OTHER_CODE if run.against and technique.offline else None
        self.not_compared: dict[str, str] = {}
        self._size = run.batch_size
        self._refused: int | None = None  # a size that did not fit in memory

    def write(self, prompts: list[str], size: int) -> list[Generation]:
        """The headlines of other articles, as a job; no part of the figures."""
        made = self._engine.generate(prompts, size)
        self._run.useful_seconds += made[0].seconds
        return made

    def play(self, size: int) -> float:
        """One job, `size` articles at a time; the engine's seconds."""
        self._run.progress(self._technique.name, "throughput", 0, 1)
        self.last = self._engine.generate(self._prompts(), size)
        self._run.useful_seconds += self.last[0].seconds
        return self.last[0].seconds

    @property
    def size(self) -> int:
        """Articles at a time: what the session asks for, or the fastest, which is searched once."""
        if self._size is None:
            self._size, self._refused = measure.best_batch_size(self._try, len(self._prompts()))
        return self._size

    @property
    def likely_size(self) -> int:
        """The same as far as it is known, for what is not worth a search."""
        return self._size or len(self._prompts())

    def next(self) -> None:
        """Prepares a timed job, untimed. Of a row that has nothing but jobs each has a process of its own: that starts
        anew and warms up, and another process of the reference writes the same job, at the size that is its fastest."""
        if self.launches == 1:
            if self._other_code:
                self._give_up("its jobs have one process, which says nothing of how two differ: give more --launches")
            return
        if self._seconds:
            self._engine.relaunch()
            self.play(self.size)
        self._run.begin_launch(len(self.log_ratios))
        self._hear(REFERENCE, self._run.job_sizes.get(REFERENCE, self.size))
        if self._other_code:
            try:
                self.by_other_code = self._hear(self._other_code, self.size)
            except WorkerError as error:
                self._give_up(f"{error.status}: {error.reason}")

    def _hear(self, name: str, size: int) -> list[Generation]:
        """Has another engine write the job."""
        for _ in range(2):  # the first job of a process warms up: on one H100 it took twice as long as the second
            made: list[Generation] = self._run.ask(name, "generate", self._prompts(), size)
            self._seconds[name] = made[0].seconds
            self._run.useful_seconds += made[0].seconds
        return made

    def _give_up(self, why: str) -> None:
        """Compares no job with those of the other code, not even those that it wrote."""
        assert self._other_code
        self.not_compared, self._other_code = {self._other_code: why}, None
        self.by_other_code, self.other_code_log_ratios = [], []

    def play_timed(self, size: int) -> float:
        """`play`, paired with the others' jobs where those were prepared."""
        seconds = self.play(size)
        if self._seconds:
            self.log_ratios.append(math.log(self._seconds[REFERENCE] / seconds))
        if self._other_code in self._seconds:
            self.other_code_log_ratios.append(math.log(self._seconds[self._other_code] / seconds))
        return seconds

    def speed_ups(self) -> dict[str, Estimate]:
        """Of a row that has nothing but jobs, over the earlier one that it is there to make faster: by what each of the
        two gained over the reference."""
        earlier = self._run.answered.get(self._technique.optimises)
        pairs = zip(self.log_ratios, earlier.job_log_ratios if earlier else (), strict=False)
        gained = [own - other for own, other in pairs]
        return {self._technique.optimises: geometric_mean(gained, len(gained))} if gained else {}

    def throughput(self, seconds: list[float], info: BuildInfo, limits: Limits) -> Throughput:
        """The figures of jobs like the last one that took so many seconds each, beside earlier rows' rates."""
        count, fitted = len(self.last), self.last[0].batch_size
        asked = min(self._size or fitted, count)
        rate = count / statistics.median(seconds)
        made = Throughput(
            batch_size=fitted,
            rounds=len(seconds),
            headlines_per_second=rate,
            new_tokens_per_second=sum(len(g.token_ids) for g in self.last) * rate / count,
            refused_batch_size=asked if self._refused is None and fitted < asked else self._refused,
            limit_per_second=measure.limit_per_second(info, self.last, limits),
            speed_up=geometric_mean(self.log_ratios, len(self.log_ratios)) if self.log_ratios else None,
            times_over={name: rate / other for name, other in self._run.rates.items()},
        )
        self._run.rates[self._technique.name], self._run.job_sizes[self._technique.name] = rate, fitted
        return made

    def _try(self, size: int) -> tuple[float, int]:
        if self._run.spec.device == "cuda":
            self.play(size)  # the first job of a size warms up: there is nothing to be made for it on a CPU
        return self.play(size), self.last[0].batch_size
