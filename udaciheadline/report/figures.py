"""What the report shows: each figure's picture, the sentence that stands for it, and its numbers as a table."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from udaciheadline.evidence.verdict import pareto
from udaciheadline.records import Estimate, PerArticle, Record
from udaciheadline.report import plots
from udaciheadline.report.canvas import Axis
from udaciheadline.report.numbers import interval, mebibytes, milliseconds, number, rate, share
from udaciheadline.report.plots import Point
from udaciheadline.report.values import (
    NEGLIGIBLE,
    judged,
    latency,
    limit_share,
    loss,
    matters,
    offline,
    peak,
    speed_up,
    usual_seconds,
)
from udaciheadline.techniques import REFERENCE

_MS = Axis("milliseconds a headline, mean", logarithmic=True)


@dataclass(frozen=True)
class Figure:
    """One picture: what `kind` it is, what is to be seen (`finding`) and how (`reading`); `columns` and `rows` are its
    numbers, and `draw` makes its SVG. `name` is its anchor."""

    name: str
    title: str
    reading: str
    kind: str
    finding: str
    draw: Callable[[], str]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def alternative(self) -> str:
        """The text that stands for the picture."""
        return f"{self.kind} of {len(self.rows)} rows. {self.finding}"


def latency_and_quality(records: Sequence[Record]) -> Figure | None:
    """The plane of the reader who waits: mean latency against what the true headlines lose in likelihood."""
    usual = usual_seconds(records)
    x = {r.technique: latency(r, usual) for r in records if r.status == "ok" and r.measurement and r.widest_scores}
    shown = [r for r in records if r.technique in x and _known(x[r.technique]) and _known(loss(r))]
    if not shown:
        return None
    front = pareto(shown, lambda record: x[record.technique].value, _certain_loss)
    points = [Point(r.technique, x[r.technique], loss(r), r.technique in front) for r in shown]
    columns = ("technique", "front", "ms a headline", "95 % interval", "NLL, nats more", "95 % interval")
    rows = tuple((p.name, _front(p), *_cells(_thousandfold(p.x), ".2f"), *_cells(p.y, "+.4f")) for p in points)
    return Figure(
        "latency-quality",
        "Latency against quality loss",
        "Further left is faster, further down is better. Filled and joined: no other row is better on both. Hollow: "
        f"dominated; a loss within chance, or below {NEGLIGIBLE.nll:g} nats, counts as none there. Latency is "
        f"{REFERENCE}'s of this session over the paired speed-up: what the machine drifts from row to row is not in "
        "it. Whiskers: 95 % intervals.",
        "Scatter plot",
        _fronts(points),
        partial(
            plots.plane,
            "latency-quality",
            [Point(p.name, _thousandfold(p.x), p.y, p.on_front) for p in points],
            _MS,
            Axis("true headline: nats a token lost", least=4 * NEGLIGIBLE.nll),
        ),
        columns,
        rows,
    )


def rate_and_memory(records: Sequence[Record]) -> Figure | None:
    """The plane of a job: headlines a second against the peak of memory."""
    reference = next((r for r in records if r.technique == REFERENCE and r.status == "ok"), None)
    shown = [r for r in records if r.status == "ok" and r.throughput and r.memory and r.memory.peak_bytes]
    if not shown:
        return None
    y = {record.technique: offline(record, reference) for record in shown}
    front = pareto(shown, lambda record: peak(record).value, lambda record: -y[record.technique].value)
    points = [Point(r.technique, peak(r), y[r.technique], r.technique in front) for r in shown]
    rows = tuple((p.name, _front(p), mebibytes(p.x.value), rate(p.y.value), interval(p.y, ".3g")) for p in points)
    return Figure(
        "rate-memory",
        "Offline rate against memory",
        "Rates are of all articles as one job; peaks of one article at a time, but of rows that have jobs only. "
        "Further up is faster, further left is smaller. Filled and joined: no other row is better on both. Rates are "
        f"{REFERENCE}'s times the row's ratio to it. Whiskers: the 95 % interval, where its jobs were paired with the "
        "reference's, and else what two jobs of different minutes may differ by.",
        "Scatter plot",
        _fronts(points),
        partial(
            plots.plane,
            "rate-memory",
            [Point(p.name, _scaled(p.x, 2**-20), p.y, p.on_front) for p in points],
            Axis("peak memory, MiB", logarithmic=True),
            Axis("headlines a second", logarithmic=True),
        ),
        ("technique", "front", "peak memory", "headlines a second", "interval"),
        rows,
    )


def speed_ups(records: Sequence[Record]) -> Figure | None:
    """How many times as fast as the reference, article by article or job by job."""
    found = {}
    for record in records:
        if record.status == "ok" and record.technique != REFERENCE and (estimate := speed_up(record)):
            found[record.technique + ("" if record.measurement else " (job)")] = estimate
    if not found:
        return None
    ordered = sorted(found.items(), key=lambda item: -item[1].value)
    faster = [name for name, e in ordered if e.low > 1]
    slower = [name for name, e in ordered if e.high < 1]
    return Figure(
        "speed-ups",
        f"Speed against {REFERENCE}",
        f"Right of the line is faster than {REFERENCE}, which answered the same article in the same minute. A filled "
        "square: the 95 % interval leaves 1 out. A hollow circle: the two cannot be told apart.",
        "Forest plot",
        f"Faster than {REFERENCE}: {_list(faster)}. Slower: {_list(slower)}. "
        f"Not told apart: {_list([n for n, _ in ordered if n not in faster + slower])}.",
        partial(
            plots.forest,
            "speed-ups",
            [(name, [estimate]) for name, estimate in ordered],
            [Axis(f"times {REFERENCE}'s speed", logarithmic=True)],
            1.0,
            ".2f",
            (0.0,),
        ),
        ("technique", f"times {REFERENCE}", "95 % interval"),
        tuple((name, *_cells(estimate, ".2f")) for name, estimate in ordered),
    )


def latencies(records: Sequence[Record]) -> Figure | None:
    """How long each article took: the empirical distribution function."""
    found = {r.technique: r.per_article.seconds for r in records if r.per_article and r.per_article.seconds}
    if not found:
        return None
    quantiles = {r.technique: r.measurement for r in records if r.measurement}
    rows = tuple(
        (name, str(len(s)), *(f"{number(1000 * v, '.2f')}" for v in (min(s), m.p50_seconds, m.p90_seconds, max(s))))
        for name, s in found.items()
        if (m := quantiles.get(name))
    )
    slowest = max(found, key=lambda name: max(found[name]))
    return Figure(
        "latencies",
        "Latencies, article by article",
        "Each strip rises from no article to all of them: the steeper, the more alike. Dot: the article in the middle. "
        f"Stroke: the slowest one. Dashed: {REFERENCE} beside it, on the same articles in the same minutes.",
        "Empirical distribution functions",
        f"The slowest article of all took {milliseconds(max(found[slowest]))}, with {slowest}.",
        partial(
            plots.distributions,
            "latencies",
            {name: [1000 * s for s in seconds] for name, seconds in found.items()},
            {r.technique: _beside(r.per_article) for r in records if r.technique in found and r.per_article},
            Axis("milliseconds a headline", logarithmic=True),
        ),
        ("technique", "articles", "fastest, ms", "p50, ms", "p90, ms", "slowest, ms"),
        rows,
    )


def quality(records: Sequence[Record]) -> Figure | None:
    """What the headlines differ in worth from the reference's."""
    found = {
        r.technique: (r.widest_scores.rouge_difference["rouge1"], r.widest_scores.nll_difference)
        for r in records
        if r.status == "ok" and r.widest_scores and r.technique != REFERENCE
    }
    found = {name: pair for name, pair in found.items() if any(map(_known, pair))}
    if not found:
        return None
    worth = {r.technique: judged(r.widest_scores) for r in records if r.widest_scores}
    worse, better = ([name for name in found if word in worth[name]] for word in ("worse", "better"))
    return Figure(
        "quality",
        f"Quality against {REFERENCE}",
        "ROUGE-1: words shared with the true headline, more is better. NLL: how unlikely the true headline is to the "
        "model, in nats a token, less is better. Filled square: the 95 % interval leaves 0 out, and the difference "
        f"is more than {NEGLIGIBLE.nll:g}.",
        "Forest plot",
        f"Worse than {REFERENCE} beyond chance: {_list(worse)}. Better: {_list(better)}.",
        partial(
            plots.forest,
            "quality",
            [(name, [e if _known(e) else None for e in pair]) for name, pair in found.items()],
            [
                Axis("ROUGE-1 difference", least=4 * NEGLIGIBLE.rouge1),
                Axis("NLL difference, nats", least=4 * NEGLIGIBLE.nll),
            ],
            0.0,
            "+.3f",
            (NEGLIGIBLE.rouge1, NEGLIGIBLE.nll),
        ),
        ("technique", "ROUGE-1", "95 % interval", "NLL", "95 % interval"),
        tuple((name, *_cells(r, "+.4f"), *_cells(nll, "+.4f")) for name, (r, nll) in found.items()),
    )


