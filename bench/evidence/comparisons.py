"""Do comparisons of sessions say what they should? A technique is compared with itself, and with itself made worse.

    for i in $(seq 40); do pytest bench -k latency --technique kv-cache --results FOLDER; done
    python bench/evidence/comparisons.py FOLDER

Every two sessions in the folder are compared as `udaciheadline compare` does it: the noise is this machine's, from
session to session and process to process. A slow-down is planted in the later one's recorded times, in proportion.

Sessions with `--against` the same code are compared with themselves, row by row, in which nothing has changed, and so
are any consecutive launches of them; a slow-down is planted in what the row gained over itself.

With a second folder, of one session of two techniques (the second of them is the damaged one), losses of quality are
planted too: a share of the articles, drawn anew each time, gets the score that the damaged technique had there.

The last table is a simulation: sessions with the drift, the variance between launches and the one within them that
these sessions have, and how many of the 95 % intervals of a speed-up hold the true one.
"""

import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy

from udaciheadline.evidence.compare import IMPROVEMENT, REGRESSION, Comparison, compare
from udaciheadline.evidence.compare import in_turn as beside
from udaciheadline.evidence.statistics import blocks, launch_mean, mean
from udaciheadline.records import PerArticle, Record
from udaciheadline.session.runs import latest, load
from udaciheadline.session.store import SESSIONS

SLOWER, TIMES, SIMULATED = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25), 400, 4000
LOSSES = {"rouge1": (0.0, 0.02, 0.03), "nll": (0.0, 0.01, 0.02)}
COUNTS = (50, 100, 200, 400, 1000)


def per_article(record: Record) -> PerArticle:
    assert record.per_article is not None, f"{record.technique} was not measured"
    return record.per_article


def planted(record: Record, share: float) -> Record:
    """The row when it takes so much more time than it did."""
    found = per_article(record)
    ratios = tuple(ratio - numpy.log1p(share) for ratio in found.log_ratios)
    return replace(record, per_article=replace(found, log_ratios=ratios))


def says(comparison: Comparison, *verdicts: str) -> bool:
    return any(change.verdict in verdicts for change in comparison.changes)


def speed(sessions: Sequence[Record]) -> None:
    pairs = list(itertools.combinations(sessions, 2))
    print(f"{len(sessions)} sessions, {len(pairs)} comparisons of every two of them, {len(sessions) - 1} of neighbours")
    for share in SLOWER:
        found = [compare([a], [planted(b, share)]) for a, b in pairs]
        near = [compare([a], [planted(b, share)]) for a, b in itertools.pairwise(sessions)]
        shown = [next(c for c in comparison.changes if c.metric == "speed") for comparison in found]
        stated = float(numpy.median([change.detectable for change in shown]))
        verdicts = (REGRESSION,) if share else (REGRESSION, IMPROVEMENT)
        print(
            f"  {share:4.0%} slower: {numpy.mean([says(c, *verdicts) for c in found]):6.1%} say so, of neighbours "
            f"{numpy.mean([says(c, *verdicts) for c in near]):6.1%}; stated as found by 80 %: {stated:.1%}"
        )


def in_turn(sessions: Sequence[Sequence[Record]]) -> None:
    for technique in (row.technique for row in sessions[0] if row.other_code):
        rows = [row for session in sessions for row in session if row.technique == technique and row.other_code]
        windows = consecutive(rows)
        print(
            f"{technique}: {len(rows)} sessions, {len(windows)} comparisons of as many consecutive launches as one has"
        )
        for share in SLOWER:
            verdicts = (REGRESSION,) if share else (REGRESSION, IMPROVEMENT)
            found, near = ([beside([_slower_than_itself(row, share)]) for row in some] for some in (windows, rows))
            shown = [next(c for c in comparison.changes if c.metric == "speed") for comparison in found]
            print(
                f"  {share:4.0%} slower: {numpy.mean([says(c, *verdicts) for c in found]):6.1%} say so, of sessions "
                f"{numpy.mean([says(c, *verdicts) for c in near]):6.1%}; stated as found by 80 %: "
                f"{float(numpy.median([change.detectable for change in shown])):.1%}"
            )


