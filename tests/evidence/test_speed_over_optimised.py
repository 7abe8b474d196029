"""The gate of a row's speed beside that of the row that it is there to make faster."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from judged import evidence

from udaciheadline.evidence.gates import Optimised, Thresholds, judge, load_gates, require_tables
from udaciheadline.records import Estimate, UsageError, Verdict
from udaciheadline.techniques import REFERENCE, techniques

GATES = Path(__file__).parents[2] / "bench" / "gates.toml"


def verdict(over: Estimate | None, why_not: str = "", least: float = 1.0) -> Verdict:
    looked_at = evidence(speed_up=Estimate(9.0, 8.5, 9.5), optimised=Optimised("compiled", over, why_not))
    (found,) = judge(Thresholds(speed_over_optimised_min=least), looked_at)
    return found


@pytest.mark.parametrize(
    ("interval", "status"),
    [
        ((1.5, 1.4, 1.6), "pass"),
        ((1.1, 0.9, 1.3), "pass"),
        ((0.98, 0.9, 1.06), "inconclusive"),
        ((0.9, 0.85, 0.95), "fail"),
    ],
    ids=["faster", "faster, perhaps", "slower, perhaps", "slower"],
)
def test_it_fails_only_where_the_whole_interval_is_below(interval: tuple[float, ...], status: str) -> None:
    assert verdict(Estimate(*interval)).status == status


def test_a_lower_threshold_allows_a_loss() -> None:
    assert verdict(Estimate(0.98, 0.975, 0.985), least=0.97).status == "pass"


def test_the_message_names_both_rows_and_their_figures() -> None:
    assert verdict(Estimate(0.9, 0.85, 0.95)).message == (
        "0.90x the speed of compiled (95 % interval 0.85 to 0.95; 9.00x against 10.00x that of kv-cache), at least 1 "
        "required"
    )


def test_what_is_within_chance_names_the_option_that_tells() -> None:
    assert verdict(Estimate(0.98, 0.9, 1.06)).message.endswith("but within chance: measure more --launches")


def test_without_the_other_row_it_is_not_judged_and_says_why() -> None:
    found = verdict(None, "has no speed (oom: no memory is left)")
    assert found.status == "not judged"
    assert found.message == "compiled, which it optimises, has no speed (oom: no memory is left)"


def test_without_an_interval_it_is_not_judged() -> None:
    assert verdict(Estimate(0.5, math.nan, math.nan)).status == "not judged"


def test_a_threshold_that_would_judge_nothing_is_refused(tmp_path: Path) -> None:
    thresholds = {"reference": Thresholds(), "compiled": Thresholds(speed_over_optimised_min=1.0)}
    with pytest.raises(UsageError, match=r"\[compiled\] makes no other row than kv-cache faster: give speed_up_min"):
        require_tables(thresholds, [techniques()["compiled"]], tmp_path)
    require_tables(thresholds, [replace(techniques()["compiled"], optimises="baseline")], tmp_path)


def test_every_row_of_the_compiled_engine_that_optimises_another_has_to_beat_it() -> None:
    tables = load_gates(GATES)
    optimising = {n for n, t in techniques().items() if t.engines == ("compiled",) and t.optimises != REFERENCE}
    assert {name for name in optimising if tables[name].speed_over_optimised_min is None} == set()
