"""The pictures of the report, drawn on a `canvas`. Shapes, fillings and names carry what colours do."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from udaciheadline.records import Estimate, Timeline
from udaciheadline.report import labels
from udaciheadline.report.canvas import WIDTH, Axis, name_lines, names_width, new_axes, scale, svg
from udaciheadline.report.labels import ACCENT, FAINT, GREY, INK, PAPER, SMALL
from udaciheadline.report.numbers import number


@dataclass(frozen=True)
class Point:
    """One row in a plane; `on_front` where no other row is better on both axes."""

    name: str
    x: Estimate
    y: Estimate
    on_front: bool


@dataclass(frozen=True)
class Curve:
    """One row's line: its (x, y) points from left to right, and the x of the one that is `best`, if any."""

    name: str
    points: Sequence[tuple[float, float]]
    best: float | None
    stands_out: bool


def plane(salt: str, points: Sequence[Point], x: Axis, y: Axis) -> str:
    """Rows in a plane: filled circles on the front, joined by steps; hollow grey ones off it. Whiskers are 95 %
    intervals."""
    height = 300

    def draw(figure: Any) -> None:
        axes = new_axes(figure, (60, 44, WIDTH - 78, height - 56))
        for point in sorted(points, key=lambda point: point.on_front):
            colour = ACCENT if point.on_front else GREY
            axes.errorbar(
                point.x.value, point.y.value, xerr=_whiskers(point.x), yerr=_whiskers(point.y), fmt="o", markersize=7,
                color=colour, ecolor=FAINT if not point.on_front else ACCENT, elinewidth=1, capsize=2,
                markerfacecolor=colour if point.on_front else PAPER, markeredgecolor=colour, markeredgewidth=1.5,
                zorder=3 if point.on_front else 2,
            )  # fmt: skip
        front = sorted((p.x.value, p.y.value) for p in points if p.on_front)
        steps = {"drawstyle": "steps-post", "linestyle": (0, (4, 2))}
        axes.plot(*zip(*front, strict=True), color=ACCENT, linewidth=1, zorder=1, **steps)
        scale(axes.xaxis, x, [v for p in points for v in _ends(p.x)], room=0.08)
        scale(axes.yaxis, y, [v for p in points for v in _ends(p.y)], room=0.12)
        labels.place(axes, [labels.Name(p.name, _ends(p.x), _ends(p.y), p.on_front) for p in points])

    return svg(salt, height, draw)


def forest(
    salt: str,
    rows: Sequence[tuple[str, Sequence[Estimate | None]]],
    panels: Sequence[Axis],
    no_effect: float,
    form: str,
    margins: Sequence[float],
) -> str:
    """A line a row: its name, then in each panel its estimate with the 95 % interval, and the same as text. Filled
    where the interval leaves `no_effect` out and the estimate is further from it than the panel's margin."""
    left, gap, line = names_width([name for name, _ in rows]), 12, 20 if len(panels) == 1 else 30
    top, bottom = 8, 40
    height = top + bottom + line * len(rows)
    values_at_right = 100 if len(panels) == 1 else 0
    panel = (WIDTH - left - 16 - values_at_right - gap * (len(panels) - 1)) / len(panels)

    def draw(figure: Any) -> None:
        for panel_number, label in enumerate(panels):
            axes = new_axes(figure, (left + panel_number * (panel + gap), bottom, panel, line * len(rows)))
            axes.axvline(no_effect, color=INK, linewidth=1, zorder=1)
            found = [(i, e) for i, (_, estimates) in enumerate(rows) if (e := estimates[panel_number]) is not None]
            for i, estimate in found:
                sure = estimate.low > no_effect or estimate.high < no_effect
                sure = sure and abs(estimate.value - no_effect) > margins[panel_number]
                axes.errorbar(
                    estimate.value, i, xerr=_whiskers(estimate), fmt="s" if sure else "o", color=ACCENT, markersize=6,
                    markerfacecolor=ACCENT if sure else PAPER, markeredgewidth=1.5, elinewidth=1.5, capsize=2, zorder=3,
                )  # fmt: skip
                shown = f"{number(estimate.value, form)}{_plus_minus(estimate, form)}"
                if values_at_right:
                    axes.annotate(shown, (1, i), (8, 0), xycoords=axes.get_yaxis_transform(), **_beside)
                else:
                    axes.annotate(shown, (0.5, i), (0, -5), xycoords=axes.get_yaxis_transform(), **_below)
            scale(axes.xaxis, label, [no_effect, *(v for _, e in found for v in _ends(e))], room=0.06)
            name_lines(axes, [name for name, _ in rows] if not panel_number else [], len(rows))

    return svg(salt, height, draw)


