"""All figures of a run in one wide table, with a legend that explains each: what `--details` shows."""

import math
from collections.abc import Mapping, Sequence

from udaciheadline.evidence.gains import in_turn
from udaciheadline.evidence.measure import P99_MIN_COUNT
from udaciheadline.evidence.statistics import ONE_PROCESS
from udaciheadline.evidence.wording import beside_optimised, share
from udaciheadline.records import Estimate, Parallel, Record
from udaciheadline.report import curves
from udaciheadline.report.table import COPY_TITLE, span
from udaciheadline.techniques import REFERENCE, techniques

_COLUMNS: tuple[tuple[str, str], ...] = (
    ("technique", ""),
    ("avg", "ms"),
    ("p99", "ms"),
    ("first", "ms"),
    ("x " + REFERENCE, ""),
    ("x baseline", ""),
    ("offline", "/s"),
    ("limit", "share"),
    ("left", "ms"),
    ("weights", "MiB"),
    ("peak", "MiB"),
    ("ROUGE-1", ""),
    ("difference", ""),
    ("NLL", "nats"),
    ("same", "tokens"),
    ("gates", ""),
)


def details(records: Sequence[Record], copy_rouge: Mapping[str, Estimate]) -> str:
    """The rows as text: speed, memory, quality and gates side by side, then what explains them."""
    rows = [[name for name, _ in _COLUMNS], [unit for _, unit in _COLUMNS], *map(_row, records)]
    rows.append(_cells({"technique": COPY_TITLE, "ROUGE-1": _number(copy_rouge["rouge1"].value, ".3f")}))
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    lines.insert(2, "-" * max(map(len, lines)))
    return "\n".join([*lines, "", *_legend(records), *curves.table(records)])


def _cells(values: Mapping[str, str]) -> list[str]:
    return [values.get(name, "") for name, _ in _COLUMNS]


def _row(record: Record) -> list[str]:
    cells = {"technique": record.technique}
    if record.status != "ok":
        return _cells(cells | {"avg": record.status})
    if (m := record.measurement) is not None:
        cells["avg"] = _ms(m.average_seconds)
        cells["p99"] = _ms(m.p99_seconds) + ("" if m.p99_is_reliable else "*")
        cells["first"] = _ms(m.first_token_seconds)
        cells["x " + REFERENCE] = _interval(m.speed_up, ".2f")
        if m.limit_seconds is not None:
            cells["limit"] = f"{m.limit_seconds / m.average_seconds:.1%}"
            cells["left"] = _ms(m.average_seconds - m.limit_seconds)
    if (t := record.throughput) is not None:
        cells["offline"] = f"{t.headlines_per_second:.0f}"
        if record.measurement is None and t.limit_per_second is not None:
            cells["limit"] = f"{t.headlines_per_second / t.limit_per_second:.1%}"
            cells["left"] = _ms(1 / t.headlines_per_second - 1 / t.limit_per_second)
    if (over := record.speed_up_over.get("baseline")) is not None:
        cells["x baseline"] = _interval(over, ".2f")
    if record.build is not None:
        cells["weights"] = f"{record.build.weights_bytes / 2**20:.1f}"
    if (memory := record.memory) is not None and (peak := memory.peak_bytes):
        cells["peak"] = f"{peak / 2**20:.0f}"
    if (s := record.widest_scores) is not None:
        cells["ROUGE-1"] = _number(s.rouge["rouge1"].value, ".3f")
        cells["difference"] = _interval(s.rouge_difference["rouge1"], "+.3f")
        cells["NLL"], cells["same"] = _number(s.nll.value, ".3f"), share(s.identical_share)
    cells["gates"] = _gates(record)
    return _cells(cells)


def _gates(record: Record) -> str:
    if not record.verdicts:
        return "-"
    failed = [v.gate for v in record.verdicts if v.status == "fail"]
    if failed:
        return "FAIL " + ",".join(failed)
    return "~ " + ",".join(record.open_gates) if record.open_gates else "pass"


def _launches(records: Sequence[Record]) -> str:
    """Over what the intervals of speed-ups are."""
    counts = {record.technique: record.measurement.launches for record in records if record.measurement}
    several = ", ".join(f"{name} {count}" for name, count in counts.items() if count > 1)
    alone = ", ".join(name for name, count in counts.items() if count == 1)
    line = f"A speed-up's ± is over fresh processes of the row and of the reference: {several}" if several else ""
    if alone:
        line += ". " if several else ""
        line += f"One process alone, so that each ± of speed has {ONE_PROCESS - 1:.0%} for how two may differ: {alone}"
    return f"{line}."