def consecutive(rows: Sequence[Record]) -> list[Record]:
    """Rows as they are, but for their speed: that of as many launches as a session has, from each of them on, whichever
    sessions they belong to."""
    launches, size = per_article(rows[0]).launches, len(per_article(rows[0]).log_ratios)
    both: tuple[list[float], list[float]] = [], []
    for row in rows:
        assert row.other_code is not None
        both[0].extend(per_article(row).log_ratios)
        both[1].extend(row.other_code.log_ratios)
    return [
        _with_speed(rows[0], *(tuple(values[start : start + size]) for values in both))
        for start in range(0, len(both[0]) - size + 1, size // launches)
    ]


def _with_speed(row: Record, over_reference: tuple[float, ...], over_itself: tuple[float, ...]) -> Record:
    assert row.other_code is not None
    measured = replace(per_article(row), log_ratios=over_reference)
    return replace(row, per_article=measured, other_code=replace(row.other_code, log_ratios=over_itself))


def _slower_than_itself(row: Record, share: float) -> Record:
    assert row.other_code is not None
    ratios = tuple(ratio - float(numpy.log1p(share)) for ratio in row.other_code.log_ratios)
    return _with_speed(row, per_article(row).log_ratios, ratios)


def quality(rows: Sequence[Record]) -> None:
    good, bad = map(per_article, rows)
    draw = numpy.random.default_rng(0)
    for name, losses in LOSSES.items():
        before, damaged = (numpy.array(getattr(found, name)) for found in (good, bad))
        sign = 1 if name == "rouge1" else -1
        whole = sign * float(numpy.mean(before - damaged))
        print(f"{name}: {rows[1].technique} loses {whole:.4f} on {len(before)} articles")
        for loss in losses:
            found = {
                n: _found(rows[0], name, before, damaged, loss / whole, n, draw) for n in COUNTS if n <= len(before)
            }
            print(f"  {loss:.3f} planted:", ", ".join(f"{share:6.1%} of {n} articles" for n, share in found.items()))


def _found(
    row: Record,
    name: str,
    before: numpy.ndarray,
    damaged: numpy.ndarray,
    share: float,
    count: int,
    draw: numpy.random.Generator,
) -> float:
    """How often a comparison finds the loss, where so large a share of `count` articles has the damaged score."""
    hits = 0
    for _ in range(TIMES):
        chosen = draw.choice(len(before), count, replace=count > len(before))
        then, now = before[chosen], numpy.where(draw.random(count) < share, damaged[chosen], before[chosen])
        other = "nll" if name == "rouge1" else "rouge1"
        sides = [PerArticle((), 1, **{name: tuple(values), other: (0.5,) * count}) for values in (then, now)]
        hits += says(compare(*([replace(row, per_article=side)] for side in sides)), REGRESSION)
    return hits / TIMES


def coverage(sessions: Sequence[Record]) -> None:
    launches, count = per_article(sessions[0]).launches, len(per_article(sessions[0]).log_ratios)
    values = numpy.array([per_article(session).log_ratios for session in sessions])
    means = numpy.array([[v[list(block)].mean() for block in blocks(count, launches)] for v in values])
    within = numpy.array([[v[list(block)].std(ddof=1) for block in blocks(count, launches)] for v in values]).mean()
    of_sessions = means.mean(axis=1).std(ddof=1)
    of_launches = max(means.std(axis=1, ddof=1).mean() ** 2 - within**2 / (count / launches), 0) ** 0.5
    slope = numpy.abs([numpy.polyfit(numpy.linspace(-0.5, 0.5, count), v, 1)[0] for v in values]).mean()
    print(
        f"log ratios: {of_sessions:.3f} from session to session, {of_launches:.3f} from launch to launch, {within:.3f} "
        f"within; drift over a session {slope:.3f} (standard deviations, mean slope)"
    )
    draw = numpy.random.default_rng(0)
    for of in (3, 5, 12):
        simulated = [_session(draw, 60, of, of_launches, within, slope) for _ in range(SIMULATED)]
        over_launches, over_articles = (
            numpy.mean([interval.low <= 0 <= interval.high for interval in intervals])
            for intervals in ([launch_mean(logs, of) for logs in simulated], [mean(logs) for logs in simulated])
        )
        print(f"  {of} launches: the true value is in {over_launches:.1%} of the intervals over launches, in")
        print(f"  {over_articles:.1%} of those over articles")


def _session(
    draw: numpy.random.Generator, count: int, launches: int, between: float, within: float, slope: float
) -> list[float]:
    """The log ratios of a technique against itself: a drift, a launch's own speed, and the noise of each article."""
    logs = slope * numpy.linspace(-0.5, 0.5, count) * draw.choice([-1, 1]) + draw.normal(0, within, count)
    for block in blocks(count, launches):
        logs[list(block)] += draw.normal(0, between)
    return [float(value) for value in logs]


def main(folder: str, damaged: str = "") -> None:
    names = [json.loads(line)["run"] for line in (Path(folder) / SESSIONS).read_text("utf-8").splitlines()]
    all_rows = [load(name, Path(folder)) for name in names]
    if all_rows[0][0].settings.get("against"):
        in_turn(all_rows)
        return
    sessions = [rows[0] for rows in all_rows]
    speed(sessions)
    coverage(sessions)
    if damaged:
        quality(latest(Path(damaged)))


if __name__ == "__main__":
    main(*sys.argv[1:])