def distributions(
    salt: str, curves: Mapping[str, Sequence[float]], beside: Mapping[str, Sequence[float]], label: Axis
) -> str:
    """A strip a row: the share of its values up to each one (from 0 at the strip's foot to 1 at its head). The middle
    one is a dot, the largest a stroke; what is `beside` it is dashed."""
    strip, top, bottom = 34, 6, 40
    left = names_width(curves)
    height = top + bottom + strip * len(curves)

    def draw(figure: Any) -> None:
        axes = new_axes(figure, (left, bottom, WIDTH - left - 12, strip * len(curves)))
        for i, (name, values) in enumerate(curves.items()):
            axes.axhline(i + 0.5, color=FAINT, linewidth=0.5)
            axes.plot(*_steps(beside[name], i), color=GREY, linewidth=1, linestyle=(0, (3, 2)))
            axes.plot(*_steps(values, i), color=ACCENT, linewidth=2)
            middle = sorted(values)[(len(values) - 1) // 2]
            axes.plot(
                middle,
                i + 0.35 - 0.7 * (len(values) // 2 + len(values) % 2) / len(values),
                "o",
                color=ACCENT,
                markersize=5,
            )
            axes.plot(max(values), i - 0.35, "|", color=ACCENT, markersize=9, markeredgewidth=2)
        scale(
            axes.xaxis,
            label,
            [value for both in (curves, beside) for values in both.values() for value in values],
            room=0.04,
        )
        name_lines(axes, list(curves), len(curves))

    return svg(salt, height, draw)


def growth(salt: str, curves: Sequence[Curve], x: Axis, y: Axis) -> str:
    """A line a row through its points, its name at the right, beside the last one. Those that stand out are in the
    accent's colour, the others grey and dashed; a curve's `best` point is filled."""
    height, right, letters = max(300, 60 + 12 * len(curves)), names_width([curve.name for curve in curves]) + 6, 12

    def draw(figure: Any) -> None:
        axes = new_axes(figure, (52, 44, WIDTH - 52 - right, height - 56))
        for curve, marker in zip(curves, cycle("os^Dv"), strict=False):
            colour = ACCENT if curve.stands_out else GREY
            style = {"color": colour, "linewidth": 1.5, "linestyle": "-" if curve.stands_out else (0, (4, 2))}
            axes.plot(*zip(*curve.points, strict=True), **style, zorder=2 + curve.stands_out)
            for point in curve.points:
                filled = colour if point[0] == curve.best else PAPER
                axes.plot(*point, marker, color=colour, markersize=5, markerfacecolor=filled, zorder=4)
        scale(axes.xaxis, x, [point[0] for curve in curves for point in curve.points], room=0.04)
        scale(axes.yaxis, y, [point[1] for curve in curves for point in curve.points], room=0.06)
        if axes.get_xscale() == "log":
            from matplotlib.ticker import LogLocator

            axes.xaxis.set_major_locator(LogLocator(base=4))
        last = {curve.name: axes.transData.transform(curve.points[-1]) for curve in curves}
        at = -math.inf
        highest = axes.get_window_extent().y1 - letters * len(curves)
        for i, name in enumerate(sorted(last, key=lambda name: last[name][1])):
            at = max(min(last[name][1], highest + letters * (i + 1)), at + letters)
            axes.annotate(
                name, last[name], (WIDTH - right + 10, at), xycoords="figure pixels", textcoords="figure pixels",
                va="center", fontsize=SMALL, color=INK, arrowprops=labels.LEADER | {"relpos": (0, 0.5)},
                annotation_clip=False,
            )  # fmt: skip

    return svg(salt, height, draw)


def bars(salt: str, shares: Mapping[str, float], label: str) -> str:
    """A bar a row, from 0 to 1, with its share as text."""
    line, top, bottom, left = 20, 6, 40, names_width(shares)
    height = top + bottom + line * len(shares)

    def draw(figure: Any) -> None:
        axes = new_axes(figure, (left, bottom, WIDTH - left - 56, line * len(shares)))
        axes.barh(range(len(shares)), [1] * len(shares), height=0.55, color=PAPER, edgecolor=FAINT, linewidth=1)
        axes.barh(range(len(shares)), list(shares.values()), height=0.55, color=ACCENT)
        for i, share in enumerate(shares.values()):
            axes.annotate(
                f"{number(100 * share, '.1f')} %", (1, i), (8, 0), xycoords=axes.get_yaxis_transform(), **_beside
            )
        axes.set_xlim(0, max(1, *shares.values()))
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        axes.set_xlabel(label)
        name_lines(axes, list(shares), len(shares))

    return svg(salt, height, draw)


def stages(salt: str, timeline: Timeline) -> str:
    """A line a rank, from the start to the end: a box with the number of the micro-batch that it worked on."""
    count, line, top, bottom, left = len(timeline.ranks), 26, 6, 40, 48
    height = top + bottom + line * count
    moment = 1000 * timeline.seconds / len(timeline.ranks[0])

    def draw(figure: Any) -> None:
        axes = new_axes(figure, (left, bottom, WIDTH - left - 12, line * count))
        for i, rank in enumerate(timeline.ranks):
            for run in re.finditer(r"([^.])\1*", rank):
                start, length = run.start() * moment, (run.end() - run.start()) * moment
                dark = int(run[1]) % 2 if run[1].isdigit() else 0
                axes.barh(
                    i, length, left=start, height=0.7, color=ACCENT if dark else PAPER, edgecolor=ACCENT, linewidth=1
                )
                if run.end() - run.start() > 1:
                    axes.annotate(
                        run[1],
                        (start + length / 2, i),
                        color=PAPER if dark else INK,
                        ha="center",
                        va="center",
                        fontsize=SMALL,
                    )
        axes.set_xlim(0, 1000 * timeline.seconds)
        axes.set_xlabel("milliseconds")
        name_lines(axes, [f"rank {i}" for i in range(count)], count)

    return svg(salt, height, draw)


# -- how they are drawn ------------------------------------------------------------------------------------------------

_beside: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": SMALL, "color": INK}
_below: dict[str, Any] = _beside | {"va": "top", "ha": "center", "bbox": {"color": PAPER, "pad": 0.5}}


def _steps(values: Sequence[float], line: float) -> tuple[list[float], list[float]]:
    """The empirical distribution function of the values as a line of steps, from the foot of a strip to its head."""
    ordered = sorted(values)
    x, y = [ordered[0]], [line + 0.35]
    for i, value in enumerate(ordered, 1):
        x += [value, value]
        y += [y[-1], line + 0.35 - 0.7 * i / len(ordered)]
    return x, y


def _ends(estimate: Estimate) -> list[float]:
    """The lower bound, the value and the upper bound; the value alone, where the bounds are not known."""
    known = math.isfinite(estimate.low) and math.isfinite(estimate.high)
    return [estimate.low, estimate.value, estimate.high] if known else [estimate.value]


def _whiskers(estimate: Estimate) -> list[list[float]] | None:
    low, high = _ends(estimate)[0], _ends(estimate)[-1]
    return [[max(estimate.value - low, 0)], [max(high - estimate.value, 0)]] if high > low else None


def _plus_minus(estimate: Estimate, form: str) -> str:
    half = (estimate.high - estimate.low) / 2
    return "" if math.isnan(half) else f" ±{number(half, form.lstrip('+'))}"