def _quality(records: Sequence[Record]) -> list[str]:
    """On how many articles the quality of each row was judged, and what a job has to do with it."""
    found = {record.technique: record.widest_scores for record in records if record.widest_scores}
    losses = {name: s.rouge1_detectable_loss for name, s in found.items()}
    known = {name: f" ({loss:.3f})" for name, loss in losses.items() if 0 < loss < math.inf}  # 0: no headline differs
    counts = ", ".join(f"{name} {s.articles}{known.get(name, '')}" for name, s in found.items())
    lines = [f"Articles that quality is judged on, and the loss of ROUGE-1 that is found with 80 % power: {counts}."]
    shares = {record.technique: record.scores.job_identical_share for record in records if record.scores}
    lines += [
        f"{name}: as a job it writes {share(part)} of the timed headlines with the same tokens."
        for name, part in shares.items()
        if part is not None and part < 1
    ]
    return lines if counts else []


def _legend(records: Sequence[Record]) -> list[str]:
    lines = []
    measured = [record.measurement for record in records if record.measurement]
    if measured:
        n = span([measurement.count for measurement in measured])
        lines.append(
            f"n = {n} articles, one a round. x {REFERENCE}, x baseline: speed-up, paired article by "
            f"article with the reference ({REFERENCE}); above 1 is faster. Difference: ROUGE-1 against the reference, "
            "paired. ±: half a 95 % interval, over articles. First: time to the first token."
        )
        lines.append(_launches(records))
        if any(record.speed_up_over.keys() - in_turn(record) for record in records):
            line = (
                "A speed over rows that did not answer in turn, as x baseline, goes by way of the reference: how that "
            )
            lines.append(f"{line}shifts from row to row is not in its ±.")
        if not all(measurement.p99_is_reliable for measurement in measured):
            lines.append(f"* p99 of fewer than {P99_MIN_COUNT} values has no upper confidence bound.")
    on_gpu = any(record.memory and record.memory.device_allocated_peak_bytes for record in records)
    where = "allocated on all GPUs" if on_gpu else "resident memory of the worker process, libraries included"
    lines.append(f"Peak: {where}. ROUGE: mean of the articles. NLL: of the true headline, per token.")
    lines += _quality(records)
    if any(record.throughput for record in records):
        sizes = ", ".join(f"{r.technique} {r.throughput.batch_size}" for r in records if r.throughput)
        lines.append(f"Offline: headlines a second, all articles as one job; articles at a time: {sizes}.")
        lines.append(
            "Limit: share of what the device, measured in this session, would do if only reading the weights once a "
            "token took time (offline rows: only matrix products); left: milliseconds a headline above that."
        )
    lines += _energy(records)
    if compiled := [record.technique for record in records if record.engine == "compiled"]:
        lines.append(f"On the compiled engine: {', '.join(compiled)}; the others on transformers.")
    if any(record.build and "no_end_token" in record.build.details for record in records):
        lines.append("Neither checkpoint nor tokenizer names an end token: only its length ends a headline.")
    for record in records:
        if (t := record.throughput) is not None and t.refused_batch_size is not None:
            lines.append(f"{record.technique}: {t.refused_batch_size} articles at a time did not fit in memory.")
        if t is not None and t.speed_up is not None:
            line = f"{record.technique}: {_interval(t.speed_up, '.2f')} times the offline rate of {REFERENCE}"
            lines.append(f"{line}, in turn with it, in {t.rounds} fresh processes of each.")
        elif t is not None and record.measurement is None and REFERENCE in t.times_over:
            lines.append(f"{record.technique}: {t.times_over[REFERENCE]:.2f} times the offline rate of {REFERENCE}.")
        if (m := record.measurement) is not None and m.acceptance_rate is not None:
            accepted = f"{m.accepted} accepted ({m.acceptance_rate:.1%})"
            lines.append(f"{record.technique}: {m.drafted} tokens drafted, {accepted}.")
        if beside := beside_optimised(record):
            lines.append(f"{record.technique}: {beside}.")
        if (s := record.scores) is not None and (s.near_ties or s.real_differences):
            lines.append(
                f"{record.technique}: {s.near_ties} headlines part from those it must repeat at a near tie, as "
                f"rounding (up to {s.rounding_nats:.2g} nats) explains; {s.real_differences} by a real difference."
            )
        lines += _drafts(record)
        if record.parallel is not None:
            lines += _ranks(record, record.parallel)
        lines += [f"{record.technique}: {what}." for what in record.disturbances]
        lines += [f"{record.technique}: not compared with {n}: {why}." for n, why in record.not_compared.items()]
        if record.status == "ok" and (technique := techniques().get(record.technique)) and technique.note:
            lines.append(f"{record.technique}: {technique.note}.")
        if record.build and "sparsity" in record.build.details:
            d = record.build.details
            zeros = f"{d['sparsity']:.1%} of the pruned matrices is zero, {d['model_sparsity']:.1%} of the model"
            lines.append(f"{record.technique}: {zeros}.")
        if record.status != "ok":
            lines.append(f"{record.technique}: {record.status}: {record.reason}.")
        lines += [
            f"{record.technique}: {v.gate}: {v.status}: {v.message}"
            for v in record.verdicts
            if v.status not in ("pass", "not judged")
        ]
    return lines + _not_judged(records)


