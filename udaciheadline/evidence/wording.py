"""A verdict in words: what a row gains over the reference, of what that is true, and what would tell two rows apart."""

import math
from collections.abc import Collection, Sequence

from udaciheadline.evidence.budget import METRICS, Limit, peak_bytes, size, weights_bytes
from udaciheadline.evidence.gains import DECISIVE, WORTH, Gains, job_ratio, like_peaks
from udaciheadline.evidence.statistics import more_to_tell
from udaciheadline.records import Estimate, Record
from udaciheadline.techniques import REFERENCE, techniques

KV_CACHE = "the KV cache"
LITTLE = 0.2  # of a row's time, if that is reading its weights: then fewer bytes win little
_BETTER = {
    "interactive": "is faster than it for certain",
    "offline": "writes more headlines a second for certain",
    "memory": "takes less memory for certain",
}


def ratio(estimate: Estimate) -> str:
    """A ratio with half its interval, in three digits; where that is more than the ratio itself, the interval alone:
    so little is known then."""
    half = (estimate.high - estimate.low) / 2
    if estimate.value < half < math.inf:
        return f"{short(estimate.low)} to {short(estimate.high)}"
    return short(estimate.value) + (f" ±{short(half, estimate.value)}" if math.isfinite(half) else "")


def short(value: float, like: float | None = None) -> str:
    """A number in three digits, or with as many decimals as a number `like` it has then."""
    largest = abs(value if like is None else like)
    return f"{value:.2f}" if largest < 9.995 else f"{value:.1f}" if largest < 99.95 else f"{value:.0f}"


def not_measured(record: Record, goal: str, has_reference: bool) -> str:
    """Why a row is none of those that a goal chooses from."""
    technique = techniques().get(record.technique)
    if goal == "interactive":
        return (
            "it takes all articles as one job, which is for --goal offline"
            if technique and technique.offline
            else "its latency was not measured"
        )
    if goal == "offline":
        if record.throughput is not None:
            return f"its job was not paired with {REFERENCE}'s: add {REFERENCE} to --technique"
        return "it takes one article at a time" if technique and not technique.batches else "no job of it was measured"
    if not has_reference:
        return f"its memory was held against nothing: add {REFERENCE} to --technique"
    return "its peak is that of a whole job" if peak_bytes(record) else "its memory was not measured"


def over_optimised(record: Record) -> tuple[str, Estimate] | None:
    """The row that this one is there to make faster, and how many times as fast it is; None where that is the reference
    or was not measured."""
    technique = techniques().get(record.technique)
    name = technique.optimises if technique else REFERENCE
    return (name, record.speed_up_over[name]) if name in record.speed_up_over else None


def beside_optimised(record: Record) -> str:
    """The same in words: slower only where the whole interval is. Where it may not be faster, how little there was to
    win is the reason as a rule."""
    if (found := over_optimised(record)) is None:
        return ""
    name, over = found
    if over.high < 1:
        said = f"slower than {name}, which it optimises: {ratio(over)} times its speed"
    else:
        said = f"{ratio(over)} times as fast as {name}, which it optimises"
    m = record.measurement
    if over.low > 1 or m is None or m.limit_seconds is None or m.limit_seconds > LITTLE * m.average_seconds:
        return said
    return f"{said}; {share(m.limit_seconds / m.average_seconds)} of its time is reading its weights"


def gain(record: Record, goal: str, reference: Record | None) -> str:
    """What the row gives for the goal, against the reference and, beside it, against the row that it optimises."""
    if record.technique == REFERENCE:
        return "what all rows are compared with"
    if goal == "interactive" and record.measurement:
        beside = beside_optimised(record)
        return f"{ratio(record.measurement.speed_up)} times as fast as {KV_CACHE}" + (f" ({beside})" if beside else "")
    if goal == "offline" and (t := record.throughput):
        rate = f"{t.headlines_per_second:.{0 if t.headlines_per_second >= 10 else 1}f} headlines/s"
        if t.speed_up is not None:
            return f"{ratio(t.speed_up)} times the job of {KV_CACHE} ({rate})"
        times = job_ratio(record, reference)
        return f"about {times.value:.2g} times the job of {KV_CACHE} ({rate}, not in turn with it)" if times else rate
    both = (peak_bytes(record), "peak"), (weights_bytes(record), "of weights")
    sizes = [f"{size(value)} {what}" for value, what in both if value]
    return ", ".join(sizes) + _against(record, reference)


