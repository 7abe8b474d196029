"""A row beside itself in other code (`--against`): what that did in turn with it, article by article or job by job."""

from collections.abc import Sequence
from dataclasses import replace

from udaciheadline.evidence import measure, quality
from udaciheadline.records import Generation, OtherCode
from udaciheadline.session.jobs import Jobs
from udaciheadline.session.rounds import Rounds
from udaciheadline.session.run import OTHER_CODE, Run
from udaciheadline.techniques import Technique
from udaciheadline.workers.worker import WorkerError


class BesideOtherCode:
    """That of one row, whose rounds and jobs the other code has answered, too. Where that fails, only the comparison is
    lost, and `not_compared` says why."""

    def __init__(self, run: Run, technique: Technique, rounds: Rounds, jobs: Jobs) -> None:
        self._run, self._name, self._rounds, self._jobs = run, technique.name + OTHER_CODE, rounds, jobs
        self.not_compared: dict[str, str] = {}
        self.found: OtherCode | None = None

    def ask(self) -> None:
        """What is left to ask, while its engine is alive."""
        made = self._rounds.by_other_code or self._jobs.by_other_code
        if self.found or self.not_compared or not made:
            return
        texts = self._run.prompts[: len(made)], self._run.completions[: len(made)]
        try:
            nll: list[float] = self._run.ask(self._name, "likelihood", *texts)
            weights: int = self._run.ask(self._name, "info").weights_bytes
        except WorkerError as error:
            self.not_compared[self._name] = f"{error.status}: {error.reason}"
            return
        ratios = measure.log_ratios(made, self._rounds.own) if self._rounds.by_other_code else []
        rouge1 = self._rouge1(made)
        self.found = OtherCode(tuple(ratios), tuple(self._jobs.other_code_log_ratios), rouge1, (), tuple(nll), weights)

    def score(self, own: Sequence[Generation]) -> None:
        """Adds what the row itself wrote of the same articles."""
        if self.found:
            self.found = replace(self.found, rouge1_now=self._rouge1(own[: len(self.found.rouge1)]))

    def _rouge1(self, made: Sequence[Generation]) -> tuple[float, ...]:
        true = [article.headline for article in self._run.articles[: len(made)]]
        return tuple(quality.rouge([generation.headline for generation in made], true)["rouge1"])
