"""What every picture stands on: an SVG whose text stays text and whose colours are variables of the page's style sheet,
axes of a size in pixels, and their scales.

Every picture is as wide as a telephone (`WIDTH`, in the pixels of its view box), so that on one its letters have the
size of the page's; a wider page scales it up. The same figures make the same bytes. matplotlib is imported where
something is drawn, and none of its global state is kept or used.
"""

import io
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from udaciheadline.report.labels import FAINT, GREY, INK, LETTER, SMALL, VARIABLES

WIDTH = 380
_TEXT = 10.0

Draw = Callable[[Any], None]


@dataclass(frozen=True)
class Axis:
    """What is along an axis; on a `logarithmic` one, equal ratios are equal lengths, where values differ enough. No
    less than `least` is shown, so that nothing looks large that does not matter."""

    label: str
    logarithmic: bool = False
    least: float = 0.0


def svg(salt: str, height: float, draw: Draw) -> str:
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


def new_axes(figure: Any, box: tuple[float, float, float, float]) -> Any:
    """Axes at (left, bottom, width, height), in pixels."""
    width, height = 72 * figure.get_size_inches()
    left, bottom, across, up = box
    axes = figure.add_axes((left / width, bottom / height, across / width, up / height))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=3, labelsize=SMALL)
    axes.xaxis.label.set_size(SMALL)
    axes.yaxis.label.set_size(SMALL)
    return axes


def scale(axis: Any, what: Axis, values: Sequence[float], room: float) -> None:
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


def name_lines(axes: Any, names: Sequence[str], count: int) -> None:
    """The first line on top, its name at the left."""
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0, labelsize=_TEXT)
    if not names:
        axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def names_width(names: Mapping[str, object] | Sequence[str]) -> float:
    return 12 + _TEXT * LETTER * max(map(len, names))
