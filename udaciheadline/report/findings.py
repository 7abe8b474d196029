"""What the figures of one row say, in sentences: the section of the notebook's report on each technique.

Every sentence is a rule on this run's figures. "Faster", "worse" and their like stand only where a whole 95 % interval
bears them out; what was not measured is said, or left out, and never guessed.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from udaciheadline.evidence.statistics import ONE_PROCESS
from udaciheadline.evidence.wording import over_optimised
from udaciheadline.records import Energy, Estimate, Measurement, Parallel, Record, Scores
from udaciheadline.report.numbers import interval, mebibytes, milliseconds, number, rate, share, times
from udaciheadline.report.values import NEGLIGIBLE, judged, limit_share, matters
from udaciheadline.techniques import REFERENCE, techniques


@dataclass(frozen=True)
class Section:
    """One technique: a paragraph each, of whole sentences."""

    technique: str
    title: str
    performance: str
    memory: str
    quality: str
    summary: str


def section(record: Record, reference: Record | None) -> Section:
    """What a row's figures say, beside those of the `reference`'s row of the same run, if it has one. Of a row that
    broke off or was skipped the summary says so, and the rest what it still measured."""
    if record.technique == REFERENCE:
        reference = None
    return Section(
        record.technique,
        record.title,
        " ".join(_performance(record)),
        " ".join(_memory(record, reference)),
        " ".join(_quality(record)),
        " ".join(_summary(record, reference)),
    )


def _performance(record: Record) -> Iterator[str]:
    if record.engine == "compiled" and not record.technique.startswith("compiled"):
        yield "It runs on the compiled engine."
    if (m := record.measurement) is not None:
        yield from _one_at_a_time(record, m)
    part = limit_share(record)
    if m is not None and part is not None:
        yield f"Reading the weights alone would take {share(part)} of a headline's time."
    if (t := record.throughput) is not None:
        yield f"As one job it writes {rate(t.headlines_per_second)} headlines a second, {t.batch_size} at a time."
        if t.speed_up is not None:
            yield _compared(t.speed_up, "as a job", t.rounds)
        elif m is None and (over := t.times_over.get(REFERENCE)):
            yield f"That is {times(over)} times the rate of {REFERENCE}, in one process of each: without an interval."
        if t.refused_batch_size is not None:
            yield f"{t.refused_batch_size} at a time did not fit in memory."
    if m is None and part is not None:
        yield f"It is at {share(part)} of the rate that arithmetic alone would allow."
    yield from _others(record)
    if record.energy is not None:
        yield from _energy(record.energy)
    for what in record.disturbances:
        yield f"Meanwhile {what}."
    if record.parallel is not None:
        yield from _ranks(record.parallel)


def _one_at_a_time(record: Record, m: Measurement) -> Iterator[str]:
    yield (
        f"A headline takes {milliseconds(m.average_seconds)} on average, half of them no more than "
        f"{milliseconds(m.p50_seconds)}, and the first token {milliseconds(m.first_token_seconds)}: one at a time, "
        f"{rate(m.headlines_per_second)} headlines a second."
    )
    if m.p99_is_reliable:
        yield f"99 of 100 take no more than {milliseconds(m.p99_seconds)}."
    if record.technique != REFERENCE:
        yield _compared(m.speed_up, "one at a time", m.launches)
    if m.acceptance_rate is not None:
        yield f"Of {m.drafted} drafted tokens {m.accepted} were accepted ({share(m.acceptance_rate)})."
    if m.accepted_shares:
        yield f"By their place in a draft: {', '.join(map(share, m.accepted_shares))}."
    if record.build and (predicted := record.build.details.get("predicted_token_seconds")):
        yield (
            f"A token behind the first takes {milliseconds(m.token_seconds)}; by what was timed when it was built, "
            f"{milliseconds(predicted)} were expected."
        )


def _compared(e: Estimate, how: str, launches: int) -> str:
    alone = f", with {ONE_PROCESS - 1:.0%} for how two processes may differ"
    over = alone if launches == 1 else f", over {launches} fresh processes of both"
    return _beside(REFERENCE, e, f" {how}", over)


def _beside(name: str, e: Estimate, how: str = "", over: str = "") -> str:
    """A speed beside another row's: faster or slower only where the whole interval is."""
    if not (math.isfinite(e.low) and math.isfinite(e.high)):
        return f"It is {times(e.value)} times as fast as {name}{how}; so few values give no interval."
    between = f"95 % interval {interval(e, '.2f')}{over}"
    if e.low > 1:
        return f"It is {times(e.value)} times as fast as {name}{how} ({between})."
    if e.high < 1:
        return f"It is slower than {name}{how}: {times(e.value)} times its speed ({between})."
    return f"It cannot be told from {name} in speed{how}: {times(e.value)} times ({between})."


