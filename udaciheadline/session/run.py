"""What the rows of a session share: articles, thresholds, what earlier rows answered, and the engines that rows are
compared with while they are measured (`rounds.py`): the reference, which is plain KV cache on transformers, for all of
them, and beside it what a technique names (`Technique.beside`).
"""

import contextlib
import datetime
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from udaciheadline.data.articles import ArticleSet
from udaciheadline.data.prompts import NOTEBOOK, Prompt
from udaciheadline.evidence import quality
from udaciheadline.evidence.gates import Thresholds
from udaciheadline.evidence.quality import Answers
from udaciheadline.evidence.statistics import mean
from udaciheadline.records import BatchCurve, BuildInfo, EngineSpec, Estimate, Generation, Limits, PerArticle
from udaciheadline.techniques import REFERENCE, Technique, techniques
from udaciheadline.workers.machine import machine
from udaciheadline.workers.worker import HERE, Worker, WorkerError

if TYPE_CHECKING:
    from udaciheadline.workers.hosts import Host
    from udaciheadline.workers.installation import Installation
    from udaciheadline.workers.processes import Here

OTHER_CODE = " (--against)"  # behind a row's name: the engine of that code
MOST_RESTING = 4  # processes of the reference, beside the one that answers
FURTHER_BATCH = 16  # articles at a time of the reference, where its fastest is not known
ROUNDING_ARTICLES = 24  # some hundred tokens: enough to see the largest effect that rounding has

Progress = Callable[[str, str, int, int], None]
"""Called with (technique, what it is doing, done, of how many)."""


@dataclass
class Answered:
    """What is kept of a row after its engine is gone, for rows that are compared with it."""

    answers: Answers
    wide: Answers | None
    log_ratios: list[float]
    launches: int
    job_log_ratios: list[float]

    def per_article(self, seconds: Sequence[float]) -> PerArticle:
        """The same for a record, with what its own seconds were."""
        judged = self.wide or self.answers
        return PerArticle(
            tuple(self.log_ratios),
            self.launches,
            tuple(judged.rouge["rouge1"]),
            tuple(judged.nll),
            tuple(self.job_log_ratios),
            tuple(seconds),
            tuple(generation.headline for generation in judged.generations),
        )


