"""What got slower, larger or worse from one session to another, and whether that is more than chance.

Machines differ and drift, so speed is compared as the ratio to the reference of the same session, which carries over:
each launch of a row, a fresh process of it and of the reference, gives one mean logarithm, and Welch's t test compares
those of the two sessions (the values of one process say nothing of how two differ: Kalibera and Jones 2013). On the
same GPU, driver and versions, the rate of a row on the compiled engine is compared as well, paired by article in each
launch (t). Headlines and likelihoods do not drift: they are compared article by article (paired t). Weights and peaks
have no chance in them.

How fast a row is on this machine today is in neither side where both codes run in one session, in turn (`in_turn`):
then a launch has a process of either, and t is of what one gains over the other.

A change is a regression where it is beyond its margin *and*, if chance has a part in it, worse at 5 %, adjusted by Holm
for all such tests of the comparison. Beyond the margin and within chance is `~`. An improvement is held to 1 %.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from udaciheadline.evidence.statistics import detectable, holm, launch_means, mean, p_worse, welch
from udaciheadline.records import Estimate, OtherCode, PerArticle, Record, UsageError

LEVEL, LEVEL_BETTER = 0.05, 0.01  # what is better fails nothing, and need not be found soon
SETTINGS = (
    "model_name", "target_name", "draft_name", "dataset", "articles", "quality_articles", "fingerprint", "prompt",
    "stop", "max_new_tokens", "device", "dtype", "engine", "ranks", "batch_size",
)  # fmt: skip
"""What two runs must have been asked for alike; and the kind of GPU must be the same."""
MACHINE = ("gpu", "gpu_driver", "cuda", "cpu", "cores", "threads", "python", "torch", "transformers", "bitsandbytes")
"""What must be the same where seconds are to be compared."""
ONE_PROCESS = "one process alone in one of the sessions: how two processes differ is not known"

REGRESSION, IMPROVEMENT, BY_CHANCE, SAME, NOT_JUDGED = "regression", "improvement", "~", "same", "not judged"


@dataclass(frozen=True)
class Margins:
    """Changes that do not matter: of speed, weights and peaks as shares, of ROUGE-1 as a difference, of the negative
    log-likelihood in nats a token."""

    speed: float = 0.05
    weights: float = 0.01
    peak: float = 0.1
    rouge1: float = 0.005
    nll: float = 0.005


@dataclass(frozen=True)
class Change:
    """One figure of one row in both sessions: `metric` is "speed" or "job speed" (times the reference's), "rate"
    (headlines a second, one at a time, where the machine is the same), "weights" or "peak" (bytes), "ROUGE-1", "NLL"
    (nats a token) or "status".

    `change` is a share of what it was before, of ROUGE-1 and NLL a difference, with its 95 % interval; `worse` is how
    much of that is for the worse. `p` is Holm-adjusted, None where chance has no part or nothing is judged;
    `detectable` is the loss that would be found, beyond the margin, with 80 % power, were there no other row. `verdict`
    is one of the constants above.
    """

    technique: str
    metric: str
    before: float
    after: float
    change: Estimate
    worse: float
    margin: float
    verdict: str = SAME
    p: float | None = None
    p_better: float | None = None
    detectable: float = math.nan
    reason: str = ""


@dataclass(frozen=True)
class Comparison:
    """What changed from the run `before` to the run `after`; `notes` are sentences on what could not be compared."""

    before: str
    after: str
    changes: list[Change]
    notes: list[str] = field(default_factory=list)

    @property
    def regressions(self) -> list[Change]:
        """What got slower, larger or worse."""
        return [change for change in self.changes if change.verdict == REGRESSION]


def gpu_kind(environment: Mapping[str, str]) -> str:
    """The first of the GPUs, how many there are says `ranks`; nothing where there is none."""
    return environment.get("gpu", "").split(",")[0]


def require_fit(settings: Mapping[str, object], environment: Mapping[str, str], baseline: Record) -> None:
    """Raises UsageError where the baseline was made with other settings, or on another kind of GPU."""
    pairs = [(name.removesuffix("_name"), settings.get(name), baseline.settings.get(name)) for name in SETTINGS]
    pairs.append(("gpu", gpu_kind(environment), gpu_kind(baseline.environment)))
    other = [f"{name} {then} (now {now})" for name, now, then in pairs if str(now) != str(then)]
    if other:
        raise UsageError(
            f"the baseline {baseline.run} does not fit: it was made with {', '.join(other)}: compare with one of the "
            "same settings and GPU, or promote a new one"
        )


def compare(before: Sequence[Record], after: Sequence[Record], margins: Margins = Margins()) -> Comparison:
    """The rows of two runs, side by side. Raises UsageError where the runs do not fit each other."""
    require_fit(after[0].settings, after[0].environment, before[0])
    then, now = ({record.technique: record for record in run} for run in (before, after))
    changes = [change for name in now if name in then for change in _row(then[name], now[name], margins)]
    notes = _notes(then, now)
    return Comparison(before[0].run, after[0].run, _judged(changes), notes)


def in_turn(records: Sequence[Record], margins: Margins = Margins()) -> Comparison:
    """The rows of a run beside themselves in the code of `--against`, which answered in turn with them: what two
    sessions differ by, and most changes of code are smaller than that, is in both. What the other code has no row of,
    or fails in, is in the notes. Raises UsageError where the run was measured without."""
    code = records[0].settings.get("against")
    if not code:
        raise UsageError(
            f"run {records[0].run} has no other code beside it: name a baseline, or measure with --against"
        )
    changes, notes = [], []
    for record in records:
        if record.other_code and record.per_article:
            changes += _beside(record, record.other_code, record.per_article, margins)
        elif record.status not in ("ok", "skipped"):
            changes.append(_lost(record))
        elif record.status == "ok":
            notes += [
                f"{record.technique}: not compared with {name}: {why}." for name, why in record.not_compared.items()
            ]
    return Comparison(str(code), records[0].run, _judged(changes), notes)


def _beside(record: Record, then: OtherCode, now: PerArticle, margins: Margins) -> list[Change]:
    name, weights = record.technique, _weights(record)
    changes = [
        _gain(name, metric, launch_means(own, launches), launch_means(ratios, launches), margins.speed)
        for metric, own, ratios, launches in (
            ("speed", now.log_ratios, then.log_ratios, now.launches),
            ("job speed", now.job_log_ratios, then.job_log_ratios, len(then.job_log_ratios)),
        )
        if ratios
    ]
    changes.append(_quality(name, "ROUGE-1", then.rouge1, then.rouge1_now, margins.rouge1, sign=1))
    changes.append(_quality(name, "NLL", then.nll, now.nll, margins.nll, sign=-1))
    if weights and then.weights_bytes:
        changes.append(_size(name, "weights", then.weights_bytes, weights, margins.weights))
    return changes


def _lost(record: Record) -> Change:
    """A row that does not run any more."""
    unknown, reason = Estimate(math.nan, math.nan, math.nan), f"{record.status}: {record.reason}"
    return Change(record.technique, "status", 1, 0, unknown, 1, 0, REGRESSION, reason=reason)


def _row(before: Record, after: Record, margins: Margins) -> list[Change]:
    if before.status != "ok":
        return []
    if after.status != "ok":
        return [_lost(after)]
    name, changes = after.technique, []
    then, now = before.per_article, after.per_article
    if then and now:
        if then.log_ratios and now.log_ratios:
            alone = 1 in (then.launches, now.launches)
            first, second = (launch_means(found.log_ratios, found.launches) for found in (then, now))
            changes.append(_speed(name, "speed", first, second, margins.speed, alone=alone))
            if then.seconds and now.seconds and _device_bound(before, after):
                changes.append(_rate(name, then, now, margins.speed))
        if then.job_log_ratios and now.job_log_ratios:
            jobs = then.job_log_ratios, now.job_log_ratios
            changes.append(_speed(name, "job speed", *jobs, margins.speed, alone=1 in map(len, jobs)))
        changes.append(_quality(name, "ROUGE-1", then.rouge1, now.rouge1, margins.rouge1, sign=1))
        changes.append(_quality(name, "NLL", then.nll, now.nll, margins.nll, sign=-1))
    for metric, margin, sizes in (
        ("weights", margins.weights, (_weights(before), _weights(after))),
        ("peak", margins.peak, (_peak(before), _peak(after))),
    ):
        if all(sizes):
            changes.append(_size(name, metric, *sizes, margin))
    return changes


def _device_bound(before: Record, after: Record) -> bool:
    """Whether the row's seconds say more than its ratio, and may be judged: on the compiled engine a GPU does the same
    work in the same time, while the reference waits for a processor that is busy now and idle then."""
    same = not _others(before.environment, after.environment)
    return same and after.engine == "compiled" and "gpu" in after.environment


def _speed(
    name: str, metric: str, before: Sequence[float], after: Sequence[float], margin: float, *, alone: bool
) -> Change:
    then, now = (math.fsum(logs) / len(logs) for logs in (before, after))
    test = welch(after, before, -math.log1p(-margin))
    change = Estimate(
        *(_exp(value) - 1 for value in (test.difference.value, test.difference.low, test.difference.high))
    )
    found = Change(name, metric, _exp(then), _exp(now), change, -change.value, margin)
    if alone:
        return replace(found, verdict=NOT_JUDGED, reason=ONE_PROCESS)
    return replace(found, p=test.p_less, p_better=1 - test.p_less, detectable=1 - _exp(-test.detectable))


def _rate(name: str, before: PerArticle, after: PerArticle, margin: float) -> Change:
    """Paired article by article, since a long headline takes longer, within launches that had the same articles."""
    rates = [[-math.log(seconds) for seconds in found.seconds] for found in (before, after)]
    then, now = (_exp(math.fsum(logs) / len(logs)) for logs in rates)
    if (before.launches, len(before.seconds)) != (after.launches, len(after.seconds)):
        unknown = Estimate(now / then - 1, math.nan, math.nan)
        found = Change(name, "rate", then, now, unknown, -unknown.value, margin, NOT_JUDGED)
        return replace(found, reason="the sessions divided the articles otherwise: give both the same --launches")
    gains = launch_means([b - a for a, b in zip(*rates, strict=True)], after.launches)
    return _gain(name, "rate", rates[1], gains, margin)


def _gain(name: str, metric: str, logs: Sequence[float], gains: Sequence[float], margin: float) -> Change:
    """Of what was measured twice in each of several launches: its logarithms now, and by how much they have grown."""
    gain, now = mean(gains), math.fsum(logs) / len(logs)
    change = Estimate(*(_exp(value) - 1 for value in (gain.value, gain.low, gain.high)))
    found = Change(name, metric, _exp(now - gain.value), _exp(now), change, -change.value, margin)
    if len(gains) == 1:
        return replace(found, verdict=NOT_JUDGED, reason="one process alone: how two differ is not known")
    least = detectable(gains, margin=-math.log1p(-margin))
    better = p_worse([-gain for gain in gains])
    return replace(found, p=p_worse(gains), p_better=better, detectable=1 - _exp(-least))


def _quality(
    name: str, metric: str, before: Sequence[float], after: Sequence[float], margin: float, *, sign: int
) -> Change:
    """`sign` is 1 where more is better."""
    pairs = list(zip(before, after, strict=False))  # the articles of both
    then, now = (math.fsum(values) / len(pairs) for values in zip(*pairs, strict=True))
    gains = [sign * (b - a) for a, b in pairs]
    gain = mean(gains)
    bounds = sorted((sign * gain.low, sign * gain.high))
    change = Estimate(sign * gain.value, *bounds)
    found = Change(name, metric, then, now, change, -gain.value, margin)
    if any(map(math.isnan, before)):
        return replace(found, verdict=NOT_JUDGED, reason="the baseline has no figure of it")
    if not any(gains):  # NaN counts as a change
        return found
    losses = [-gain for gain in gains]
    return replace(found, p=p_worse(gains), p_better=p_worse(losses), detectable=detectable(gains, margin=margin))


def _size(name: str, metric: str, before: int, after: int, margin: float) -> Change:
    share = after / before - 1
    verdict = REGRESSION if share > margin else IMPROVEMENT if share < -margin else SAME
    return Change(name, metric, before, after, Estimate(share, share, share), share, margin, verdict)


def _judged(changes: Sequence[Change]) -> list[Change]:
    """Each with its verdict: what chance has a part in, together."""
    tested = [i for i, change in enumerate(changes) if change.p is not None]
    worse = dict(zip(tested, holm([changes[i].p or 0.0 for i in tested]), strict=True))
    better = dict(zip(tested, holm([changes[i].p_better or 0.0 for i in tested]), strict=True))
    judged = list(changes)
    for i in tested:
        change = changes[i]
        if change.worse > change.margin or math.isnan(change.worse):
            verdict = REGRESSION if worse[i] <= LEVEL else BY_CHANCE
        elif change.worse < -change.margin and better[i] <= LEVEL_BETTER:
            verdict = IMPROVEMENT
        else:
            verdict = SAME
        judged[i] = replace(change, p=worse[i], p_better=better[i], verdict=verdict)
    return judged


def _notes(then: Mapping[str, Record], now: Mapping[str, Record]) -> list[str]:
    notes = []
    for names, where in ((then.keys() - now.keys(), "baseline"), (now.keys() - then.keys(), "current run")):
        if names:
            notes.append(f"Only in the {where}, so not compared: {', '.join(sorted(names))}.")
    before, after = next(iter(then.values())).environment, next(iter(now.values())).environment
    if other := _others(before, after):
        return [*notes, f"Seconds are not compared, since the baseline had {', '.join(other)}."]
    for name in now:
        a, b = (side[name].measurement if name in side else None for side in (then, now))
        if a and b and a.reference_average_seconds > 0:
            first, second = 1000 * a.reference_average_seconds, 1000 * b.reference_average_seconds
            notes.append(
                f"Same machine and versions: the reference took {first:.3g} ms a headline, and now {second:.3g} "
                f"({second / first - 1:+.0%}). Ratios cannot show what all rows share; nothing is judged by it, since "
                "machines drift."
            )
            break
    return notes


def _others(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """What is not the same about the machines."""
    return [f"{n} {before.get(n)} (now {after.get(n)})" for n in MACHINE if before.get(n) != after.get(n)]


def _weights(record: Record) -> int:
    return record.build.weights_bytes if record.build else 0


def _peak(record: Record) -> int:
    return (record.memory and record.memory.peak_bytes) or 0


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
