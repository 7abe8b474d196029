"""The thresholds of `bench/gates.toml`, and whether a row keeps them.

A statistical gate (ROUGE, likelihood) fails where the row is beyond its threshold *and* worse than the reference by
more than chance explains (paired t test, 5 %, Holm-adjusted for the row's statistical gates). Beyond the threshold but
within chance is `inconclusive`, shown as `~`: measure more articles. So are two gates of rows that may write other
headlines: the work, since those are of other lengths, and the parity of exact rows in low precision, whose real
differences must be more than chance makes of the share that is allowed (binomial). In float32 parity and the work of
exact rows count what has no noise, as weights do always: they fail where they are beyond their threshold. Speed,
against the reference and against the row that a technique is there to make faster, fails where its whole 95 % interval
is.
What there is nothing to judge by is `not judged`, with the reason as its message.
"""

import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from udaciheadline.evidence.quality import Answers, Parity, differences, retention
from udaciheadline.evidence.statistics import holm, p_at_least, p_worse
from udaciheadline.records import Article, Estimate, UsageError, Verdict
from udaciheadline.techniques import REFERENCE, Technique

LEVEL = 0.05
UNSEEN = "ROUGE sees only ASCII letters and digits, and most true headlines have none: judge by likelihood"
NOTHING_KEPT = "no headline of the reference shares a word with the true one, so none can be kept: judge by likelihood"
_WORST = 3  # articles named in a message


@dataclass(frozen=True)
class Thresholds:
    """One table of the file; a threshold that is None is not judged.

    `rouge_retention_min`: ROUGE-1 and ROUGE-L, as a share of the reference's. `nll_increase_max`: nats per token above
    the reference's. `parity_min`: share of articles with the same tokens as the row that `exact_to` names, in float32;
    `parity_low_precision_min`: in bf16 and fp16, share of articles with the same tokens, or others from a near tie on.
    `work_tolerance`: new tokens, as a share of the reference's that they may differ by. `weights_ratio_max`: bytes of
    weights over the reference's. `speed_up_min`: against the reference. `speed_over_optimised_min`: against the row
    that the technique `optimises`, where that is another one. `rouge1_min` and `nll_max` are absolute, for the
    reference's own table.
    """

    rouge_retention_min: float | None = None
    nll_increase_max: float | None = None
    parity_min: float | None = None
    parity_low_precision_min: float | None = None
    work_tolerance: float | None = None
    weights_ratio_max: float | None = None
    speed_up_min: float | None = None
    speed_over_optimised_min: float | None = None
    rouge1_min: float | None = None
    nll_max: float | None = None


def load_gates(path: Path) -> dict[str, Thresholds]:
    """The tables of the file by name. Raises UsageError for a file, key or value that is not as described above."""
    known = {field.name for field in fields(Thresholds)}
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: the gates cannot be read ({error}): mend the file") from error
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise UsageError(f"{path}: {name!r} stands outside a table: put it below the [technique] that it is for")
        for key, value in table.items():
            if key not in known:
                raise UsageError(
                    f"{path}: [{name}] has the unknown threshold {key!r}: choose from {', '.join(sorted(known))}"
                )
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise UsageError(f"{path}: [{name}] {key} = {value!r} is not a number: give one")
    return {name: Thresholds(**table) for name, table in tables.items()}


def require_tables(thresholds: Mapping[str, Thresholds], wanted: Iterable[Technique], path: Path) -> None:
    """Raises UsageError where a technique, or the reference's floor, has no table, or a threshold judges nothing."""
    for technique in wanted:
        table = thresholds.get(technique.name)
        if table is None:
            raise UsageError(f"{path}: there is no table [{technique.name}]: add one with the technique's thresholds")
        if technique.exact_to is None and (table.parity_min, table.parity_low_precision_min) != (None, None):
            raise UsageError(
                f"{path}: [{technique.name}] may write other tokens by design: remove its parity thresholds"
            )
        if technique.optimises == REFERENCE and table.speed_over_optimised_min is not None:
            raise UsageError(
                f"{path}: [{technique.name}] makes no other row than {REFERENCE} faster: give speed_up_min instead of "
                "speed_over_optimised_min"
            )
    if "reference" not in thresholds:
        raise UsageError(f"{path}: there is no table [reference]: add one with the floor of the reference")


@dataclass(frozen=True)
class Optimised:
    """The row that this one is there to make faster: its `name`, and how many times as fast this one is (None: then
    `why_not` says what became of that row, as what follows on its name)."""

    name: str
    speed_up: Estimate | None
    why_not: str = ""


@dataclass(frozen=True)
class Evidence:
    """What the gates of one row look at. `exact` is the row that its tokens must repeat (None: not measured), and then
    the `reference` of its quality, too; `preferences` and `rounding` say what its engine thinks of the tokens that do
    not (`quality.Parity`). `job` is what it answers to the same articles as an offline job, and `wide` the same of more
    articles, as jobs: what ROUGE and the likelihood are judged by. `optimised` is None where that is the reference."""

    articles: Sequence[Article]
    answers: Answers
    reference: Answers
    exact_to: str | None
    exact: Answers | None
    dtype: str
    weights_ratio: float
    speed_up: Estimate | None
    preferences: Mapping[int, float] = field(default_factory=dict)
    rounding: float = 0.0
    job: Answers | None = None
    wide: "Evidence | None" = None
    optimised: Optimised | None = None

    @property
    def parity(self) -> Parity | None:
        """How the row compares with what it must repeat, where that was measured."""
        if self.exact is None:
            return None
        return Parity(differences(self.answers, self.exact), self.preferences, self.rounding)


