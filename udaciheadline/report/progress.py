"""One line that says which technique is at what, how far, and how long it will still take."""

import time
from collections.abc import Callable, Sequence
from statistics import median_low

SURE_SHARE = 0.5  # of a technique, from which on it says itself how long it takes


class Progress:
    """Writes progress with `write`: over one line again and again on a terminal, else a line now and then.

    `sizes` says of each technique, in order, how much there is to do, as a share of what there is for most. The time
    left is that of the technique at work, by what is done of it, and for each to come what a technique of its size took
    so far, in the middle: the mean would take the one without a cache for an example.
    """

    def __init__(self, write: Callable[[str], None], sizes: Sequence[float], is_terminal: bool) -> None:
        self._write, self._sizes, self._is_terminal = write, sizes, is_terminal
        self._began = self._shown = time.monotonic()  # the technique at work
        self._share = 0.0  # what is done of it
        self._took: list[float] = []  # seconds, by technique, for the whole size
        self._line = ""

    def __call__(self, technique: str, doing: str, done: int, of: int) -> None:
        """Shows that `technique` is at `doing`, `done` of `of` articles."""
        if doing == "measuring":  # the longest part; what comes after it counts as done
            self._share = done / of
        now = time.monotonic()
        if now - self._shown < (0.1 if self._is_terminal else 10) and doing != "building":
            return
        self._shown = now
        seconds = self._left(now)
        left = f", {seconds:.0f} s left" if seconds is not None else ""
        articles = f" {done + 1} of {of} articles" if of > 1 else ""
        count = len(self._sizes)
        line = f"[{min(len(self._took) + 1, count)}/{count}] {technique}: {doing}{articles}{left}"
        if self._is_terminal:
            self._write("\r" + line.ljust(len(self._line)))
        else:
            self._write("\n" + line + "\n")
        self._line = line

    def technique_ended(self) -> None:
        """Counts one technique as done."""
        now = time.monotonic()
        self._took.append((now - self._began) / self._sizes[len(self._took)])
        self._began, self._share = now, 0.0

    def _left(self, now: float) -> float | None:
        """The seconds left for all techniques, None where nothing is known yet."""
        spent = now - self._began
        size, *to_come = self._sizes[len(self._took) :] or [0.0]
        if self._took:
            usual = median_low(self._took)
        elif self._share:
            usual = spent / self._share / size
        else:
            return None
        # Of the first articles, building and warming up are most of the time; behind the last, there is more to do.
        whole = max(usual * size, spent / self._share if self._share >= SURE_SHARE else 0.0)
        return max(whole - spent, 0.0) + usual * sum(to_come)


def per_second(rate: float) -> str:
    """A rate, with a digit behind the point where it is small."""
    return f"{rate:,.0f}/s" if rate >= 100 else f"{rate:.1f}/s"


class JobProgress:
    """How far a job is: on a terminal over one line again and again, else a line every ten seconds. `share` is that of
    the articles' source which is behind it, if that is known, when it begins and later."""

    def __init__(self, write: Callable[[str], object], is_terminal: bool, share: float | None) -> None:
        self._write, self._is_terminal = write, is_terminal
        self._began = self._shown = time.monotonic()
        self._first_share = share or 0.0
        self._done = 0
        self._line = ""

    def __call__(self, count: int, share: float | None) -> None:
        """Shows that so many more articles are done, and the share that is behind it now."""
        self._done += count
        now = time.monotonic()
        if now - self._shown < (0.1 if self._is_terminal else 10):
            return
        self._shown = now
        seconds = now - self._began
        line = f"{self._done:,} articles, {per_second(self._done / seconds)}"
        if share is not None and share > self._first_share:
            left = seconds * (1 - share) / (share - self._first_share)
            line += f", {share:.0%}, {left:.0f} s left"
        self._write("\r" + line.ljust(len(self._line)) if self._is_terminal else f"{line}\n")
        self._line = line

    def end(self) -> None:
        """Leaves the line, for what comes after it."""
        if self._is_terminal and self._line:
            self._write("\n")