def limits(records: Sequence[Record]) -> Figure | None:
    """How much of what the hardware can do is used."""
    found = {r.technique: s for r in records if (s := limit_share(r)) is not None}
    if not found:
        return None
    best = max(found, key=found.__getitem__)
    return Figure(
        "limits",
        "Share of the hardware's limit",
        "100 %: a headline would take only the time in which its weights are read once a token, or a job only that of "
        "its matrix products; both measured on this device. Of models that fit in a cache it is a rough figure.",
        "Bars",
        f"The longest is that of {best}: {share(found[best])}.",
        partial(plots.bars, "limits", found, "of what the device can do"),
        ("technique", "share", "of what"),
        tuple(
            (r.technique, share(found[r.technique]), "memory bandwidth" if r.measurement else "arithmetic")
            for r in records
            if r.technique in found
        ),
    )


def timelines(records: Sequence[Record]) -> list[Figure]:
    """What the stages of a pipeline worked on at the same time, of each row that was profiled."""
    found = []
    for record in records:
        if record.parallel and (timeline := record.parallel.timeline):
            busy = [1 - rank.count(".") / len(rank) for rank in timeline.ranks]
            name = f"timeline-{record.technique}"
            shares = ", ".join(f"rank {i} {share(b)}" for i, b in enumerate(busy))
            figure = Figure(
                name,
                f"What the stages of {record.technique} did at the same time",
                "A box is a micro-batch at work, with the last digit of its number; between boxes a stage waits.",
                "Timeline",
                f"At work in these {milliseconds(timeline.seconds)}: {shares} of the time.",
                partial(plots.stages, name, timeline),
                ("rank", "at work", "micro-batches, in equal moments (a dot: none)"),
                tuple((str(i), share(b), timeline.ranks[i]) for i, b in enumerate(busy)),
            )
            found.append(figure)
    return found


# -- how they are made ----------------------------------------------------------------------------------------------


def _certain_loss(record: Record) -> float:
    """A loss that cannot be told from none, or does not matter, is none: noise alone dominates no row."""
    estimate = loss(record)
    return estimate.value if matters(estimate, NEGLIGIBLE.nll) else 0.0


def _beside(found: PerArticle) -> list[float]:
    """The milliseconds that the reference took for the same articles."""
    return [1000 * seconds * math.exp(ratio) for seconds, ratio in zip(found.seconds, found.log_ratios, strict=True)]


def _front(point: Point) -> str:
    return "on the front" if point.on_front else "dominated"


def _fronts(points: Sequence[Point]) -> str:
    on = [point.name for point in points if point.on_front]
    off = [point.name for point in points if not point.on_front]
    return f"On the front: {_list(on)}. Dominated: {_list(off)}."


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _known(estimate: Estimate) -> bool:
    return math.isfinite(estimate.value)


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    return Estimate(estimate.value * factor, estimate.low * factor, estimate.high * factor)


def _thousandfold(estimate: Estimate) -> Estimate:
    return _scaled(estimate, 1000)


def _cells(estimate: Estimate, form: str) -> tuple[str, str]:
    return number(estimate.value, form), interval(estimate, form)