class Run:
    """What the rows of a session share: articles, reference, thresholds, and what earlier rows answered."""

    def __init__(
        self,
        articles: ArticleSet,
        spec: EngineSpec,
        thresholds: dict[str, Thresholds],
        timeout: float,
        settings: dict[str, object],
        has_floor: bool,
        batch_size: int | None = None,
        progress: Progress = lambda *_: None,
        useful_seconds: float = 0.0,
        hosts: Sequence["Here | Host"] = HERE,
        prompt: Prompt = NOTEBOOK,
        launches: int | None = 1,
        quality_articles: int | None = None,
        against: "Installation | None" = None,
    ) -> None:
        self.name = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        self.articles = articles.articles  # those that are timed come first among all
        self.all_articles = articles.articles + articles.further
        self.quality_articles = quality_articles  # that quality is judged on; None: as many as are worth their time
        self.skipped_rows = articles.skipped
        self.all_prompts = [prompt.fill(article.short_description) for article in self.all_articles]
        self.all_completions = [prompt.completion(article.headline) for article in self.all_articles]  # the true ones
        timed = slice(len(self.articles))
        self.prompts, self.completions = self.all_prompts[timed], self.all_completions[timed]
        self.spec, self.thresholds, self.timeout, self.progress = spec, thresholds, timeout, progress
        texts = json.dumps([self.all_prompts, self.all_completions]).encode()
        self.settings = settings | {"fingerprint": hashlib.sha256(texts).hexdigest()[:12]}
        self.has_floor, self.batch_size = has_floor, batch_size
        self.environment, self._hosts = machine(spec.device), hosts
        self.against = against  # other code, of which each row has an engine beside it
        self.launches = launches  # of each row; None: as many as are worth their time
        self.one_machine = len(hosts) == 1
        if not self.one_machine:
            self.environment["hosts"] = ", ".join(host.name for host in hosts)
        self.answered: dict[str, Answered] = {}
        self.rates: dict[str, float] = {}  # headlines a second of earlier rows' jobs
        self.job_sizes: dict[str, int] = {}  # and how many articles at a time those took
        self.curves: dict[str, BatchCurve] = {}  # of earlier rows
        self.useful_seconds = useful_seconds  # generation, building and warm-up: the rest is the harness
        self._companions: dict[str, Worker] = {}  # those that answer now
        self._launch, self._resting = 0, dict[int, Worker]()  # the reference's processes of other launches than this
        self.launch_seconds: dict[str, float] = {}  # that one of them takes to start and warm up
        self._article_seconds: dict[str, float] = {}  # and to answer an article
        self._reference_nll: list[float] = []
        self._reference_further: tuple[list[Generation], list[float]] = [], []
        self.heard: list[Generation] = []  # the reference's answers, one article at a time
        self.deadline, self.rows_left = math.inf, 1  # --minutes, and the rows that share what is left of them
        self._rounding: dict[str, float] = {}
        self._limits: Limits | None = None
        self._copy_rouge: dict[str, Estimate] | None = None

    @property
    def all_settings(self) -> dict[str, object]:
        """What the session was asked for, and what that came to."""
        return {**self.settings, **asdict(replace(self.spec, calibration=()))}

    def ask(self, name: str, method: str, *args: Any) -> Any:
        """Calls the engine of a technique that others are compared with, starting it where it is not alive. Raises
        WorkerError; starts anew next time."""
        self.ready(name)
        with self._named(name):
            return self._companions[name].call(method, *args)

    def ready(self, name: str) -> float:
        """Starts that engine where it is not alive, and warms it up; the seconds that an article takes it. Raises as
        `ask`."""
        if name not in self._companions:
            self.progress(f"{name} beside it", "building", 0, 1)
            start = time.monotonic()
            with self._named(name):
                worker = self._companions[name] = self._start_companion(name)
                self.progress(f"{name} beside it", "warming up", 0, 1)
                seconds, self._article_seconds[name] = worker.call("warm_up", self.prompts)
            self.useful_seconds += seconds
            self.launch_seconds[name] = time.monotonic() - start
        return self._article_seconds[name]

    @contextlib.contextmanager
    def _named(self, name: str) -> Iterator[None]:
        """Forgets that engine where it fails, and says so where it is the reference."""
        try:
            yield
        except WorkerError as error:
            self._companions.pop(name, None)
            who = "the reference engine: " if name == REFERENCE else ""
            raise WorkerError(error.status, who + error.reason, error.details) from None

    def answer(self, name: str, article: int) -> Generation:
        """What that engine makes of one article, timed once it is warm. Raises as `ask`."""
        generation, untimed = self.ask(name, "answer", self.prompts[article])
        self._article_seconds[name] = generation.seconds + untimed  # it has met more shapes, and the machine drifts
        self.useful_seconds += self._article_seconds[name]
        return generation

    def begin_row(self) -> None:
        """Has a row's first launch begin, and grants the reference the time-out of another technique."""
        self.begin_launch(0)
        for worker in (*self._companions.values(), *self._resting.values()):
            worker.renew()

    def begin_launch(self, number: int) -> None:
        """Has other processes answer from now on than in the launches before this one: they start when they are asked.
        Those of the reference are the same in all rows, some of them, where its model leaves the memory to rest in."""
        self.dismiss_companions()
        if number == self._launch:
            return
        found = self._resting.pop(number, None)
        if (last := self._companions.pop(REFERENCE, None)) is not None:
            self._rest(last)
        if found is not None:
            self._companions[REFERENCE] = found
        self._launch = number

    def _rest(self, worker: Worker) -> None:
        with contextlib.suppress(WorkerError):
            if len(self._resting) < MOST_RESTING and worker.call("rest"):
                self._resting[self._launch] = worker
                return
        worker.close()

    def dismiss_companions(self) -> None:
        """Ends all but the reference: their memory is needed."""
        for name in [name for name in self._companions if name != REFERENCE]:
            self._companions.pop(name).close()

    def _start_companion(self, name: str) -> Worker:
        if self.against and name.endswith(OTHER_CODE):
            return self.start_worker(techniques()[name.removesuffix(OTHER_CODE)], hosts=(self.against.host,))
        return self.start_worker(techniques()[name])

    def start_worker(
        self, technique: Technique, timeout: float | None = None, hosts: "Sequence[Here | Host]" = ()
    ) -> Worker:
        """A worker with this technique's engine, which takes all articles; its build counts as useful time. Raises
        WorkerError, for one that is too long too: before anything is measured, and not when its turn comes."""
        spec = replace(self.spec, engine=technique.engine_for(self.spec))
        worker = Worker(technique, spec, self.timeout if timeout is None else timeout, hosts or self._hosts)
        self.useful_seconds += worker.build_seconds
        worker.call_all("check", self.prompts, self.completions)
        return worker

    def reference_info(self) -> BuildInfo:
        """What the reference engine says of itself."""
        return self.ask(REFERENCE, "info")

    def limits(self) -> Limits:
        """What the device can do, measured once a session, between rows."""
        if self._limits is None:
            self._limits = self.ask(REFERENCE, "limits", self.spec.dtype)
        return self._limits

    def reference_answers(self, count: int) -> list[Generation]:
        """The reference's headlines for the first articles, one at a time: for a row that has no rounds to pair them
        with. What it answered in earlier rows' rounds it is not asked again."""
        for prompt in self.prompts[len(self.heard) : count]:
            self.heard.append(self.ask(REFERENCE, "generate", [prompt])[0])
            self.useful_seconds += self.heard[-1].seconds
        return self.heard[:count]

    def hear(self, answers: list[Generation]) -> None:
        """Keeps what the reference answered in a row's rounds."""
        self.heard += answers[len(self.heard) :]

    def row_seconds(self) -> float:
        """What the row that begins now may take, where the session has so many minutes; else no limit."""
        return (self.deadline - time.monotonic()) / max(self.rows_left, 1)

    def rounding(self, name: str, tokens: list[list[int]]) -> float:
        """How far rounding moves what the engine of a technique prefers (`engines.texts.rounding`), measured once, on
        what it wrote of the first articles."""
        if name not in self._rounding:
            count = min(len(tokens), ROUNDING_ARTICLES)
            self._rounding[name] = self.ask(name, "rounding", self.prompts[:count], tokens[:count])
        return self._rounding[name]

    def reference_nll(self, count: int) -> list[float]:
        """The reference's negative log-likelihood of the first true headlines."""
        known = len(self._reference_nll)
        if known < count:
            new = slice(known, count)
            self._reference_nll += self.ask(REFERENCE, "likelihood", self.prompts[new], self.completions[new])
        return self._reference_nll[:count]

    def reference_further(self, count: int) -> tuple[list[Generation], list[float]]:
        """The reference's headlines of the first articles that are not timed, as a job, and the likelihoods of the true
        ones."""
        made, nll = self._reference_further
        if (known := len(made)) < count:
            new = slice(len(self.articles) + known, len(self.articles) + count)
            prompts, size = self.all_prompts[new], self.job_sizes.get(REFERENCE, FURTHER_BATCH)
            made += self.ask(REFERENCE, "generate", prompts, min(size, len(prompts)))
            self.useful_seconds += made[-1].seconds
            nll += self.ask(REFERENCE, "likelihood", prompts, self.all_completions[new])
        return made[:count], nll[:count]

    def copy_rouge(self) -> dict[str, Estimate]:
        """ROUGE of copying the description unchanged: what a table must show, so that nobody mistakes it for skill."""
        if self._copy_rouge is None:
            scores = quality.rouge([a.short_description for a in self.articles], [a.headline for a in self.articles])
            self._copy_rouge = {kind: mean(values) for kind, values in scores.items()}
        return self._copy_rouge

    def close(self) -> None:
        """Ends the engines that rows were compared with."""
        for workers in (self._companions, self._resting):
            while workers:
                workers.popitem()[1].close()
        if self.against:
            self.against.close()
