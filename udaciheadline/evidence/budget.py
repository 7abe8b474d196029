"""What a newsroom can afford: limits on the figures of a row, as `--budget "p99<50ms, memory<4GiB"` gives them.

A limit is held against what was measured. Only quality has an interval there: a row whose ROUGE or likelihood is beyond
its limit by no more than chance makes is not excluded, but not deployed for certain either (`Held.DOUBTFUL`), as in the
gates. So a looser limit never takes a row away.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from udaciheadline.records import Estimate, Measurement, Record, UsageError

GOALS = ("interactive", "offline", "memory")
"""What to prefer among rows that keep the limits: the reader who waits for one headline, headlines a second of a job,
or the least memory."""

EXAMPLE = 'write it as in --budget "p99<50ms, memory<4GiB, nll<+0.02"'


@dataclass(frozen=True)
class Limit:
    """`metric` is one of METRICS' names; `bound` is in the metric's own unit (seconds, headlines a second, bytes, share
    kept, nats, joules), and whether it is an upper or a lower one is the metric's; `text` is what the user wrote."""

    metric: str
    bound: float
    text: str


@dataclass(frozen=True)
class Budget:
    """What to prefer (one of GOALS) among the rows that keep the limits."""

    goal: str = "interactive"
    limits: tuple[Limit, ...] = ()


@dataclass(frozen=True)
class Metric:
    """A figure of a row that can be limited: what it is `called`, how it is read `of` a record (None: not measured; an
    interval without width where there is none), its `units`, how it is `shown`, and a right `example`."""

    called: str
    of: Callable[[Record], Estimate | None]
    units: Mapping[str, float]
    shown: Callable[[float], str]
    example: str
    is_upper: bool = True
    needs_unit: bool = True


class Held(Enum):
    """Whether a row keeps a limit; DOUBTFUL: it is beyond it, but by no more than chance makes."""

    KEPT, DOUBTFUL, BROKEN, NOT_MEASURED = range(4)


def parse_budget(text: str, goal: str) -> Budget:
    """The budget that `--budget TEXT --goal GOAL` gives. Raises UsageError, one sentence that shows a right one."""
    if goal not in GOALS:
        raise UsageError(f"--goal {goal!r}: there is no such goal: choose from {', '.join(GOALS)}")
    return Budget(goal, tuple(_limit(part.strip()) for part in text.split(",") if part.strip()))


def budget_of(record: Record) -> Budget:
    """The budget that the record's session was asked to keep; the default where it had none."""
    return parse_budget(str(record.settings.get("budget", "")), str(record.settings.get("goal", GOALS[0])))


def _limit(text: str) -> Limit:
    found = re.fullmatch(r"(\w+)\s*([<>]=?)\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*(\S*)", text)
    if found is None:
        raise UsageError(f"--budget {text!r}: this is no limit: {EXAMPLE}")
    name, sign, number, unit = found.groups()
    metric = METRICS.get(name)
    if metric is None:
        raise UsageError(f"--budget {text!r}: there is no figure {name!r}: choose from {', '.join(METRICS)}")
    if (sign[0] == "<") != metric.is_upper:
        raise UsageError(
            f"--budget {text!r}: {metric.called} has {'an upper' if metric.is_upper else 'a lower'} limit: write it "
            f"as in {metric.example}"
        )
    if unit not in metric.units and (unit or metric.needs_unit):
        units = ", ".join(metric.units)
        raise UsageError(f"--budget {text!r}: {metric.called} is given in {units}: write it as in {metric.example}")
    return Limit(name, float(number) * metric.units.get(unit, 1.0), text)


def held(record: Record, limit: Limit) -> tuple[Held, str]:
    """Whether the row keeps the limit; and where it does not, by how much it is beyond it, in words."""
    metric = METRICS[limit.metric]
    value = metric.of(record)
    if value is None or math.isnan(value.value):
        return Held.NOT_MEASURED, f"{metric.called} was not measured here, which {limit.text} needs"
    over = value.value - limit.bound if metric.is_upper else limit.bound - value.value
    if over <= 0:
        return Held.KEPT, ""
    side = "above" if metric.is_upper else "below"
    words = f"{metric.called} {metric.shown(value.value)}, {metric.shown(over).lstrip('+')} {side} {limit.text}"
    nearest = value.low if metric.is_upper else value.high
    within = (nearest <= limit.bound if metric.is_upper else nearest >= limit.bound) or math.isnan(nearest)
    return (Held.DOUBTFUL, f"{words}, but within chance") if within else (Held.BROKEN, words)


