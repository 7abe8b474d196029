"""The table at the end of a run: what a decision needs, in 100 columns. And headlines to look at.

All other figures are in `details`, and in `results.csv`.
"""

import math
from collections.abc import Mapping, Sequence

from udaciheadline.evidence.measure import P99_MIN_COUNT
from udaciheadline.evidence.statistics import ONE_PROCESS
from udaciheadline.evidence.verdict import Decision
from udaciheadline.evidence.wording import beside_optimised, over_optimised, ratio
from udaciheadline.records import Article, Estimate, Record, Scores
from udaciheadline.report.colour import Paint, by_state, plain
from udaciheadline.techniques import REFERENCE

COPY_TITLE = "Copy the description"
WIDTH = 100
_NAME = 17  # that of the longest technique of ours; a longer one is cut

_COLUMNS: tuple[tuple[str, str], ...] = (
    ("technique", ""),
    ("avg", "ms"),
    ("p99", "ms"),
    ("x " + REFERENCE, ""),
    ("offline", "/s"),
    ("peak", "MiB"),
    ("ROUGE-1", "change"),
    ("NLL", "nats"),
    ("verdict", ""),
)


def table(
    records: Sequence[Record], decision: Decision, copy_rouge: Mapping[str, Estimate], paint: Paint = plain
) -> str:
    """The rows as text, no wider than `WIDTH`, then what explains the columns, and what failed."""
    shown = [record for record in records if record.status != "skipped"]
    states = {standing.technique: standing.state for standing in decision.standings}
    rows = [[name for name, _ in _COLUMNS], [unit for _, unit in _COLUMNS]]
    rows += [_row(record, states[record.technique]) for record in shown]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:-1], widths[1:-1]), row[-1]]).rstrip() for row in rows
    ]
    rule = "-" * max(map(len, lines))
    body = [by_state(line, states[record.technique], paint) for line, record in zip(lines[2:], shown, strict=True)]
    return "\n".join([*lines[:2], rule, *body, "", *_legend(shown, copy_rouge), *_findings(records, paint)])


def _row(record: Record, state: str) -> list[str]:
    name = record.technique
    cells = {"technique": name if len(name) <= _NAME else name[: _NAME - 1] + "…"}
    cells["verdict"] = record.status if record.status != "ok" else state
    if (m := record.measurement) is not None:
        cells["avg"] = number(m.average_seconds * 1000)
        cells["p99"] = number(m.p99_seconds * 1000) + ("" if m.p99_is_reliable else "*")
        cells["x " + REFERENCE] = ratio(m.speed_up)
    if (t := record.throughput) is not None:
        cells["offline"] = number(t.headlines_per_second, 0 if t.headlines_per_second >= 10 else 1)
    if (memory := record.memory) is not None and (peak := memory.peak_bytes):
        cells["peak"] = number(peak / 2**20, 0)
    if (s := record.widest_scores) is not None:
        cells["ROUGE-1"] = _difference(s.rouge_difference["rouge1"])
        cells["NLL"] = _change(s.nll_difference.value)
    return [cells.get(name, "") for name, _ in _COLUMNS]


def number(value: float, decimals: int = 1) -> str:
    """A number of at most six characters."""
    if abs(value) >= 999_999.5:
        return f"{value:.1e}".replace("e+0", "e").replace("e+", "e")
    return f"{value:.{decimals if abs(value) < 9999.95 else 0}f}"


def _difference(estimate: Estimate) -> str:
    half = (estimate.high - estimate.low) / 2
    return _change(estimate.value) + ("" if math.isnan(half) else f" ±{half:.3f}".replace("±0", "±"))


def _change(value: float) -> str:
    if math.isnan(value):
        return "-"
    shown = f"{round(value, 3) + 0.0:+.3f}" if abs(value) < 9.9995 else f"{value:+.1e}"
    return shown.replace("+0.", "+.").replace("-0.", "-.")


