"""Which technique to deploy: one pure function of the records of a session and a budget.

A row that failed a gate or breaks a limit is excluded. Of the others, a row is better than another by what the goal
prefers only where their intervals part, so noise alone decides nothing. The reference stays unless a row gains on it
for certain, since a change costs work. Where several are left, one that is as good in everything and better in
something for certain decides (`gains.Gains.dominates`); else it is undecided, and the sentence says how many more
articles or launches would tell.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from udaciheadline.evidence import wording
from udaciheadline.evidence.budget import (
    GOALS,
    METRICS,
    Budget,
    Held,
    Limit,
    budget_of,
    certainly_held,
    held,
    parse_budget,
)
from udaciheadline.evidence.gains import DECISIVE, Gains, best, gains
from udaciheadline.evidence.measure import P99_MIN_COUNT
from udaciheadline.records import Record
from udaciheadline.techniques import REFERENCE

DEFAULT = Budget()

__all__ = [
    "GOALS",
    "METRICS",
    "Budget",
    "Decision",
    "Limit",
    "Standing",
    "budget_of",
    "decide",
    "pareto",
    "parse_budget",
]


@dataclass(frozen=True)
class Standing:
    """One row's place: `state` is "deploy", "undecided", "excluded" (by a limit, a gate, or since what the goal prefers
    was not measured), "dominated", "not worth it" (it pays in nothing), "slower" (it loses on the goal), "reference" or
    "not run"; `why` is one sentence without the row's name and full stop."""

    technique: str
    state: str
    why: str


@dataclass(frozen=True)
class Decision:
    """What to deploy.

    `technique` is that (None: nothing keeps the limits, or undecided: then `candidates` has several). `sentence` is the
    answer in one sentence; `regime` says of what it is true. `standings` are one a record, in the order of the records;
    `notes` are sentences on what a reader of the answer must know beside it.
    """

    budget: Budget
    technique: str | None
    candidates: tuple[str, ...]
    sentence: str
    regime: str
    standings: tuple[Standing, ...]
    notes: tuple[str, ...] = ()


def decide(records: Sequence[Record], budget: Budget = DEFAULT) -> Decision:
    """The answer to which technique to deploy, of the rows of one session: pure, and the same in any order of them."""
    rows = sorted(records, key=lambda record: record.technique)
    found = _Rule(rows, budget).decision()
    order = {standing.technique: standing for standing in found.standings}
    return replace(found, standings=tuple(order[record.technique] for record in records))


def pareto(
    records: Sequence[Record], cost: Callable[[Record], float | None], loss: Callable[[Record], float | None]
) -> set[str]:
    """The names of the rows that no other dominates, by `cost` and `loss` as measured (smaller is better in both). A
    row without one of them is not among them; rows that are alike are all."""
    points = {record.technique: (cost(record), loss(record)) for record in records}
    known = {name: (c, d) for name, (c, d) in points.items() if c is not None and d is not None}
    known = {name: point for name, point in known.items() if not any(map(math.isnan, point))}

    def is_dominated(point: tuple[float, float]) -> bool:
        return any(other != point and other[0] <= point[0] and other[1] <= point[1] for other in known.values())

    return {name for name, point in known.items() if not is_dominated(point)}