def _against(record: Record, reference: Record | None) -> str:
    own, base = like_peaks(record, reference)
    return f" ({_change(own, base)} peak against {KV_CACHE})" if own and base else ""


def answer(record: Record, goal: str, reference: Record | None) -> str:
    """What one gets who deploys the row: the gain, what becomes of the headlines, memory, and how many devices."""
    parts = [gain(record, goal, reference), headlines(record)]
    own, base = like_peaks(record, reference)
    if goal == "memory" and record.measurement:
        parts.append(gain(record, "interactive", reference))
    elif own and base:
        parts.append(_change(own, base))
    if record.parallel is not None:
        parts.append(f"on {len(record.parallel.weights_bytes)} devices")
    return ", ".join(part for part in parts if part)


def headlines(record: Record) -> str:
    """What becomes of the reference's headlines: only where each has the same tokens are they the same."""
    if (s := record.widest_scores) is None:
        return ""
    if s.identical_share == 1:
        return "same headlines"
    technique = techniques().get(record.technique)
    other = "another model's headlines" if technique and technique.needs_target else None
    rouge1, nll = s.rouge_difference["rouge1"], s.nll_difference
    changes = [
        f"{name} {signed(estimate, '.3f')}"
        for name, estimate in (("ROUGE-1", rouge1), ("NLL", nll))
        if not math.isnan(estimate.value)
    ]
    return f"{other or f'{share(s.identical_share)} of the headlines the same'} ({', '.join(changes)})"


def share(part: float) -> str:
    """A share of the headlines: all is said only of all."""
    return f"{part:.0%}" if part == 1 or part < 0.995 else f"{part:.1%}" if part < 0.9995 else ">99.9%"


def signed(estimate: Estimate, form: str) -> str:
    """A difference with half its interval."""
    half = (estimate.high - estimate.low) / 2
    value = round(estimate.value, int(form[1:-1])) + 0.0  # nothing is not less than nothing
    return f"{value:+{form}}" + (f" ±{half:{form}}" if math.isfinite(half) else "")


def pays(record: Record, reference: Record | None, names: Collection[str]) -> str:
    """What a row that loses on the goal has for it: `names` are the gains that it has for certain."""
    parts = []
    if "speed" in names and record.measurement:
        parts.append(gain(record, "interactive", reference))
    if "rate" in names:
        parts.append(gain(record, "offline", reference))
    own, base = like_peaks(record, reference)
    if "peak" in names and own and base:
        parts.append(f"{_change(own, base)} peak")
    weighs, weighed = weights_bytes(record), reference and weights_bytes(reference)
    if "weights" in names and weighs and weighed:
        parts.append(f"{_change(weighs, weighed)} of weights")
    if record.widest_scores and {"nll", "rouge1"} & set(names):
        parts.append(headlines(record))
    figure = gain(record, "interactive", reference) if record.measurement else ""
    parts = [part for part in parts if part != figure]
    return f"; for it: {', '.join(parts)}" if parts else ""


def _change(own: int, base: int) -> str:
    return ("+" if own >= base else "-") + size(abs(own - base))


def perhaps(record: Record, own: Gains, goal: str) -> str:
    """Of a row whose gain for the goal is not certain, what would make it so."""
    gain = own.get(DECISIVE[goal][0])
    if goal == "memory" or gain is None or not gain.low <= WORTH < gain.value:
        return ""
    if goal == "offline" and not _paired(record):
        return ": no more than two such jobs may differ by"
    count, unit = _count(record, goal)
    return _would_tell(
        more_to_tell(gain.value, [(gain.high - gain.low) / 2], count), count, unit, "whether it is faster"
    )


def nothing_better(goal: str, has_limits: bool, others: int) -> str:
    """Why the reference stays, with so many other rows to choose from."""
    if not others:
        return f"there is no other row{' that keeps the limits' if has_limits else ''} to choose from"
    return f"no row{' that keeps the limits' if has_limits else ''} {_BETTER[goal]}"