def _legend(records: Sequence[Record], copy_rouge: Mapping[str, Estimate]) -> list[str]:
    """What the columns mean, of those that have something in them."""
    lines = []
    measured = {record.technique: record.measurement for record in records if record.measurement}
    if measured:
        n = span([measurement.count for measurement in measured.values()])
        star = "" if all(m.p99_is_reliable for m in measured.values()) else f" *: of fewer than {P99_MIN_COUNT} values."
        lines.append(f"avg, p99: of a headline, one article at a time, n = {n}.{star}")
        alone = sum(measurement.launches == 1 for measurement in measured.values())
        unknown = f"plus {ONE_PROCESS - 1:.0%}"  # for how two processes may differ
        over = f"in one process, {unknown} for how two may differ"
        if alone < len(measured):
            over = "over fresh processes of both" + (f" ({alone} rows: one, {unknown})" if alone else "")
        lines.append(f"x {REFERENCE}: how many times as fast, paired article by article.")
        lines.append(f"±: half a 95 % interval; of speed {over}.")
    if any(record.throughput for record in records):
        lines.append("offline: headlines a second, all articles as one job.")
    on_gpu = any(record.memory and record.memory.device_allocated_peak_bytes for record in records)
    if any(record.memory for record in records):
        where = "allocated on all GPUs" if on_gpu else "resident memory of the process, libraries included"
        lines.append(f"peak: {where}.")
    if any(record.widest_scores for record in records):
        lines += _quality([record.widest_scores for record in records if record.widest_scores])
        lines += _copying(records, copy_rouge["rouge1"])
    lines.append("slower: behind in what --goal prefers. All figures: --details, or results.csv.")
    return lines


def _quality(scores: Sequence[Scores]) -> list[str]:
    """On how many articles it was judged, and what those would find."""
    line = f"ROUGE-1, NLL: against {REFERENCE}, n = {span([s.articles for s in scores])}"
    losses = [s.rouge1_detectable_loss for s in scores if 0 < s.rouge1_detectable_loss < math.inf]
    return [line + (f"; a loss of {max(losses):.3f} ROUGE-1 is found (80 % power)." if losses else ".")]


def _copying(records: Sequence[Record], copied: Estimate) -> list[str]:
    """What ROUGE-1 is had for no work at all, beside the reference's on the same articles: those that are timed."""
    if math.isnan(copied.value):
        return []
    line = f"ROUGE-1 of the description is {copied.value:.3f}"
    own = next((record.scores for record in records if record.technique == REFERENCE and record.scores), None)
    line += f", of {REFERENCE} {own.rouge['rouge1'].value:.3f}" if own else ""
    return [line + (" (timed articles)." if any(record.job_scores for record in records) else ".")]


def span(counts: Sequence[int]) -> str:
    """The least and the most of them."""
    least, most = min(counts), max(counts)
    return f"{least}" if least == most else f"{least} to {most}"


def _findings(records: Sequence[Record], paint: Paint) -> list[str]:
    """What went wrong: each failed gate and each row that broke off, or is slower than the one that it is there to make
    faster, has a line; what is open, and what was skipped, has one together."""
    lines = []
    for record in records:
        if record.status not in ("ok", "skipped"):
            lines.append(paint(f"{record.technique}: {record.status}: {record.reason}.", "red"))
        lines += [f"{record.technique}: {what}." for what in record.disturbances]
        if (over := over_optimised(record)) is not None and over[1].high < 1:
            lines.append(paint(f"{record.technique}: {beside_optimised(record)}.", "yellow"))
        failed = [verdict for verdict in record.verdicts if verdict.status == "fail"]
        is_slower = (over := over_optimised(record)) is not None and over[1].high < 1
        if is_slower and not any(verdict.gate == "optimises" for verdict in failed):
            lines.append(paint(f"{record.technique}: {beside_optimised(record)}.", "yellow"))
        lines += [paint(f"{record.technique}: {v.gate}: fail: {v.message.splitlines()[0]}", "red") for v in failed]
    open_ = [f"{record.technique} {', '.join(record.open_gates)}" for record in records if record.open_gates]
    if open_:
        lines.append(f"Gates that are open (~, why: --details): {'; '.join(open_)}.")
    skipped: dict[str, list[str]] = {}
    for record in records:
        if record.status == "skipped":
            skipped.setdefault(record.reason, []).append(record.technique)
    if skipped:
        lines.append("Skipped: " + "; ".join(f"{', '.join(names)} ({why})" for why, names in skipped.items()) + ".")
    return lines


def samples(articles: Sequence[Article], headlines: Mapping[str, Sequence[str]], count: int = 3) -> str:
    """The first few articles with what each technique wrote: those that wrote the same share a line."""
    lines = []
    for i, article in enumerate(articles[:count]):
        wrote: dict[str, list[str]] = {}
        for title, made in headlines.items():
            if i < len(made):
                wrote.setdefault(made[i], []).append(title)
        lines += ["", article.short_description, f"  true headline: {article.headline}"]
        for headline, titles in wrote.items():
            by = "all" if len(titles) == len(headlines) > 1 else "; ".join(titles)
            lines.append(f"  {headline}  ({by})")
    return "\n".join(lines)
