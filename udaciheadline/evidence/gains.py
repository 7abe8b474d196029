"""What a row gains over the reference, with what chance leaves open; and when one row is better than another one.

All gains are such that more is better and that differences are what counts: ratios as logarithms, quality as it is.
Speeds and quality are paired article by article and bring their intervals. Others have none, and get one here: an
offline rate that was not paired with the reference's (`UNPAIRED`), and peaks (`compare.Margins`), since two processes
of one program differ in both.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from udaciheadline.evidence.budget import peak_bytes, weights_bytes
from udaciheadline.evidence.compare import Margins
from udaciheadline.records import Estimate, Record
from udaciheadline.techniques import REFERENCE

WORTH = math.log(1.02)
"""A row pays where it is faster, or smaller, than the reference by more than this for certain."""

UNPAIRED = 1.5
"""What two rates of one session, measured in one process each and not in turn, may differ by on a quiet machine without
meaning it: as far apart were the ratio of two such rates and the paired one in a session on two cores (see
docs/evidence.md)."""

DECISIVE = {"interactive": ("speed",), "offline": ("rate",), "memory": ("peak", "weights")}
"""What a goal prefers, first things first."""

_MARGINS = Margins()
_DOES_NOT_MATTER = {
    "speed": _MARGINS.speed,
    "rate": _MARGINS.speed,
    "peak": _MARGINS.peak,
    "weights": _MARGINS.weights,
    "rouge1": _MARGINS.rouge1,
    "nll": _MARGINS.nll,
}
_ALWAYS = ("peak", "weights", "rouge1", "nll")
_QUALITY = ("rouge1", "nll")
_NOTHING = Estimate(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Gains:
    """Those of one row, by name: "speed" of one article at a time, "rate" of a job, "peak" and "weights" of memory,
    "rouge1" and "nll" of quality. What was not measured is missing. `in_turn` is its speed over rows that answered in
    turn with it, which says more than the way by the reference."""

    technique: str
    by_name: Mapping[str, Estimate]
    in_turn: Mapping[str, Estimate] = field(default_factory=dict)

    def get(self, name: str) -> Estimate | None:
        """One of them."""
        return self.by_name.get(name)

    def is_better(self, other: "Gains", name: str) -> bool:
        """Whether it is better than the other one for certain: their intervals do not overlap, or that of the ratio of
        two that answered in turn is above 1."""
        own, theirs = self.get(name), other.get(name)
        if name == "speed" and (ratio := self.over(other)) is not None:
            return ratio.low > 0
        return own is not None and theirs is not None and own.low > theirs.high

    def over(self, other: "Gains") -> Estimate | None:
        """The logarithm of its speed over that of a row that answered in turn with it."""
        if other.technique in self.in_turn:
            return self.in_turn[other.technique]
        if (ratio := other.in_turn.get(self.technique)) is None:
            return None
        return Estimate(-ratio.value, -ratio.high, -ratio.low)

    def pays(self, reference: "Gains", names: Iterable[str], least: float = WORTH) -> bool:
        """Whether it gains more than `least` over the reference in one of these for certain."""
        for name in names:
            own, theirs = self.get(name), reference.get(name)
            if own is not None and own.low - (theirs.high if theirs else 0.0) > least:
                return True
        return False

    def pays_in_anything(self, reference: "Gains", goal: str) -> bool:
        """In speed (for this goal), memory or quality."""
        if self.pays(reference, {*DECISIVE[goal], "peak", "weights"}):
            return True
        return any(self.pays(reference, [name], _DOES_NOT_MATTER[name]) for name in _QUALITY)

    def dominates(self, other: "Gains", goal: str) -> bool:
        """Whether it is as good in all that counts for this goal, by what was measured and up to what does not matter,
        better in something for certain, and worse in nothing for certain. What was measured of the other row only
        leaves it open."""
        better = False
        for name in dict.fromkeys((*DECISIVE[goal], *_ALWAYS)):
            own, theirs = self.get(name), other.get(name)
            if theirs is None:
                continue
            if own is None or own.value < theirs.value - _DOES_NOT_MATTER[name] or other.is_better(self, name):
                return False
            better = better or self.is_better(other, name)
        return better


def gains(record: Record, reference: Record | None) -> Gains:
    """What a row gains over the `reference`, the row of that name (None: only what was paired with it is known)."""
    is_reference = record.technique == REFERENCE
    found: dict[str, Estimate | None] = {}
    if (m := record.measurement) is not None:
        found["speed"] = _NOTHING if is_reference else _logarithm(m.speed_up)
    if record.throughput is not None:
        ratio = job_ratio(record, reference)
        found["rate"] = _NOTHING if is_reference else ratio and _logarithm(ratio)
    if reference is not None:
        on_gpu = record.memory is not None and sum(record.memory.device_allocated_peak_bytes) > 0
        spread = _MARGINS.weights if on_gpu else _MARGINS.peak
        found["peak"] = _smaller(*like_peaks(record, reference), spread)
        found["weights"] = _smaller(weights_bytes(record), weights_bytes(reference), 0.0)
    if (s := record.widest_scores) is not None:
        nll, rouge1 = s.nll_difference, s.rouge_difference["rouge1"]
        found["nll"] = _open(Estimate(-nll.value, -nll.high, -nll.low))
        found["rouge1"] = _open(rouge1)
    known = {name: gain for name, gain in found.items() if gain is not None}
    return Gains(record.technique, known, in_turn(record))


def like_peaks(record: Record, reference: Record | None) -> tuple[int | None, int | None]:
    """The peaks of a row and of the reference in bytes, where they can be compared: that of a row which has jobs only
    is of a whole job, all others' of one article."""
    if reference is None or (record.measurement is None) != (reference.measurement is None):
        return None, None
    return peak_bytes(record), peak_bytes(reference)


