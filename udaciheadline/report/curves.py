"""What more articles at a time give each row: the table of `--details`, and the picture of the report."""

from collections.abc import Sequence
from functools import partial

from udaciheadline.evidence.wording import short
from udaciheadline.records import BatchCurve, Record
from udaciheadline.report import plots
from udaciheadline.report.canvas import Axis
from udaciheadline.report.figures import Figure
from udaciheadline.report.numbers import rate, times
from udaciheadline.techniques import REFERENCE, techniques

_READING = (
    "The articles are repeated where there are fewer than in a batch. {mark}: as many as the row's jobs took, which is "
    "what was found to be fastest unless --batch-size says otherwise. Rows were measured one after the other: what the "
    "machine drifts between them is in their ratios."
)


def table(records: Sequence[Record]) -> list[str]:
    """Headlines a second by how many articles at a time, a line a row, and below those of a row that optimises another
    one how many times as many that is; then what was left out. Nothing where no curve was measured."""
    curves = _curves(records)
    if not curves:
        return []
    sizes = _sizes(list(curves.values()))
    rows = [["headlines/s, at a time", *map(str, sizes)]]
    for name, curve in curves.items():
        best = curve.job_batch_size
        found = {p.batch_size: short(p.headlines_per_second) + "*" * (p.batch_size == best) for p in curve.points}
        rows.append([name, *(found.get(size, "") for size in sizes)])
        ratios = {p.batch_size: short(p.times_optimised) for p in curve.points if p.times_optimised is not None}
        if ratios and (other := _optimised(name)) != REFERENCE:
            rows.append([f"  x {other}", *(ratios.get(size, "") for size in sizes)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    return ["", *lines, _READING.format(mark="*"), *(f"{name}: {left}." for name, left in _left_out(curves).items())]


def batch_curves(records: Sequence[Record]) -> Figure | None:
    """The same as a picture: a line a row."""
    curves = {name: curve for name, curve in _curves(records).items() if curve.points}
    if not curves:
        return None
    sizes, left_out = _sizes(list(curves.values())), _left_out(curves)
    on_compiled = {record.technique for record in records if record.engine == "compiled"}
    lines = [
        plots.Curve(
            name,
            [(float(p.batch_size), p.headlines_per_second) for p in curve.points],
            curve.job_batch_size,
            name in on_compiled,
        )
        for name, curve in curves.items()
    ]
    rows = []
    for name, curve in curves.items():
        found = {p.batch_size: rate(p.headlines_per_second) for p in curve.points}
        rows.append((name, *(found.get(size, "-") for size in sizes), left_out.get(name, "")))
    return Figure(
        "batch-curves",
        "Headlines a second by articles at a time",
        f"{_READING.format(mark='Filled')} Solid: on the compiled engine. Dashed: on transformers.",
        "Line chart",
        " ".join([_most(curves), *_ratios(curves)]),
        partial(
            plots.growth,
            "batch-curves",
            lines,
            Axis("articles at a time", logarithmic=True),
            Axis("headlines a second", logarithmic=True),
        ),
        ("technique", *map(str, sizes), "left out"),
        tuple(rows),
    )


def _most(curves: dict[str, BatchCurve]) -> str:
    """Which row writes most, with how many at a time."""
    name, point = max(
        ((name, point) for name, curve in curves.items() for point in curve.points),
        key=lambda found: found[1].headlines_per_second,
    )
    most = rate(point.headlines_per_second)
    return f"The most is what {name} writes with {point.batch_size} at a time: {most} headlines a second."


def _ratios(curves: dict[str, BatchCurve]) -> list[str]:
    """How many times the rate of the row that it optimises each has, by articles at a time: a sentence each."""
    lines = []
    for name, curve in curves.items():
        known = [(p.batch_size, p.times_optimised) for p in curve.points if p.times_optimised is not None]
        if known and (other := _optimised(name)) != REFERENCE:
            parts = ", ".join(f"{times(ratio)} with {size}" for size, ratio in known)
            lines.append(f"{name} has {parts} at a time, times the rate of {other}, which it optimises.")
    return lines


def _curves(records: Sequence[Record]) -> dict[str, BatchCurve]:
    return {record.technique: record.batch_curve for record in records if record.batch_curve}


def _sizes(curves: Sequence[BatchCurve]) -> list[int]:
    return sorted({point.batch_size for curve in curves for point in curve.points})


def _left_out(curves: dict[str, BatchCurve]) -> dict[str, str]:
    """What of each row was not measured, by its name, where there is any."""
    found = {}
    for name, curve in curves.items():
        if curve.left_out:
            found[name] = "; ".join(f"{size} at a time: {why}" for size, why in curve.left_out)
    return found


def _optimised(name: str) -> str:
    technique = techniques().get(name)
    return technique.optimises if technique else REFERENCE