def judge(thresholds: Thresholds, evidence: Evidence) -> list[Verdict]:
    """The verdict of each gate that `thresholds` sets."""
    return [
        *_statistical(thresholds, evidence.wide or evidence),
        *_job(thresholds, evidence),
        *_parity(thresholds, evidence),
        *_work(thresholds, evidence),
        *_weights(thresholds, evidence),
        *_speed(thresholds, evidence),
        *_optimises(thresholds, evidence),
    ]


def judge_floor(thresholds: Thresholds, answers: Answers) -> list[Verdict]:
    """The absolute floor of the reference, for a fault that all rows share and no comparison can see."""
    verdicts = []
    if (floor := thresholds.rouge1_min) is not None:
        measured = math.fsum(answers.rouge["rouge1"]) / len(answers.rouge["rouge1"])
        verdicts.append(
            _verdict("floor rouge1", measured >= floor, measured, floor, "ROUGE-1 {m:.3f}, at least {r:g} required")
        )
    if (ceiling := thresholds.nll_max) is not None:
        measured = math.fsum(answers.nll) / len(answers.nll)
        text = "negative log-likelihood {m:.3f} nats, at most {r:g} allowed"
        verdicts.append(_verdict("floor likelihood", measured <= ceiling, measured, ceiling, text))
    return verdicts


def _verdict(gate: str, passed: bool, measured: float, required: float, text: str, worst: str = "") -> Verdict:
    if math.isnan(measured):
        message = "what it measures is not a number, as a broken model gives"
    else:
        message = text.format(m=measured, r=required) + ("" if passed else worst)
    return Verdict(gate, "pass" if passed else "fail", measured, required, message)


def _statistical(thresholds: Thresholds, evidence: Evidence) -> list[Verdict]:
    # gate, losses (below 0 is worse), measured, required, is within the threshold, text
    tests: list[tuple[str, list[float], float, float, bool, str]] = []
    verdicts = []
    answers, reference = evidence.answers, evidence.reference
    if (least := thresholds.rouge_retention_min) is not None:
        for kind in ("rouge1", "rougeL"):
            if reason := _unjudged(reference.rouge[kind]):
                verdicts.append(Verdict(kind, "not judged", math.nan, least, reason))
                continue
            losses = [a - b for a, b in zip(answers.rouge[kind], reference.rouge[kind], strict=True)]
            kept = retention(answers.rouge[kind], reference.rouge[kind])
            text = "{m:.1%} of the reference's " + kind + " kept, at least {r:.1%} required"
            tests.append((kind, losses, kept, least, kept >= least, text))
    if (most := thresholds.nll_increase_max) is not None:
        losses = [b - a for a, b in zip(answers.nll, reference.nll, strict=True)]
        increase = -math.fsum(losses) / len(losses)
        text = "true headlines are {m:+.4f} nats a token less likely than to the reference, at most {r:+g} allowed"
        tests.append(("likelihood", losses, increase, most, increase <= most, text))
    adjusted = holm([p_worse(losses) for _, losses, *_ in tests])
    for (gate, losses, measured, required, within, text), p in zip(tests, adjusted, strict=True):
        verdict = _verdict(gate, within, measured, required, text, _worst(evidence, losses))
        verdicts.append(_unless_by_chance(verdict, p, "--quality-articles"))
    return verdicts


def _job(thresholds: Thresholds, evidence: Evidence) -> list[Verdict]:
    """Whether a job writes headlines as good as those of the timed rounds: the wider quality is that of jobs."""
    least, job, own = thresholds.rouge_retention_min, evidence.job, evidence.answers.rouge["rouge1"]
    if least is None or job is None or _unjudged(own):
        return []
    kept = retention(job.rouge["rouge1"], own)
    losses = [a - b for a, b in zip(job.rouge["rouge1"], own, strict=True)]
    text = "as a job it keeps {m:.1%} of the rouge1 that it has one article at a time, at least {r:.1%} required"
    worst = _worst(replace(evidence, answers=job, reference=evidence.answers), losses)
    return [_unless_by_chance(_verdict("job", kept >= least, kept, least, text, worst), p_worse(losses))]


def _unless_by_chance(verdict: Verdict, p: float, option: str = "--articles") -> Verdict:
    """The verdict, where it is a failure that chance makes with probability `p` only if that is little; else it names
    the `option` by which more are measured."""
    if verdict.status != "fail" or not p > LEVEL:
        return verdict
    message = f"{verdict.message.splitlines()[0]}, but within chance (p = {p:.2f}): measure more {option}"
    return replace(verdict, status="inconclusive", message=message)


