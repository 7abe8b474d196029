"""The pictures of the report as SVG: text stays text, and its colours are variables of the page's style sheet.

Every picture is as wide as a telephone (`WIDTH`, in the pixels of its view box), so that on one its letters have the
size of the page's; a wider page scales it up. Shapes, fillings and names carry what colours do. The same figures make
the same bytes. matplotlib is imported where something is drawn, and none of its global state is kept or used.
"""

import io
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from udaciheadline.records import Estimate, Timeline
from udaciheadline.report import labels
from udaciheadline.report.labels import ACCENT, FAINT, GREY, INK, LETTER, PAPER, SMALL, VARIABLES
from udaciheadline.report.numbers import number

WIDTH = 380
_TEXT = 10.0

Draw = Callable[[Any], None]


@dataclass(frozen=True)
class Point:
    """One row in a plane; `on_front` where no other row is better on both axes."""

    name: str
    x: Estimate
    y: Estimate
    on_front: bool


@dataclass(frozen=True)
class Axis:
    """What is along an axis; on a `logarithmic` one, equal ratios are equal lengths, where values differ enough. No
    less than `least` is shown, so that nothing looks large that does not matter."""

    label: str
    logarithmic: bool = False
    least: float = 0.0


def plane(salt: str, points: Sequence[Point], x: Axis, y: Axis) -> str:
    """Rows in a plane: filled circles on the front, joined by steps; hollow grey ones off it. Whiskers are 95 %
    intervals."""
    height = 300

    def draw(figure: Any) -> None:
        axes = _axes(figure, (60, 44, WIDTH - 78, height - 56))
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
        _scale(axes.xaxis, x, [v for p in points for v in _ends(p.x)], room=0.08)
        _scale(axes.yaxis, y, [v for p in points for v in _ends(p.y)], room=0.12)
        labels.place(axes, [labels.Name(p.name, _ends(p.x), _ends(p.y), p.on_front) for p in points])

    return _svg(salt, height, draw)


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
    left, gap, line = _names_width([name for name, _ in rows]), 12, 20 if len(panels) == 1 else 30
    top, bottom = 8, 40
    height = top + bottom + line * len(rows)
    values_at_right = 100 if len(panels) == 1 else 0
    panel = (WIDTH - left - 16 - values_at_right - gap * (len(panels) - 1)) / len(panels)

    def draw(figure: Any) -> None:
        for panel_number, label in enumerate(panels):
            axes = _axes(figure, (left + panel_number * (panel + gap), bottom, panel, line * len(rows)))
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
            _scale(axes.xaxis, label, [no_effect, *(v for _, e in found for v in _ends(e))], room=0.06)
            _name_lines(axes, [name for name, _ in rows] if not panel_number else [], len(rows))

    return _svg(salt, height, draw)


def distributions(
    salt: str, curves: Mapping[str, Sequence[float]], beside: Mapping[str, Sequence[float]], label: Axis
) -> str:
    """A strip a row: the share of its values up to each one (from 0 at the strip's foot to 1 at its head). The middle
    one is a dot, the largest a stroke; what is `beside` it is dashed."""
    strip, top, bottom = 34, 6, 40
    left = _names_width(curves)
    height = top + bottom + strip * len(curves)

    def draw(figure: Any) -> None:
        axes = _axes(figure, (left, bottom, WIDTH - left - 12, strip * len(curves)))
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
        _scale(
            axes.xaxis,
            label,
            [value for both in (curves, beside) for values in both.values() for value in values],
            room=0.04,
        )
        _name_lines(axes, list(curves), len(curves))

    return _svg(salt, height, draw)