def in_turn(record: Record) -> dict[str, Estimate]:
    """The logarithms of the row's speed over those that answered in turn with it; all other ratios between rows go by
    way of the reference."""
    over = {name: _logarithm(record.speed_up_over[name]) for name in record.in_turn if name in record.speed_up_over}
    return {name: ratio for name, ratio in over.items() if ratio is not None}


def best(rows: Sequence[Gains], names: Iterable[str]) -> list[Gains]:
    """Those that no other is better than for certain by the first of these names, and of them by the next. What one of
    them was not measured by, it is last in."""
    left = list(rows)
    for name in names:
        measured = [row for row in left if row.get(name)]
        left = [row for row in measured if not any(other.is_better(row, name) for other in measured)] or left
    return left


def job_ratio(record: Record, reference: Record | None) -> Estimate | None:
    """A row's rate of a job over the reference's: paired, or else that of two jobs of different minutes. Of these is
    known how fast the reference answered in the minutes of both rows: the ratio is corrected by how far that moved, and
    its interval is `UNPAIRED` and so much wider."""
    if record.throughput is None:
        return None
    if record.throughput.speed_up is not None:
        return record.throughput.speed_up
    if reference is None or reference.throughput is None:
        return None
    ratio, drift = record.throughput.headlines_per_second / reference.throughput.headlines_per_second, 1.0
    if record.measurement and reference.measurement:
        now, then = record.measurement.reference_average_seconds, reference.measurement.reference_average_seconds
        drift = now / then if now > 0 and then > 0 else 1.0
    ratio, spread = ratio * drift, UNPAIRED * max(drift, 1 / drift)
    return Estimate(ratio, ratio / spread, ratio * spread)


def _smaller(own: int | None, reference: int | None, spread: float) -> Estimate | None:
    """`spread` is what two rows must differ by to differ for certain."""
    if not own or not reference:
        return None
    gain = math.log(reference / own)
    return Estimate(gain, gain - spread / 2, gain + spread / 2)


def _logarithm(ratio: Estimate) -> Estimate | None:
    if not 0 < ratio.value < math.inf:
        return None
    bounds = (math.log(bound) if 0 < bound < math.inf else math.nan for bound in (ratio.low, ratio.high))
    return _open(Estimate(math.log(ratio.value), *bounds))


def _open(estimate: Estimate) -> Estimate | None:
    """Bounds that are not known are nowhere; no value, no gain."""
    if math.isnan(estimate.value):
        return None
    low = -math.inf if math.isnan(estimate.low) else estimate.low
    return Estimate(estimate.value, low, math.inf if math.isnan(estimate.high) else estimate.high)