def _others(record: Record) -> Iterator[str]:
    """Rows that answered in turn with it, or that it is compared with by way of the reference."""
    optimised = over_optimised(record)
    for name, e in record.speed_up_over.items():
        yield _beside(name, e, "" if record.measurement else " as a job")
    if optimised and optimised[1].high < 1:
        yield f"It is there to make {optimised[0]} faster, and does not."
    for name, why in record.not_compared.items():
        yield f"It was not compared with {name}: {why}."


def _energy(energy: Energy) -> Iterator[str]:
    yield f"A headline takes {number(energy.joules_per_headline, '.3g')} J ({energy.source}, idle power included)."
    if energy.slowed:
        yield f"Its device was slowed down by {', '.join(energy.slowed)} meanwhile."


def _ranks(parallel: Parallel) -> Iterator[str]:
    shares = ", ".join(share(part) for part in parallel.communication_share)
    yield f"Its {len(parallel.weights_bytes)} ranks do nothing but communicate for {shares} of the time."


def _memory(record: Record, reference: Record | None) -> Iterator[str]:
    if record.build is not None:
        weights = record.build.weights_bytes
        line = f"Its weights take {mebibytes(weights)}"
        if record.parallel is not None and len(record.parallel.weights_bytes) > 1:
            line += " on the first of its ranks"
        if reference and reference.build and not record.parallel:
            line += f", {_against(weights, reference.build.weights_bytes, NEGLIGIBLE.weights)}"
        yield f"{line}."
    if record.memory is not None and (peak := record.memory.peak_bytes):
        on_gpu = bool(record.memory.device_allocated_peak_bytes)
        where = "allocated on all GPUs" if on_gpu else "resident, libraries included"
        line = f"At its peak it has {mebibytes(peak)} ({where})"
        if reference and reference.memory and (other := reference.memory.peak_bytes):
            line += f", {_against(peak, other, _spread(record))}"
        yield f"{line}."
    if "sparsity" in (details := record.build.details if record.build else {}):
        yield f"{share(details['sparsity'])} of the pruned weights are zeros, which take the room of any other number."
    if "removed_share" in details:
        yield (
            f"{share(details['removed_share'])} of the model's weights were removed as its process started, and "
            "nothing was healed: true headlines of articles that are not measured went "
            f"{details['pruning_nats']:+.2f} nats a token."
        )
    if "calibration_articles" in details:
        yield (
            f"Its weights were chosen on {details['calibration_articles']:.0f} articles that are not "
            f"measured, which took {details['calibration_seconds']:.0f} s."
        )


def _against(size: float, other: float, margin: float) -> str:
    """A size beside the reference's; what two processes of one program may differ by is no difference."""
    if abs(size - other) <= margin * other:
        return f"about as much as {REFERENCE}" if size != other else f"as much as {REFERENCE}"
    return (
        f"{mebibytes(abs(size - other))} {'more' if size > other else 'less'} than {REFERENCE} ({share(size / other)})"
    )


def _spread(record: Record) -> float:
    """The share by which the peaks of two processes of one program may differ: on a CPU, libraries are in them."""
    on_gpu = record.memory is not None and any(record.memory.device_allocated_peak_bytes)
    return NEGLIGIBLE.weights if on_gpu else NEGLIGIBLE.peak


def _quality(record: Record) -> Iterator[str]:
    if (s := record.widest_scores) is None:
        return
    if math.isfinite(s.rouge["rouge1"].value):
        yield f"ROUGE-1 is {number(s.rouge['rouge1'].value, '.3f')}, ROUGE-L {number(s.rouge['rougeL'].value, '.3f')}."
    else:
        yield "ROUGE sees no word in most of the true headlines: likelihood decides."
    yield f"The true headlines cost it {number(s.nll.value, '.3f')} nats a token. That is on {s.articles} articles."
    if record.technique != REFERENCE:
        yield from _differences(s)
    if record.scores is not None:
        yield from _timed(record.scores)
    yield from _gates(record)


