"""What the headlines of a row are worth: scored, and compared with those that it must repeat."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from udaciheadline.evidence import gates, quality
from udaciheadline.evidence.quality import Answers
from udaciheadline.records import Estimate, Generation, Scores
from udaciheadline.session.run import Answered, Run
from udaciheadline.session.wide import Wide
from udaciheadline.techniques import REFERENCE, Technique


class Scoring:
    """The quality of one row, whose worker `ask_all` asks. What the workers raise goes through.

    `answers` are those of the row and of the reference to the same articles, as soon as they are scored; `wide` the
    same with those to further articles (None: there are none), and `job` what the row answers to the timed ones as a
    job (None: it has none). `seconds` is what the likelihood of the timed articles took.
    """

    def __init__(self, run: Run, technique: Technique, ask_all: Callable[..., list[Any]]) -> None:
        self._run, self._technique, self._ask_all = run, technique, ask_all
        self.answers: tuple[Answers, Answers] | None = None
        self.wide: tuple[Answers, Answers] | None = None
        self.job: Answers | None = None
        self.seconds = 0.0
        self._preferences: dict[int, float] = {}  # see quality.Parity
        self._rounding = 0.0

    def ask_near_ties(self, own: Sequence[Generation], reference: Sequence[Generation]) -> None:
        """Asks the engine whose tokens the row must repeat, while it is alive, what it thinks of those that differ."""
        name, earlier = self._technique.exact_to, self._repeated()
        if name is None or (name != REFERENCE and earlier is None) or self._preferences:
            return
        exact = reference if earlier is None else earlier.answers.generations
        theirs, ours = ([list(g.token_ids) for g in made] for made in (exact, own))
        if parted := quality.partings(ours, theirs):
            at = [(self._run.prompts[i], theirs[i][: p + 1], ours[i][p]) for i, p in parted.items()]
            preferred = self._run.ask(name, "preferences", *map(list, zip(*at, strict=True)))
            self._preferences = dict(zip(parted, preferred, strict=True))
            self._rounding = self._run.rounding(name, theirs)

    def score(self, own: Sequence[Generation], reference: Sequence[Generation]) -> tuple[Answers, Answers]:
        """ROUGE and likelihood of the headlines to the first articles, of the row and of the reference."""
        count, start = len(own), time.monotonic()
        nll = self._ask_all("likelihood", self._run.prompts[:count], self._run.completions[:count])[0]
        self.seconds = time.monotonic() - start
        self.answers = self._scored(own, nll), self._scored(reference, self._run.reference_nll(count))
        return self.answers

    def score_wide(self, wide: Wide) -> None:
        """The same of what the row wrote beside the rounds."""
        assert self.answers is not None
        own, reference = self.answers
        if wide.timed:
            self.job = self._scored(wide.timed, own.nll)
        if wide.further:
            theirs, nll = self._run.reference_further(len(wide.further))
            first = (self.job or own).generations
            self.wide = (  # all together: whether ROUGE can judge them is said of all
                self._scored([*first, *wide.further], own.nll + wide.nll),
                self._scored([*reference.generations, *theirs], reference.nll + nll),
            )

    def scores(self) -> tuple[Scores, Scores | None]:
        """Those of the timed answers, and of more."""
        assert self.answers is not None
        own, reference = self.answers
        timed = quality.score(own, reference, self.evidence(None).parity)
        if self.job is not None:
            same = quality.differences(self.job, own).count(None) / len(own.generations)
            timed = replace(timed, job_identical_share=same)
        return timed, quality.score(*self.wide) if self.wide else None

    def _scored(self, made: Sequence[Generation], nll: list[float]) -> Answers:
        """Headlines of the first articles."""
        true = [article.headline for article in self._run.all_articles[: len(made)]]
        return Answers(tuple(made), quality.rouge([g.headline for g in made], true), nll)

    def evidence(
        self,
        speed_up: Estimate | None,
        over: Mapping[str, Estimate] | None = None,
        not_compared: Mapping[str, str] | None = None,
    ) -> gates.Evidence:
        """What the gates look at, when `answers` are there: with the row's speed-up over the reference, and those over
        other rows or why there are none, by their names."""
        assert self.answers is not None
        own, reference = self.answers
        name, earlier = self._technique.exact_to, self._repeated()
        exact = reference if name == REFERENCE else earlier.answers if earlier else None
        if exact is not None:  # the articles of both
            count = min(len(own.generations), len(exact.generations))
            own, exact, reference = own.first(count), exact.first(count), reference.first(count)
        weights = max(info.weights_bytes for info in self._ask_all("info"))  # of the largest rank
        timed = gates.Evidence(
            articles=self._run.articles[: len(own.generations)],
            answers=own,
            # Speculative decoding is judged as what it stands in for, the target, and not against the smaller model.
            reference=reference if exact is None else exact,
            exact_to=name,
            exact=exact,
            dtype=self._run.spec.dtype,
            weights_ratio=weights / self._run.reference_info().weights_bytes,
            speed_up=speed_up,
            preferences=self._preferences,
            rounding=self._rounding,
            job=self.job and self.job.first(len(own.generations)),
            optimised=self._optimised(over or {}, not_compared or {}),
        )
        other = None
        if self.wide:
            own, reference = self.wide
            other = reference if name == REFERENCE or earlier is None else earlier.wide
        if other is None:
            return timed
        count = min(len(own.generations), len(other.generations))
        articles, both = self._run.all_articles[:count], (own.first(count), other.first(count))
        return replace(timed, wide=replace(timed, articles=articles, answers=both[0], reference=both[1]))

    def _optimised(self, over: Mapping[str, Estimate], not_compared: Mapping[str, str]) -> gates.Optimised | None:
        """The row that this one is there to make faster, where that is not the reference."""
        if (name := self._technique.optimises) == REFERENCE:
            return None
        if name in over:
            return gates.Optimised(name, over[name])
        why = not_compared.get(name, f"no jobs of both were paired with those of {REFERENCE}")  # of an offline row
        return gates.Optimised(name, None, f"has no speed beside it ({why})")

    def _repeated(self) -> Answered | None:
        """What the row answered, other than the reference, whose tokens this one must repeat; None: not measured."""
        name = self._technique.exact_to
        return self._run.answered.get(name) if name and name != REFERENCE else None