def _unjudged(reference: Sequence[float]) -> str:
    """Why the reference's ROUGE is nothing that a row could be judged by; nothing where it is."""
    if any(map(math.isnan, reference)):
        return UNSEEN
    return "" if any(reference) else NOTHING_KEPT


def _parity(thresholds: Thresholds, evidence: Evidence) -> list[Verdict]:
    exact = evidence.dtype == "float32"
    required = thresholds.parity_min if exact else thresholds.parity_low_precision_min
    if required is None:
        return []
    if evidence.exact is None or (parity := evidence.parity) is None:
        message = f"the row {evidence.exact_to!r}, whose tokens it must repeat, was not measured"
        return [Verdict("parity", "not judged", math.nan, required, message)]
    parted = [i for i, position in enumerate(parity.positions) if position is not None] if exact else parity.real
    measured = 1 - len(parted) / len(parity.positions)
    share = f"{{m:.1%}} of the headlines have the tokens of {evidence.exact_to}"
    if not exact:
        share += f" up to a near tie ({parity.near_ties} have one; tokens within {parity.rounding:.2f} nats)"
    text = f"{share}, at least {{r:.1%}} required in {evidence.dtype}"
    lines = []
    for i in sorted(parted, key=lambda i: -parity.preferences.get(i, math.inf)):
        was, made = evidence.exact.generations[i].headline, evidence.answers.generations[i].headline
        line = f"\n  article {i}, token {parity.positions[i]}: {was!r} became {made!r}"
        lines.append(line + (f" ({parity.preferences[i]:+.2f} nats)" if i in parity.preferences else ""))
    verdict = _verdict("parity", measured >= required, measured, required, text, "".join(lines[:_WORST]))
    return [
        verdict if exact else _unless_by_chance(verdict, p_at_least(len(parted), len(parity.positions), 1 - required))
    ]


def _work(thresholds: Thresholds, evidence: Evidence) -> list[Verdict]:
    tolerance = thresholds.work_tolerance
    if tolerance is None:
        return []
    counts, expected = ([len(g.token_ids) for g in a.generations] for a in (evidence.answers, evidence.reference))
    measured = sum(counts) / sum(expected) - 1
    text = "{m:+.1%} new tokens against the reference, at most ±{r:.1%} allowed"
    changes = [-abs(a - b) for a, b in zip(counts, expected, strict=True)]
    passed = abs(sum(counts) - sum(expected)) <= tolerance * sum(expected)
    verdict = _verdict("work", passed, measured, tolerance, text, _worst(evidence, [float(c) for c in changes]))
    if evidence.exact_to is not None and evidence.dtype == "float32":
        return [verdict]
    more = [float(a - b) for a, b in zip(counts, expected, strict=True)]
    return [_unless_by_chance(verdict, 2 * min(p_worse(more), p_worse([-d for d in more])))]


def _weights(thresholds: Thresholds, evidence: Evidence) -> list[Verdict]:
    if (most := thresholds.weights_ratio_max) is None:
        return []
    measured = evidence.weights_ratio
    text = "weights are {m:.3f} of the reference's, at most {r:g} allowed"
    return [_verdict("weights", measured <= most, measured, most, text)]


def _speed(thresholds: Thresholds, evidence: Evidence) -> list[Verdict]:
    measured = evidence.speed_up
    if (least := thresholds.speed_up_min) is None or measured is None:
        return []
    interval = "" if math.isnan(measured.high) else f" (95 % interval to {measured.high:.2f})"
    text = f"{{m:.2f}}x the reference's speed{interval}, at least {{r:g}} required"
    return [_verdict("speed", not measured.high < least, measured.value, least, text)]


def _optimises(thresholds: Thresholds, evidence: Evidence) -> list[Verdict]:
    other = evidence.optimised
    if (least := thresholds.speed_over_optimised_min) is None or other is None:
        return []
    if (over := other.speed_up) is None or math.isnan(over.high):
        why = other.why_not if over is None else "was measured beside it too few times for an interval"
        return [Verdict("optimises", "not judged", math.nan, least, f"{other.name}, which it optimises, {why}")]
    text = f"{{m:.2f}}x the speed of {other.name} (95 % interval {over.low:.2f} to {over.high:.2f}"
    if (own := evidence.speed_up) is not None:
        text += f"; {own.value:.2f}x against {own.value / over.value:.2f}x that of {REFERENCE}"
    verdict = _verdict("optimises", over.value >= least, over.value, least, text + "), at least {r:g} required")
    if verdict.status == "fail" and not over.high < least:
        message = f"{verdict.message}, but within chance: measure more --launches"
        return [replace(verdict, status="inconclusive", message=message)]
    return [verdict]


def _worst(evidence: Evidence, losses: Sequence[float]) -> str:
    """The articles that got worst, one line each."""
    worst = sorted(range(len(losses)), key=losses.__getitem__)[:_WORST]
    return "".join(
        f"\n  article {i} ({losses[i]:+.3g}): {evidence.reference.generations[i].headline!r} became "
        f"{evidence.answers.generations[i].headline!r}; true: {evidence.articles[i].headline!r}"
        for i in worst
        if losses[i] < 0
    )