def bars(salt: str, shares: Mapping[str, float], label: str) -> str:
    """A bar a row, from 0 to 1, with its share as text."""
    line, top, bottom, left = 20, 6, 40, _names_width(shares)
    height = top + bottom + line * len(shares)

    def draw(figure: Any) -> None:
        axes = _axes(figure, (left, bottom, WIDTH - left - 56, line * len(shares)))
        axes.barh(range(len(shares)), [1] * len(shares), height=0.55, color=PAPER, edgecolor=FAINT, linewidth=1)
        axes.barh(range(len(shares)), list(shares.values()), height=0.55, color=ACCENT)
        for i, share in enumerate(shares.values()):
            axes.annotate(
                f"{number(100 * share, '.1f')} %", (1, i), (8, 0), xycoords=axes.get_yaxis_transform(), **_beside
            )
        axes.set_xlim(0, max(1, *shares.values()))
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        axes.set_xlabel(label)
        _name_lines(axes, list(shares), len(shares))

    return _svg(salt, height, draw)


def stages(salt: str, timeline: Timeline) -> str:
    """A line a rank, from the start to the end: a box with the number of the micro-batch that it worked on."""
    count, line, top, bottom, left = len(timeline.ranks), 26, 6, 40, 48
    height = top + bottom + line * count
    moment = 1000 * timeline.seconds / len(timeline.ranks[0])

    def draw(figure: Any) -> None:
        axes = _axes(figure, (left, bottom, WIDTH - left - 12, line * count))
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
        _name_lines(axes, [f"rank {i}" for i in range(count)], count)

    return _svg(salt, height, draw)


# -- how they are drawn ------------------------------------------------------------------------------------------------

_beside: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": SMALL, "color": INK}
_below: dict[str, Any] = _beside | {"va": "top", "ha": "center", "bbox": {"color": PAPER, "pad": 0.5}}


def _svg(salt: str, height: float, draw: Draw) -> str:
    """What `draw` puts on a figure, as an element for a page: no size of its own, ids of its own (they begin with
    `salt`), colours as variables."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells of its fonts and folders, on a first start
    import matplotlib
    from matplotlib.figure import Figure

    settings: Any = {
        "svg.fonttype": "none", "svg.hashsalt": salt, "text.parse_math": False, "font.family": "sans-serif",
        "font.size": _TEXT, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": GREY, "xtick.color": GREY,
        "ytick.color": GREY, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    }  # fmt: skip
    out = io.StringIO()
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
        draw(figure)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub("<svg.*?>", f'<svg viewBox="0 0 {WIDTH} {height:g}">', svg, count=1, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{salt}-', svg)
    svg = re.sub(r'(xlink:)?href="#', f'href="#{salt}-', svg)
    svg = svg.replace("url(#", f"url(#{salt}-")
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)  # the face is the page's
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg.strip()


def _axes(figure: Any, box: tuple[float, float, float, float]) -> Any:
    """Axes at (left, bottom, width, height), in pixels."""
    width, height = 72 * figure.get_size_inches()
    left, bottom, across, up = box
    axes = figure.add_axes((left / width, bottom / height, across / width, up / height))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=3, labelsize=SMALL)
    axes.xaxis.label.set_size(SMALL)
    axes.yaxis.label.set_size(SMALL)
    return axes


def _scale(axis: Any, what: Axis, values: Sequence[float], room: float) -> None:
    """Label, limits with some room beside the values, and few ticks as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = min(values), max(values)
    is_logarithmic = what.logarithmic and low > 0 and high > 3 * low
    axis.set_label_text(what.label + " (logarithmic)" * is_logarithmic)
    limits = axis.axes.set_xlim if axis.axis_name == "x" else axis.axes.set_ylim
    if is_logarithmic:
        (axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale)("log")
        margin = (high / low) ** room
        limits(low / margin, high * margin)
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 40 * low else (1, 3) if high < 1000 * low else (1,)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        margin = max(room * (high - low), (what.least - high + low) / 2) or 0.1 * abs(high) or 1
        limits(low - margin, high + margin)
        axis.set_major_locator(MaxNLocator(5 if axis.axes.get_window_extent().width > 180 else 3))
    axis.grid(True, color=FAINT, linewidth=0.5)
    axis.axes.set_axisbelow(True)


def _name_lines(axes: Any, names: Sequence[str], count: int) -> None:
    """The first line on top, its name at the left."""
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0, labelsize=_TEXT)
    if not names:
        axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def _names_width(names: Mapping[str, object] | Sequence[str]) -> float:
    return 12 + _TEXT * LETTER * max(map(len, names))


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
