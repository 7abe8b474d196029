"""Rows to choose from."""

from dataclasses import replace
from typing import Any

from rows import MEASUREMENT, OFFLINE, RECORD, SCORES

from udaciheadline.evidence.verdict import Budget, Decision, parse_budget
from udaciheadline.records import BuildInfo, Estimate, Memory, Record

MIB = 2**20
SAME = replace(
    SCORES,
    identical_share=1.0,
    rouge_difference=dict.fromkeys(SCORES.rouge, Estimate(0.0, 0.0, 0.0)),
    nll_difference=Estimate(0.0, 0.0, 0.0),
)


def row(
    name: str, speed: float = 1.0, half: float = 0.1, *, peak: int = 400, weights: int = 8, **changes: Any
) -> Record:
    """A row that writes the reference's headlines; memory in MiB."""
    measurement = replace(MEASUREMENT, speed_up=Estimate(speed, speed - half, speed + half), p99_seconds=0.1 / speed)
    record = replace(
        RECORD,
        technique=name,
        measurement=measurement,
        memory=Memory((), (), peak * MIB),
        build=BuildInfo(1000, weights * MIB),
        scores=SAME,
        settings={"model_name": "embedded", "prompt": "notebook", "articles": 8, "dtype": "float32"},
        environment={"threads": "2"},
    )
    return replace(record, **changes)


def worse(nll: float, half: float = 0.01) -> dict[str, Any]:
    return {"scores": replace(SAME, identical_share=0.5, nll_difference=Estimate(nll, nll - half, nll + half))}


REFERENCE = row("kv-cache", 1.02, 0.2)
COMPILED = row("compiled", 6.7, 0.8, peak=474)
INT8 = row("int8", 0.4, 0.03, weights=4, **worse(0.001))


def states(decision: Decision) -> dict[str, str]:
    return {standing.technique: standing.state for standing in decision.standings}


def why(decision: Decision, technique: str) -> str:
    return next(standing.why for standing in decision.standings if standing.technique == technique)


def limited(text: str, goal: str = "interactive") -> Budget:
    return parse_budget(text, goal)


def job(name: str, rate: float, speed_up: Estimate | None = None) -> Record:
    assert OFFLINE.throughput is not None
    made = row(name, throughput=replace(OFFLINE.throughput, headlines_per_second=rate, speed_up=speed_up))
    return made if speed_up is None else replace(made, measurement=None)