class _Rule:
    """The rule at work on the rows of one session."""

    def __init__(self, records: Sequence[Record], budget: Budget) -> None:
        self._budget, self._goal = budget, budget.goal
        self._records: Mapping[str, Record] = {record.technique: record for record in records}
        reference = self._records.get(REFERENCE)
        self._reference = reference if reference and reference.status == "ok" else None
        self._gains = {name: gains(record, self._reference) for name, record in self._records.items()}
        self._out: dict[str, Standing] = {}
        self._doubtful: dict[str, tuple[Limit, str]] = {}
        self._limited: set[str] = set()  # those that break a limit
        for name, record in self._records.items():
            if standing := self._excluded(record):
                self._out[name] = standing
        self._in = [self._gains[name] for name in self._records if name not in self._out]

    def _excluded(self, record: Record) -> Standing | None:
        name = record.technique
        if record.status != "ok":
            return Standing(name, "not run", f"{record.status}: {record.reason}")
        failed = [v for v in record.verdicts if v.status == "fail"]
        if failed:
            why = "; ".join(f"{v.gate}: {v.message.splitlines()[0]}" for v in failed)
            return Standing(name, "excluded", f"it fails its {'gates' if len(failed) > 1 else 'gate'} {why}")
        broken = []
        for limit in self._budget.limits:
            state, words = held(record, limit)
            if state in (Held.BROKEN, Held.NOT_MEASURED):
                broken.append(words)
            elif state is Held.DOUBTFUL:
                self._doubtful.setdefault(name, (limit, words))
        if broken:
            self._limited.add(name)
            return Standing(name, "excluded", "; ".join(broken))
        if self._gains[name].get(DECISIVE[self._goal][0]) is None:
            return Standing(name, "excluded", wording.not_measured(record, self._goal, self._reference is not None))
        return None

    @property
    def _base(self) -> Gains:
        """The reference's gains over itself."""
        return self._gains[REFERENCE] if self._reference else Gains(REFERENCE, {})

    def _contenders(self) -> list[Gains]:
        """Of the rows that keep the limits, the reference and those that gain on it for certain, by what the goal
        prefers or without any loss; all, where it is the reference that breaks a limit."""
        if REFERENCE in self._limited:
            return self._in
        return [
            row
            for row in self._in
            if row.technique == REFERENCE
            or row.pays(self._base, DECISIVE[self._goal])
            or (row.dominates(self._base, self._goal) and row.pays_in_anything(self._base, self._goal))
        ]

    def _winners(self, rows: Sequence[Gains]) -> list[Gains]:
        """What is left of these rows: one, several that nothing tells apart, or none. None of them is dominated, but
        where each is: then those that dominate them are among them."""
        first = best(rows, DECISIVE[self._goal])
        free = [row for row in first if not any(other.dominates(row, self._goal) for other in rows)]
        if free or not first:
            return free
        return [row for row in rows if row in first or any(row.dominates(other, self._goal) for other in first)]

    def decision(self) -> Decision:
        contenders = self._contenders()
        winners = self._winners(contenders)
        if any(row.technique in self._doubtful for row in winners):
            sure = self._winners([row for row in contenders if row.technique not in self._doubtful])
            winners += [row for row in sure if row not in winners]
        first = DECISIVE[self._goal][0]
        winners.sort(key=lambda row: (-gain.value if (gain := row.get(first)) else 0.0, row.technique))
        names = tuple(row.technique for row in winners)
        chosen = names[0] if len(names) == 1 and names[0] not in self._doubtful else None
        standings = tuple(self._standing(name, chosen, names) for name in self._records)
        return Decision(
            self._budget,
            chosen,
            names,
            self._sentence(chosen, names),
            wording.regime(list(self._records.values()), self._goal),
            standings,
            tuple(self._notes(names)),
        )

    def _standing(self, name: str, chosen: str | None, candidates: tuple[str, ...]) -> Standing:
        if name in self._out:
            return self._out[name]
        record, own = self._records[name], self._gains[name]
        figures = wording.gain(record, self._goal, self._reference)
        if name == chosen:
            return Standing(name, "deploy", figures)
        if name in candidates:
            doubt = f"; {self._doubtful[name][1]}" if name in self._doubtful else ""
            return Standing(name, "undecided", figures + doubt)
        if name == REFERENCE:
            return Standing(name, "reference", "what all rows are compared with")
        more = wording.perhaps(record, own, self._goal)
        if not own.pays_in_anything(self._base, self._goal):
            return Standing(name, "not worth it", f"{figures}, and no less memory for certain{more}")
        better = [row.technique for row in self._in if row.dominates(own, self._goal)]
        if better:
            by = next((candidate for candidate in candidates if candidate in better), better[0])
            return Standing(name, "dominated", f"{figures}: {by} is as good in all, and better in something")
        pays = wording.pays(record, self._reference, [n for n in own.by_name if own.pays(self._base, [n])])
        return Standing(name, "slower", f"{figures}{more}{pays}")

    def _sentence(self, chosen: str | None, names: tuple[str, ...]) -> str:
        nothing = wording.nothing_better(self._goal, bool(self._budget.limits), len(self._in) - (chosen is not None))
        if chosen == REFERENCE:
            return f"deploy {REFERENCE}: {nothing}"
        if chosen:
            return f"deploy {chosen}: {wording.answer(self._records[chosen], self._goal, self._reference)}"
        if names:
            doubt = next(((name, *self._doubtful[name]) for name in names if name in self._doubtful), None)
            rows = [(self._records[name], self._gains[name]) for name in names]
            return wording.undecided(rows, self._goal, doubt)
        if self._in and self._reference and REFERENCE in self._out:
            return f"nothing to deploy: {REFERENCE} is excluded, and {nothing}"
        if self._in:
            return f"keep {REFERENCE}: {nothing}"
        if all(standing.state == "not run" for standing in self._out.values()):
            return "no verdict: no row was measured to its end"
        if self._limited:
            limits = ", ".join(limit.text for limit in self._budget.limits)
            if unknown := self._measured_nowhere():
                return f"nothing to deploy: {unknown}"
            return f"nothing to deploy: no row that could be chosen keeps the limits ({limits})"
        return "nothing to deploy: no row that was measured for this goal passes its gates"

    def _measured_nowhere(self) -> str:
        """Of a limit whose figure no row has, that this is so; nothing where there is none."""
        rows = [record for record in self._records.values() if record.status == "ok"]
        for limit in self._budget.limits:
            found = [held(record, limit) for record in rows]
            if all(state is Held.NOT_MEASURED for state, _ in found):
                return found[0][1]
        return ""

    def _notes(self, names: tuple[str, ...]) -> list[str]:
        notes = []
        for name in names:
            record = self._records[name]
            for limit in self._budget.limits:
                if limit.metric == "p99" and record.measurement and not record.measurement.p99_is_reliable:
                    few = f"{record.measurement.count} articles, and of fewer than {P99_MIN_COUNT}"
                    notes.append(f"{name}: {limit.text} is kept by {few} a p99 has no upper bound.")
                elif name not in self._doubtful and not certainly_held(record, limit):
                    notes.append(f"{name}: {limit.text} is kept, but not for certain: measure more --quality-articles.")
            if record.open_gates:
                notes.append(f"{name}: open: {', '.join(record.open_gates)}.")
        return notes
