"""Names beside the points of a picture, and what its ink is: colours that the page's style sheet fills in."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

INK, GREY, FAINT, ACCENT, PAPER = "#010203", "#020304", "#030405", "#040506", "#050607"
VARIABLES = {INK: "ink", GREY: "grey", FAINT: "faint", ACCENT: "accent", PAPER: "paper"}
"""Colours that nobody sees: each stands for a variable of the style sheet."""
SMALL = 9.0
LETTER = 0.58
"""Width of a letter in a sans-serif face, as a share of its size."""
_BOLD = 1.2  # how much wider it is there

_COVERED, _CROSSED = 1000.0, 12.0  # as a distance: what it costs to cover a point or name, and a whisker
LEADER = {"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
"""The line from a name to what it is the name of."""


@dataclass(frozen=True)
class Name:
    """What a point is called, and where it is: its value on each axis, between the ends of its whiskers where it has
    some. The names of those that stand out are bold."""

    text: str
    x: Sequence[float]
    y: Sequence[float]
    stands_out: bool


def place(axes: Any, names: Sequence[Name]) -> None:
    """Writes each name beside its point, where it covers neither another name nor a point or whisker; those far off get
    a line."""
    box = axes.get_window_extent()
    where = [axes.transData.transform((name.x[len(name.x) // 2], name.y[len(name.y) // 2])) for name in names]
    taken = [(x - 5, y - 5, x + 5, y + 5, _COVERED) for x, y in where]
    for name, (x, y) in zip(names, where, strict=True):
        (left, low), (right, high) = axes.transData.transform([(min(name.x), min(name.y)), (max(name.x), max(name.y))])
        taken += [(left, y - 2, right, y + 2, _CROSSED), (x - 2, low, x + 2, high, _CROSSED)]
    for i in sorted(range(len(names)), key=lambda i: (not names[i].stands_out, where[i][0])):
        name, (x, y) = names[i], where[i]
        width = SMALL * LETTER * len(name.text) * (_BOLD if name.stands_out else 1)
        best = min(_places(width), key=lambda place: _cost(place, x, y, width, taken, box))
        left, low = x + best[0], y + best[1]
        taken.append((left, low, left + width, low + SMALL, _COVERED))
        far = math.hypot(left + width / 2 - x, low + SMALL / 2 - y) > 20 + width / 2
        axes.annotate(
            name.text, (x, y), (left, low + SMALL / 2), xycoords="figure pixels", textcoords="figure pixels",
            va="center", fontsize=SMALL, color=INK, weight="bold" if name.stands_out else "normal", zorder=1.5,
            arrowprops=LEADER if far else None, bbox={"color": PAPER, "pad": 0.5},
        )  # fmt: skip


def _places(width: float) -> list[tuple[float, float]]:
    """Where a name may stand: its lower left corner, seen from its point; the nearest first."""
    rows = sorted((step * 11 - SMALL / 2 for step in range(-12, 13)), key=abs)
    return [(dx, dy) for dy in rows for dx in (8, -8 - width, -width / 2) if dx != -width / 2 or abs(dy) > 8]


def _cost(
    place: tuple[float, float], x: float, y: float, width: float, taken: Sequence[tuple[float, ...]], box: Any
) -> float:
    """The distance from the point, and more for every overlap and for what is outside the picture."""
    left, low = x + place[0], y + place[1]
    right, high = left + width, low + SMALL
    outside = left < box.x0 + 2 or right > box.x1 + 8 or low < box.y0 or high > box.y1 + 6
    overlaps = sum(t[4] for t in taken if left < t[2] + 1 and t[0] < right + 1 and low < t[3] and t[1] < high)
    return abs(place[1]) + 0.1 * abs(place[0] + width / 2) + overlaps + 5 * _COVERED * outside
