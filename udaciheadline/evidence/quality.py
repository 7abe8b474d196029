"""How good the headlines of a timed run are: ROUGE, the likelihood of the true headlines, parity with another row.

Everything is kept article by article, because a technique is judged by its paired difference to the reference: the
spread between articles is ten times the effect of most techniques.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from udaciheadline.evidence.statistics import detectable, mean
from udaciheadline.records import Generation, Scores

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def rouge(headlines: Sequence[str], references: Sequence[str]) -> dict[str, list[float]]:
    """ROUGE F-measures in [0, 1] of each headline against its true one, by kind, in the order of the articles; all NaN
    where ROUGE finds no word in most of the true ones: it sees only ASCII letters and digits, and a Thai headline is
    more than the year in it.

    Without stemming, as in the notebook. Lin 2004 (https://aclanthology.org/W04-1013/).
    """
    from rouge_score import rouge_scorer, tokenizers

    words = tokenizers.DefaultTokenizer(use_stemmer=False).tokenize
    if sum(not words(headline) for headline in references) > len(references) / 2:
        return {kind: [math.nan] * len(references) for kind in ROUGE_TYPES}
    scorer = rouge_scorer.RougeScorer(list(ROUGE_TYPES), use_stemmer=False)
    rows = [scorer.score(true, made) for made, true in zip(headlines, references, strict=True)]
    return {kind: [row[kind].fmeasure for row in rows] for kind in ROUGE_TYPES}


@dataclass(frozen=True)
class Answers:
    """What one row answered: generations, ROUGE by kind (NaN: see `rouge`) and negative log-likelihood, each with one
    entry an article."""

    generations: tuple[Generation, ...]
    rouge: dict[str, list[float]]
    nll: list[float]

    def first(self, count: int) -> "Answers":
        """Those to the first articles."""
        rouge = {kind: values[:count] for kind, values in self.rouge.items()}
        return Answers(self.generations[:count], rouge, self.nll[:count])


def first_difference(tokens: Sequence[int], other: Sequence[int]) -> int | None:
    """The first position at which two token sequences differ, None where they are the same."""
    for position, (a, b) in enumerate(zip(tokens, other, strict=False)):
        if a != b:
            return position
    return None if len(tokens) == len(other) else min(len(tokens), len(other))


def differences(answers: Answers, reference: Answers) -> list[int | None]:
    """`first_difference` for each article."""
    pairs = zip(answers.generations, reference.generations, strict=True)
    return [first_difference(a.token_ids, b.token_ids) for a, b in pairs]


def partings(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> dict[int, int]:
    """The first position at which two rows have another token, by the number of the article, for as many as both have:
    what `Parity.preferences` are asked for. Where one headline ends before it differs, there is no other token."""
    first = {i: first_difference(a, b) for i, (a, b) in enumerate(zip(ours, theirs, strict=False))}
    return {i: p for i, p in first.items() if p is not None and p < min(len(ours[i]), len(theirs[i]))}


@dataclass(frozen=True)
class Parity:
    """How a row's tokens compare with those that they must repeat.

    `positions` are the first differences, as of `differences`; `preferences` is how many nats the other row's model
    prefers its own token there, by the number of the article (`engines.texts.preferences`); `rounding` is what such a
    preference moves by rounding alone.
    """

    positions: list[int | None]
    preferences: Mapping[int, float]
    rounding: float

    @property
    def real(self) -> list[int]:
        """The articles whose headline parts from the other where it is no near tie."""
        parted = [i for i, position in enumerate(self.positions) if position is not None]
        return [i for i in parted if not self.preferences.get(i, math.inf) <= self.rounding]

    @property
    def near_ties(self) -> int:
        """How many part from it at a near tie."""
        return sum(position is not None for position in self.positions) - len(self.real)


def score(answers: Answers, reference: Answers, parity: Parity | None = None) -> Scores:
    """The means of a row with 95 % intervals, its paired differences to the reference, and its `parity` with the row
    that it must repeat, if any."""
    lost = {kind: _minus(answers.rouge[kind], reference.rouge[kind]) for kind in ROUGE_TYPES}
    positions = [p for p in differences(answers, reference) if p is not None]
    return Scores(
        articles=len(answers.generations),
        rouge={kind: mean(answers.rouge[kind]) for kind in ROUGE_TYPES},
        rouge_difference={kind: mean(lost[kind]) for kind in ROUGE_TYPES},
        rouge1_detectable_loss=detectable(lost["rouge1"]),
        nll=mean(answers.nll),
        nll_difference=mean(_minus(answers.nll, reference.nll)),
        identical_share=1 - len(positions) / len(answers.generations),
        first_difference_earliest=min(positions, default=None),
        first_difference_median=median(positions) if positions else None,
        near_ties=parity.near_ties if parity else None,
        real_differences=len(parity.real) if parity else None,
        rounding_nats=parity.rounding if parity else None,
    )


def retention(values: Sequence[float], reference: Sequence[float]) -> float:
    """The mean over the reference's mean; NaN where the reference scores nothing."""
    base = math.fsum(reference)
    return math.fsum(values) / base if base else math.nan


def _minus(values: Sequence[float], others: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(values, others, strict=True)]