def _energy(records: Sequence[Record]) -> list[str]:
    """Joules a headline of each row, and what slowed its devices down."""
    found = {record.technique: record.energy for record in records if record.energy}
    if not found:
        return ["Energy: not measured here."]
    joules = ", ".join(f"{name} {energy.joules_per_headline:.3g}" for name, energy in found.items())
    source = next(iter(found.values())).source
    lines = [f"Joules a headline, one article at a time or as offline jobs, idle power included ({source}): {joules}."]
    slowed = ((name, why) for name, energy in found.items() for why in energy.slowed)
    return lines + [f"{name}: its device was slowed down by {why} meanwhile." for name, why in slowed]


def _not_judged(records: Sequence[Record]) -> list[str]:
    """What could not be judged, and why: one line a reason, with all the rows and gates that it holds for."""
    reasons: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for record in records:
        for verdict in record.verdicts:
            if verdict.status == "not judged":
                rows, gates = reasons.setdefault(verdict.message, ({}, {}))
                rows[record.technique] = gates[verdict.gate] = None
    return [f"{', '.join(r)}: {', '.join(g)}: not judged: {message}." for message, (r, g) in reasons.items()]


def _drafts(record: Record) -> list[str]:
    """How many tokens the compiled engine drafts at a time, how far they are accepted, and what was to win by it."""
    if record.build is None or "draft_tokens" not in (d := record.build.details):
        return []
    if not d["draft_tokens"]:
        best = f"{d['best_draft_tokens']:.0f} at a time would be {d['predicted_speed_up']:.2f} times as fast as steps"
        return [f"{record.technique}: no token is drafted: by what was timed at its build, {best}."]
    line = f"{record.technique}: {d['draft_tokens']:.0f} tokens at a time are drafted"
    if (m := record.measurement) is not None:
        if m.accepted_shares:
            line += f", and accepted, by their place, {', '.join(f'{s:.0%}' for s in m.accepted_shares)} of them"
        line += f"; a token behind the first takes {1000 * m.token_seconds:.3g} ms"
    line += f", by what was timed at the build {1000 * d['predicted_token_seconds']:.3g} ms"
    return [f"{line}, {d['predicted_speed_up']:.2f} times the speed of steps."]


def _ranks(record: Record, p: Parallel) -> list[str]:
    """What the ranks of a parallel row have and cost, and what they win over one rank."""
    line = f"{record.technique}: {len(p.weights_bytes)} ranks ({p.backend}); on each, in MiB: weights "
    line += f"{_mib(p.weights_bytes)}, peak {_mib(p.peak_bytes)}; "
    if p.layers is not None:
        line += f"layers {', '.join(map(str, p.layers))}; "
    line += f"nothing but communication: {_shares(p.communication_share)} of the time, "
    line += f"of a job's {_shares(p.job_communication_share)}"
    alone, alone_offline = ("compiled", "compiled-batch") if record.engine == "compiled" else (REFERENCE, REFERENCE)
    against = []
    over = record.speed_up_over.get(alone)
    if alone == REFERENCE and record.measurement is not None:
        over = record.measurement.speed_up
    if over is not None:
        against.append(f"{_interval(over, '.2f')} times the speed of {alone}")
    if record.throughput is not None and (times := record.throughput.times_over.get(alone_offline)) is not None:
        against.append(f"{times:.2f} times the offline rate of {alone_offline}")
    measured = " and ".join(against) or "not measured"
    if record.throughput is not None and alone_offline not in record.throughput.times_over:
        measured += f"; for its offline rate, add {alone_offline} to --technique"
    if against and record.engine == "compiled" and p.backend == "gloo":
        measured += ". On a CPU one rank runs a compiled program, and several do not"
    return [f"{line}.", f"{record.technique}: against one rank: {measured}."]


def _mib(values: Sequence[int | None]) -> str:
    return ", ".join("?" if value is None else f"{value / 2**20:.1f}" for value in values)


def _shares(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.0%}" for value in values)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f}"


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else f"{value:{form}}"


def _interval(estimate: Estimate, form: str) -> str:
    half = (estimate.high - estimate.low) / 2
    return _number(estimate.value, form) + ("" if math.isnan(half) else f" ±{half:{form.lstrip('+')}}")
