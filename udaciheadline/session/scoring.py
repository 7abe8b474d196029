"""What the headlines of a row are worth: scored, and compared with those that it must repeat."""

from collections.abc import Callable, Sequence
from typing import Any

from udaciheadline.evidence import gates, quality
from udaciheadline.evidence.quality import Answers
from udaciheadline.records import Estimate, Generation
from udaciheadline.session.run import Run
from udaciheadline.techniques import REFERENCE, Technique


class Scoring:
    """The quality of one row, whose worker `ask_all` asks. What the workers raise goes through.

    `answers` are those of the row and of the reference to the same articles, as soon as they are scored.
    """

    def __init__(self, run: Run, technique: Technique, ask_all: Callable[..., list[Any]]) -> None:
        self._run, self._technique, self._ask_all = run, technique, ask_all
        self.answers: tuple[Answers, Answers] | None = None
        self._preferences: dict[int, float] = {}  # see quality.Parity
        self._rounding = 0.0

    def ask_near_ties(self, own: Sequence[Generation], reference: Sequence[Generation]) -> None:
        """Asks the engine whose tokens the row must repeat, while it is alive, what it thinks of those that differ."""
        name, earlier = self._technique.exact_to, self._repeated()
        if name is None or (name != REFERENCE and earlier is None) or self._preferences:
            return
        exact = reference if earlier is None else earlier.generations
        theirs, ours = ([list(g.token_ids) for g in made] for made in (exact, own))
        if parted := quality.partings(ours, theirs):
            at = [(self._run.prompts[i], theirs[i][: p + 1], ours[i][p]) for i, p in parted.items()]
            preferred = self._run.ask(name, "preferences", *map(list, zip(*at, strict=True)))
            self._preferences = dict(zip(parted, preferred, strict=True))
            self._rounding = self._run.rounding(name, theirs)

    def score(self, own: Sequence[Generation], reference: Sequence[Generation]) -> tuple[Answers, Answers]:
        """ROUGE and likelihood of the headlines to the first articles, of the row and of the reference."""
        count = len(own)
        true = [article.headline for article in self._run.articles[:count]]
        nll = self._ask_all("likelihood", self._run.prompts[:count], self._run.completions[:count])[0]
        row, other = (
            Answers(tuple(made), quality.rouge([g.headline for g in made], true), values)
            for made, values in ((own, nll), (reference, self._run.reference_nll(count)))
        )
        self.answers = row, other
        return self.answers

    def evidence(self, speed_up: Estimate | None) -> gates.Evidence:
        """What the gates look at, when `answers` are there."""
        assert self.answers is not None
        own, reference = self.answers
        name = self._technique.exact_to
        exact = reference if name == REFERENCE else self._repeated()
        if exact is not None:  # the articles of both
            count = min(len(own.generations), len(exact.generations))
            own, exact, reference = own.first(count), exact.first(count), reference.first(count)
        weights = max(info.weights_bytes for info in self._ask_all("info"))  # of the largest rank
        return gates.Evidence(
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
        )

    def _repeated(self) -> Answers | None:
        """What the row answered, other than the reference, whose tokens this one must repeat; None: not measured."""
        name = self._technique.exact_to
        earlier = self._run.answered.get(name) if name and name != REFERENCE else None
        return earlier.answers if earlier else None
