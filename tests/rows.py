"""Rows made by hand, for the tests of whatever reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from udaciheadline.evidence.quality import ROUGE_TYPES, Answers
from udaciheadline.records import (
    Article,
    BatchCurve,
    BatchPoint,
    BuildInfo,
    Estimate,
    Generation,
    Measurement,
    Memory,
    Parallel,
    PerArticle,
    Record,
    Scores,
    Throughput,
    Timeline,
    Verdict,
)

ARTICLES = tuple(Article(f"True headline {i}", f"Description of article {i}.") for i in range(8))


def generation(headline: str = "A headline", **changes: Any) -> Generation:
    """Three tokens in a second, unless `changes` says otherwise."""
    values = {"token_ids": (1, 2, 3), "seconds": 1.0, "first_token_seconds": 0.25}
    return Generation(headline, **(values | changes))


def answers(
    who: str = "reference",
    *,
    rouge: Sequence[float] | Mapping[str, Sequence[float]] = (0.5,) * 8,
    nll: Sequence[float] = (1.0,) * 8,
    tokens: Sequence[tuple[int, ...]] = ((1, 2, 3, 4),) * 8,
) -> Answers:
    """Article i gets the headline "{who} wrote {i}"; `rouge` is that of all kinds, or of each by its name."""
    kinds = rouge if isinstance(rouge, Mapping) else dict.fromkeys(ROUGE_TYPES, rouge)
    made = tuple(generation(f"{who} wrote {i}", token_ids=ids) for i, ids in enumerate(tokens))
    return Answers(made, {kind: list(values) for kind, values in kinds.items()}, list(nll))


MEASUREMENT = Measurement(
    count=8,
    average_seconds=0.125,
    p50_seconds=0.12,
    p90_seconds=0.2,
    p99_seconds=0.25,
    p99_is_reliable=False,
    headlines_per_second=8.0,
    new_tokens_per_second=64.0,
    first_token_seconds=0.03125,
    new_tokens=64,
    reference_new_tokens=64,
    reference_average_seconds=0.25,
    speed_up=Estimate(2.0, 1.9, 2.1),
    drafted=0,
    accepted=0,
    acceptance_rate=None,
    limit_seconds=0.03125,
)
SCORES = Scores(
    articles=8,
    rouge={kind: Estimate(0.5 + i / 100, 0.4, 0.6) for i, kind in enumerate(ROUGE_TYPES)},
    rouge_difference=dict.fromkeys(ROUGE_TYPES, Estimate(-0.04, -0.06, -0.02)),
    rouge1_detectable_loss=0.03,
    nll=Estimate(1.75, 1.5, 2.0),
    nll_difference=Estimate(0.25, 0.125, 0.375),
    identical_share=0.75,
    first_difference_earliest=2,
    first_difference_median=5.0,
)
PER_ARTICLE = PerArticle((0.7, 0.69, 0.68, 0.71, 0.72, 0.67, 0.7, 0.69), 4, (0.5,) * 8, (1.75,) * 8)
RECORD = Record(
    run="20250102T030405Z",
    technique="pruned",
    title="Magnitude Unstructured Pruning",
    status="ok",
    build_seconds=1.5,
    build=BuildInfo(parameters=1000, weights_bytes=3 * 2**20),
    measurement=MEASUREMENT,
    speed_up_over={"baseline": Estimate(3.0, 2.5, 3.5)},
    throughput=Throughput(batch_size=16, rounds=3, headlines_per_second=40.0, new_tokens_per_second=320.0),
    memory=Memory((), (), 700 * 2**20),
    scores=SCORES,
    per_article=PER_ARTICLE,
    verdicts=[Verdict("rouge1", "pass", 0.99, 0.97, "kept"), Verdict("work", "pass", 0.0, 0.1, "the same work")],
    settings={"articles": 8, "device": "cpu"},
    environment={"python": "3"},
)
"""A row of which everything was measured, on a CPU."""

OFFLINE = replace(
    RECORD,
    technique="compiled-batch",
    title="Compiled, Offline",
    engine="compiled",
    measurement=None,
    speed_up_over={},
    throughput=Throughput(8, 3, headlines_per_second=80.0, new_tokens_per_second=640.0, limit_per_second=320.0),
)
"""A row that takes all articles as one job."""


def broken(status: str, reason: str, **changes: Any) -> Record:
    """A row that has only its name and why it broke off."""
    return replace(Record(RECORD.run, "speculative", "Speculative Decoding", status, reason), **changes)


SKIPPED = broken("skipped", "it needs a target model: name one with --target")
SPECULATIVE = replace(
    RECORD,
    technique="speculative",
    measurement=replace(MEASUREMENT, drafted=200, accepted=150, acceptance_rate=0.75),
    speed_up_over={"baseline": Estimate(3.0, 2.5, 3.5), "target": Estimate(1.5, 1.375, 1.625)},
    in_turn=("target",),
)


def curve(*rates: float, **changes: Any) -> BatchCurve:
    """Headlines a second with 1, 4, 16 articles at a time and so on."""
    points = tuple(BatchPoint(4**i, 2, rate, 8 * rate) for i, rate in enumerate(rates))
    return BatchCurve(points, **changes)


def tokens(generations: Sequence[Generation]) -> list[tuple[int, ...]]:
    """The tokens of each."""
    return [generation.token_ids for generation in generations]


def run() -> tuple[Record, ...]:
    """A run with a row of every kind on ARTICLES: the reference, one with other headlines on the third and the sixth
    article (the third got worse), an offline one, stages that were profiled, one that broke off and one that could not
    run."""
    seconds = tuple(0.1 + i / 100 for i in range(len(ARTICLES)))
    same = tuple(f"Headline {i}" for i in range(len(ARTICLES)))
    other = tuple("Another <b>one</b>" if i in (2, 5) else headline for i, headline in enumerate(same))
    alike = dict.fromkeys(ROUGE_TYPES, Estimate(0.0, 0.0, 0.0))
    reference = replace(
        RECORD,
        technique="kv-cache",
        title="KV Caching",
        measurement=replace(MEASUREMENT, speed_up=Estimate(1.0, 0.9, 1.1)),
        scores=replace(SCORES, rouge_difference=alike, nll_difference=Estimate(0.0, 0.0, 0.0), identical_share=1.0),
        per_article=replace(PER_ARTICLE, seconds=seconds, headlines=same),
        verdicts=[],
    )
    rouge1 = (*PER_ARTICLE.rouge1[:2], 0.25, *PER_ARTICLE.rouge1[3:])
    pruned = replace(RECORD, per_article=replace(PER_ARTICLE, rouge1=rouge1, seconds=seconds, headlines=other))
    offline = replace(
        OFFLINE, per_article=replace(PER_ARTICLE, log_ratios=(), launches=1, job_log_ratios=(0.7, 0.6), headlines=same)
    )
    timeline = Timeline(0.5, ("0011..", "..0011"))
    ranks = Parallel("gloo", (100, 200), (1000, 2000), (0.25, 0.5), (0.1, 0.2), (1, 1), timeline)
    staged = replace(pruned, technique="pipeline-parallel", title="Pipeline Parallel", parallel=ranks)
    return reference, offline, pruned, staged, broken("crash", "it died", technique="nf4"), SKIPPED
