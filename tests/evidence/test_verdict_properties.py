"""The rule that names what to deploy, by what must hold for any records."""

import math
from dataclasses import replace
from typing import Any

from candidates import MIB, SAME, job, row, worse
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import MEASUREMENT, RECORD

from udaciheadline.evidence.gains import job_ratio
from udaciheadline.evidence.verdict import GOALS, Budget, Decision, Limit, decide
from udaciheadline.records import Estimate, Record, Verdict

NAMES = ("baseline", "compiled", "pruned", "int8", "nf4")


@st.composite
def rows(draw: st.DrawFn, name: str) -> Record:
    speed = draw(st.floats(0.2, 9))
    nll = draw(st.sampled_from((0.0, -0.1, 0.004, 0.02, 0.3)))
    rate = draw(st.floats(1, 500))
    paired = draw(st.booleans())
    assert RECORD.throughput is not None
    return row(
        name,
        speed,
        speed * draw(st.floats(0.001, 0.5)),
        peak=draw(st.integers(300, 600)),
        weights=draw(st.integers(1, 20)),
        throughput=replace(
            RECORD.throughput,
            headlines_per_second=rate,
            speed_up=Estimate(speed, 0.8 * speed, 1.2 * speed) if paired and name != "kv-cache" else None,
        ),
        status=draw(st.sampled_from(("ok", "ok", "ok", "crash"))),
        verdicts=[Verdict("rouge1", draw(st.sampled_from(("pass", "pass", "fail"))), 0.9, 0.97, "kept")],
        **worse(nll, draw(st.floats(0, 0.05))),
    )


@st.composite
def sessions(draw: st.DrawFn) -> list[Record]:
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1))
    reference = [replace(draw(rows("kv-cache")), scores=SAME)] if draw(st.booleans()) else []
    return [*reference, *(draw(rows(name)) for name in names)]


@st.composite
def budgets(draw: st.DrawFn) -> Budget:
    limits = {
        "p99": st.floats(0.01, 0.5),
        "memory": st.floats(300.0 * MIB, 600.0 * MIB),
        "nll": st.floats(-0.1, 0.3),
        "rate": st.floats(1, 500),
    }
    chosen = draw(st.lists(st.sampled_from(sorted(limits)), unique=True))
    return Budget(draw(st.sampled_from(GOALS)), tuple(Limit(name, draw(limits[name]), name) for name in chosen))


def in_the_running(decision: Decision) -> set[str]:
    return {s.technique for s in decision.standings if s.state not in ("excluded", "not run")}


@settings(deadline=None)
@given(sessions(), budgets())
def test_every_row_has_one_standing_in_the_order_of_the_records_and_what_is_deployed_is_one_of_them(
    records: list[Record], budget: Budget
) -> None:
    found = decide(records, budget)
    assert [s.technique for s in found.standings] == [r.technique for r in records]
    assert {s.technique for s in found.standings if s.state in ("deploy", "undecided")} == set(found.candidates)
    assert ([found.technique] == list(found.candidates)) or found.technique is None
    assert set(found.candidates) <= in_the_running(found)


@settings(deadline=None)
@given(sessions(), budgets(), st.randoms(use_true_random=False))
def test_the_order_of_the_records_does_not_matter(records: list[Record], budget: Budget, random: Any) -> None:
    shuffled = list(records)
    random.shuffle(shuffled)
    first, second = decide(records, budget), decide(shuffled, budget)
    assert (first.technique, first.candidates, first.sentence) == (second.technique, second.candidates, second.sentence)
    assert set(first.standings) == set(second.standings)


@settings(deadline=None)
@given(sessions(), budgets(), st.sampled_from(NAMES))
def test_a_dominated_row_never_wins(records: list[Record], budget: Budget, name: str) -> None:
    """Beside any row, one that is better in everything for certain keeps it from being deployed."""
    for record in records:
        if record.technique == name and record.status == "ok":
            m, s, t = record.measurement, record.scores, record.throughput
            assert m is not None and s is not None and t is not None  # noqa: PT018
            assert record.memory is not None and record.build is not None  # noqa: PT018
            high = 3 * m.speed_up.high
            reference = next((r for r in records if r.technique == "kv-cache" and r.status == "ok"), None)
            job = job_ratio(record, reference)
            most = 3 * job.high if job else high
            better = row(
                "better",
                high,
                0.0,
                peak=int((record.memory.peak_bytes or 0) / MIB / 2),
                weights=record.build.weights_bytes / MIB / 2,
                scores=replace(s, nll_difference=Estimate(*[s.nll_difference.low - 0.01] * 3)),
                throughput=replace(t, headlines_per_second=9 * t.headlines_per_second, speed_up=Estimate(*[most] * 3)),
            )
            found = decide([*records, better], budget)
            assert name not in found.candidates


@settings(deadline=None)
@given(sessions(), budgets(), st.floats(1, 3))
def test_loosening_a_budget_never_loses_a_candidate(records: list[Record], budget: Budget, factor: float) -> None:
    for i, limit in enumerate(budget.limits):
        looser = limit.bound / factor if limit.metric == "rate" else limit.bound + abs(limit.bound) * (factor - 1)
        limits = (*budget.limits[:i], replace(limit, bound=looser), *budget.limits[i + 1 :])
        loose = decide(records, replace(budget, limits=limits))
        assert in_the_running(decide(records, budget)) <= in_the_running(loose)
        without = replace(budget, limits=(*budget.limits[:i], *budget.limits[i + 1 :]))
        assert in_the_running(loose) <= in_the_running(decide(records, without))


@settings(deadline=None)
@given(
    st.floats(1.5, 9), st.lists(st.floats(-1, 1), min_size=2, max_size=5), st.floats(0.01, 0.2), st.sampled_from(GOALS)
)
def test_noise_alone_never_decides(speed: float, errors: list[float], noise: float, goal: str) -> None:
    """Rows that are one program, each measured with an error that its interval has in it."""
    truth = math.log(speed)
    assert RECORD.throughput is not None
    twins = []
    for name, error in zip(NAMES, errors, strict=False):
        measured = [math.exp(truth + error * noise + side * noise) for side in (0, -1, 1)]
        throughput = replace(RECORD.throughput, headlines_per_second=100.0, speed_up=Estimate(*measured))
        twin = row(name, throughput=throughput, peak=round(200 * (1 + 0.04 * error)))
        twins.append(replace(twin, measurement=replace(MEASUREMENT, speed_up=Estimate(*measured))))
    found = decide([job("kv-cache", 100), *twins], Budget(goal))
    assert found.technique in (None, "kv-cache")
    if goal != "memory" and math.log(speed) > 3 * noise:
        assert set(found.candidates) == {twin.technique for twin in twins}