def undecided(rows: Sequence[tuple[Record, Gains]], goal: str, doubt: tuple[str, Limit, str] | None) -> str:
    """Between which rows it is open, and what would tell. `doubt` is a row that may break a limit, that limit, and by
    how much."""
    *others, last = [record.technique for record, _ in rows]
    sentence = f"undecided between {', '.join(others)} and {last}" if others else f"undecided about {last}"
    if doubt is not None:
        name, limit, words = doubt
        record = next(record for record, _ in rows if record.technique == name)
        estimate = METRICS[limit.metric].of(record)
        assert estimate is not None
        more = more_to_tell(abs(estimate.value - limit.bound), [(estimate.high - estimate.low) / 2], _articles(record))
        would = _would_tell(more, _articles(record), "articles", "that limit", "quality-articles")
        return f"{sentence}: {name}: {words}{would}"
    name = DECISIVE[goal][0]
    if goal == "memory":
        return f"{sentence}: their peaks differ by no more than those of two processes of one program do"
    paired = [record.measurement if goal == "interactive" else _paired(record) for record, _ in rows]
    if not all(paired):
        return f"{sentence}: their jobs ran in one process each, and differ by no more than two such jobs may"
    first, *rest = rows
    counts = [_count(record, goal) for record, _ in rows if record.technique != REFERENCE]
    count, unit = min(counts)
    mores = []
    for other in rest:
        if name == "speed" and (over := first[1].over(other[1])) is not None:
            mores.append(more_to_tell(abs(over.value), [(over.high - over.low) / 2], count))
            continue
        ours, theirs = first[1].get(name), other[1].get(name)
        assert ours is not None
        assert theirs is not None
        halves = [(gain.high - gain.low) / 2 for gain in (ours, theirs)]
        mores.append(more_to_tell(abs(ours.value - theirs.value), halves, count))
    more = None if None in mores else max((m for m in mores if m is not None), default=None)
    return f"{sentence}{_would_tell(more, count, unit, 'them apart')}"


def _paired(record: Record) -> bool:
    return record.technique == REFERENCE or bool(record.throughput and record.throughput.speed_up)


def _count(record: Record, goal: str) -> tuple[int, str]:
    """Of what it takes more to know a row's gain better, and how many there were."""
    if goal == "offline" and record.throughput:
        return record.throughput.rounds, "launches"
    assert record.measurement is not None
    m = record.measurement
    return (1, "articles") if m.count == 1 else (m.launches, "launches")


def _articles(record: Record) -> int:
    return len(record.per_article.nll) if record.per_article else record.measurement.count if record.measurement else 0


def _would_tell(more: int | None, count: int, unit: str, what: str, option: str = "") -> str:
    """`option` is what gives more of the `unit`, where it is not called so."""
    if count < 2:
        return f": one is too few to tell {what}: give more --{option or unit}"
    if more is None:
        return f": a hundred times as many {unit} would not tell {what}"
    return f": {more} more {unit} would tell (--{option or unit} {count + more})"


def regime(records: Sequence[Record], goal: str) -> str:
    """Of what a verdict is true: model, prompts, how many articles at a time, device. It is not said of others."""
    if not records:
        return ""
    settings, environment = records[0].settings, records[0].environment
    parts = [f"model {settings.get('model_name', settings.get('model', 'unknown'))}"]
    lengths = [m.prompt_tokens for r in records if (m := r.measurement) and m.prompt_tokens]
    prompt = f"prompt {settings['prompt']}" if "prompt" in settings else "prompts"
    if lengths:
        least, most = min(low for low, _ in lengths), max(high for _, high in lengths)
        prompt += f" of {least} tokens" if least == most else f" of {least} to {most} tokens"
    parts.append(prompt)
    if "max_new_tokens" in settings:
        parts.append(f"up to {settings['max_new_tokens']} new ones")
    articles = settings.get("articles")
    if goal == "offline":
        parts.append(f"a job of {articles} articles" if articles else "all articles as one job")
    else:
        parts.append("one article at a time")
    device = environment.get("gpu") or f"CPU with {environment.get('threads', environment.get('cores', '?'))} threads"
    return ", ".join([*parts, f"{settings.get('dtype', '')} on {device}".strip()])