def certainly_held(record: Record, limit: Limit) -> bool:
    """Whether chance leaves it no doubt that the limit is kept: its whole interval is within."""
    metric = METRICS[limit.metric]
    value = metric.of(record)
    if value is None:
        return False
    return value.high <= limit.bound if metric.is_upper else value.low >= limit.bound


def point(value: float | None) -> Estimate | None:
    """A figure of which no interval is known, taken as it is."""
    return None if value is None else Estimate(value, value, value)


def peak_bytes(record: Record) -> int | None:
    """The most memory that the row took; None where it was not measured."""
    return (record.memory.peak_bytes if record.memory else None) or None


def weights_bytes(record: Record) -> int | None:
    """The bytes of its weights, of all ranks together as its peak is; None where it was not built."""
    if record.parallel is not None:
        return sum(record.parallel.weights_bytes)
    return record.build.weights_bytes if record.build else None


def size(value: float) -> str:
    """Bytes for a reader."""
    unit, name = (2**30, "GiB") if abs(value) >= 2**30 else (2**20, "MiB") if abs(value) >= 2**20 else (2**10, "KiB")
    return f"{value / unit:.1f} {name}" if abs(value) < 100 * unit else f"{value / unit:.0f} {name}"


def _seconds(of: Callable[[Measurement], float]) -> Callable[[Record], Estimate | None]:
    return lambda record: point(of(record.measurement)) if record.measurement else None


def _kept(record: Record) -> Estimate | None:
    """ROUGE-1 as a share of the reference's: the paired difference over that, whose own chance is not in it."""
    if (s := record.widest_scores) is None:
        return None
    difference = s.rouge_difference["rouge1"]
    base = s.rouge["rouge1"].value - difference.value
    if not base > 0:
        return None
    return Estimate(*(1 + value / base for value in (difference.value, difference.low, difference.high)))


_TIMES = {"ms": 1e-3, "s": 1.0, "us": 1e-6}
_BYTES = {"MiB": 2.0**20, "GiB": 2.0**30, "KiB": 2.0**10, "MB": 1e6, "GB": 1e9}


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


METRICS: dict[str, Metric] = {
    "p50": Metric("the median latency", _seconds(lambda m: m.p50_seconds), _TIMES, _ms, "p50<20ms"),
    "p90": Metric("the p90 latency", _seconds(lambda m: m.p90_seconds), _TIMES, _ms, "p90<40ms"),
    "p99": Metric("the p99 latency", _seconds(lambda m: m.p99_seconds), _TIMES, _ms, "p99<50ms"),
    "first": Metric("the first token", _seconds(lambda m: m.first_token_seconds), _TIMES, _ms, "first<10ms"),
    "rate": Metric(
        "the rate of a job",
        lambda record: point(record.throughput.headlines_per_second) if record.throughput else None,
        {"/s": 1.0},
        lambda rate: f"{rate:.3g}/s",
        "rate>100/s",
        is_upper=False,
        needs_unit=False,
    ),
    "memory": Metric("peak memory", lambda record: point(peak_bytes(record)), _BYTES, size, "memory<4GiB"),
    "weights": Metric(
        "the weights",
        lambda record: point(weights_bytes(record)),
        _BYTES,
        size,
        "weights<500MiB",
    ),
    "rouge1": Metric(
        "the reference's ROUGE-1 that is kept",
        _kept,
        {"%": 0.01},
        lambda share: f"{share:.1%}",
        "rouge1>95%",
        is_upper=False,
    ),
    "nll": Metric(
        "the rise in NLL",
        lambda record: record.widest_scores.nll_difference if record.widest_scores else None,
        {"nats": 1.0},
        lambda nats: f"{nats:+.3f} nats",
        "nll<+0.02",
        needs_unit=False,
    ),
    "energy": Metric(
        "the energy of a headline",
        lambda record: point(record.energy.joules_per_headline) if record.energy else None,
        {"J": 1.0},
        lambda joules: f"{joules:.3g} J",
        "energy<5J",
    ),
}
"""What can be limited. The rise in NLL and the ROUGE-1 that is kept are against the reference, paired."""