def _differences(s: Scores) -> Iterator[str]:
    rouge, nll = s.rouge_difference["rouge1"], s.nll_difference
    if math.isfinite(rouge.low) and math.isfinite(rouge.high):
        what = "" if not matters(rouge, 0) else "loses" if rouge.value < 0 else "gains"
        between = f"95 % interval {interval(rouge, '+.3f')}"
        if what:
            yield f"It {what} {number(abs(rouge.value), '.3f')} ROUGE-1 against {REFERENCE} ({between})."
        elif s.identical_share < 1:
            yield (
                f"In ROUGE-1 it cannot be told from {REFERENCE} ({between}); a loss of "
                f"{number(s.rouge1_detectable_loss, '.3f')} would have been found with 80 % power."
            )
    if matters(nll, NEGLIGIBLE.nll):
        word = "unlikelier" if nll.value > 0 else "likelier"
        yield f"True headlines are {number(abs(nll.value), '.3f')} nats a token {word} than to {REFERENCE}."
    if s.identical_share == 1:
        yield f"Every headline has the tokens of {REFERENCE}."
    else:
        yield f"{share(s.identical_share)} of the headlines have the tokens of {REFERENCE}."


def _timed(s: Scores) -> Iterator[str]:
    """What only the timed headlines tell, on however many more quality is judged."""
    if s.near_ties is not None and s.real_differences is not None and s.near_ties + s.real_differences:
        yield (
            f"Of its {s.articles} timed headlines {s.near_ties} part from those that it must repeat at a near tie, as "
            f"rounding makes them, and {s.real_differences} by a real difference."
        )
    if s.job_identical_share is not None and s.job_identical_share < 1:
        yield f"As a job it writes {share(s.job_identical_share)} of the timed headlines with the same tokens."


def _gates(record: Record) -> Iterator[str]:
    for verdict in record.verdicts:
        if verdict.status == "fail":
            yield f"Its gate {verdict.gate} fails: {verdict.message.splitlines()[0].rstrip('.')}."
    if unsure := [v.gate for v in record.verdicts if v.status == "inconclusive"]:
        yield f"Beyond a threshold, but within chance: {', '.join(unsure)}."
    if record.verdicts and all(verdict.status == "pass" for verdict in record.verdicts):
        yield "It passes its gates."


def _summary(record: Record, reference: Record | None) -> Iterator[str]:
    if record.status == "skipped":
        yield f"Not run: {record.reason.rstrip('.')}."
    elif record.status != "ok":
        yield f"It broke off ({record.status}): {record.reason.rstrip('.')}."
    elif record.technique == REFERENCE:
        yield "It is what every other technique is measured against."
    else:
        if parts := [part for part in (_speed(record), _size(record, reference), _worth(record)) if part]:
            yield f"Against {REFERENCE}: {', '.join(parts)}."
        if (known := techniques().get(record.technique)) and known.note:
            yield f"{known.note[0].upper()}{known.note[1:]}."


def _speed(record: Record) -> str:
    m, t = record.measurement, record.throughput
    e = m.speed_up if m else t.speed_up if t else None
    if e is None or not math.isfinite(e.low):
        return ""
    how = "" if m else " as a job"
    return f"faster{how}" if e.low > 1 else f"slower{how}" if e.high < 1 else f"no faster and no slower{how}"


def _size(record: Record, reference: Record | None) -> str:
    if not (reference and reference.memory and record.memory):
        return ""
    peak, other = record.memory.peak_bytes, reference.memory.peak_bytes
    if not peak or not other:
        return ""
    same = abs(peak - other) <= _spread(record) * other
    return "about the same memory" if same else "more memory" if peak > other else "less memory"


def _worth(record: Record) -> str:
    if (s := record.widest_scores) is None:
        return ""
    if s.identical_share == 1:
        return "the same headlines"
    words = judged(s)
    if len(words) == 2:
        return "other headlines, worse by one measure and better by the other"
    return f"{words[0]} headlines" if words else "other headlines, whose worth cannot be told from its own"
