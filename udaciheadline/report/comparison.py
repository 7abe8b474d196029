"""What changed from one run to another: for a terminal, and as Markdown for the summary of a CI job."""

import math

from udaciheadline.evidence.compare import BY_CHANCE, NOT_JUDGED, REGRESSION, SAME, Change, Comparison
from udaciheadline.records import Estimate
from udaciheadline.techniques import REFERENCE

_COLUMNS = ("technique", "what", "before", "now", "change", "detectable", "verdict")
_FASTER = ("speed", "rate", "job speed")
_WORSE = dict.fromkeys(_FASTER, "slower") | {"weights": "larger", "peak": "larger", "status": "lost"}
_BETTER = dict.fromkeys(_FASTER, "faster") | {"weights": "smaller", "peak": "smaller"}
_SIZES = ("weights", "peak")
_DIFFERENCES = ("ROUGE-1", "NLL")


def text(comparison: Comparison) -> str:
    """For a terminal of 100 columns."""
    rows = [_COLUMNS, *map(_cells, comparison.changes)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), row[1].ljust(widths[1]), *map(str.rjust, row[2:], widths[2:])]).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join([*lines, "", *_sentences(comparison)])


def markdown(comparison: Comparison) -> str:
    """For a job summary: the conclusion first."""
    conclusion, *others = _sentences(comparison)
    rows = [_COLUMNS, ("---",) * len(_COLUMNS), *map(_cells, comparison.changes)]
    table = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    return "\n".join([f"## {conclusion}", "", *table, "", *(f"- {line}" for line in others), ""])


def _sentences(comparison: Comparison) -> list[str]:
    found = comparison.regressions
    worse = ", ".join(f"{change.technique} {_verdict(change)}" for change in found)
    lines = [f"{len(found)} regressions: {worse}." if found else "No regression."]
    lines[0] += f" Run {comparison.after} against {comparison.before}."
    lines += [f"{c.technique}: {c.reason}." for c in found if c.reason]
    if any(change.verdict == BY_CHANCE for change in comparison.changes):
        lines.append(
            "~: beyond what is allowed, and within chance: measure with more --launches (speed) or "
            "--quality-articles (others; with --against: --articles)."
        )
    if unjudged := [change for change in comparison.changes if change.verdict == NOT_JUDGED]:
        reasons = dict.fromkeys(change.reason for change in unjudged)
        lines += [
            f"Not judged ({', '.join(f'{c.technique} {c.metric}' for c in unjudged if c.reason == reason)}): {reason}."
            for reason in reasons
        ]
    lines.append(
        f"Speed: times {REFERENCE}'s of the same session; rate: headlines a second; weights and peak: MiB. "
        "Change: with its 95 % interval. Detectable: the loss that is found with 80 % power."
    )
    return lines + comparison.notes


def _cells(change: Change) -> tuple[str, ...]:
    as_share = change.metric not in _DIFFERENCES
    detectable = "" if math.isnan(change.detectable) else _figure(change.detectable, as_share)
    if change.metric == "status":
        return change.technique, change.metric, "ok", change.reason.partition(":")[0], "", "", _verdict(change)
    values = (_value(change.metric, value) for value in (change.before, change.after))
    return change.technique, change.metric, *values, _change(change.change, as_share), detectable, _verdict(change)


def _verdict(change: Change) -> str:
    if change.verdict in (SAME, NOT_JUDGED, BY_CHANCE):
        return {SAME: "", BY_CHANCE: "~"}.get(change.verdict, change.verdict)
    names, otherwise = (_WORSE, "worse") if change.verdict == REGRESSION else (_BETTER, "better")
    word = names.get(change.metric, f"{otherwise} {change.metric}" if change.metric in _DIFFERENCES else otherwise)
    return word.upper() if change.verdict == REGRESSION else word


def _value(metric: str, value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value / 2**20:.1f}" if metric in _SIZES else f"{value:.3f}" if metric in _DIFFERENCES else f"{value:.2f}"


def _change(estimate: Estimate, as_share: bool) -> str:
    if math.isnan(estimate.value):
        return "-"
    half = (estimate.high - estimate.low) / 2
    value = estimate.value + 0.0  # not -0
    shown = f"{100 * value:+.1f} %" if as_share else f"{value:+.4f}"
    return shown if math.isnan(half) or not half else f"{shown} ±{_figure(half, as_share)}"


def _figure(value: float, as_share: bool) -> str:
    return f"{100 * value:.1f} %" if as_share else f"{value:.4f}"
