"""One line that says which technique is at what, how far, and how long it will still take."""

import time
from collections.abc import Callable


class Progress:
    """Writes progress with `write`: over one line again and again on a terminal, else a line now and then.

    The time left is that of all techniques, guessed from the share of the work that is done.
    """

    def __init__(self, write: Callable[[str], None], techniques: int, is_terminal: bool) -> None:
        self._write, self._techniques, self._is_terminal = write, techniques, is_terminal
        self._start = self._shown = time.monotonic()
        self._ended, self._share = 0, 0.0
        self._line = ""

    def __call__(self, technique: str, doing: str, done: int, of: int) -> None:
        """Shows that `technique` is at `doing`, `done` of `of` articles."""
        now = time.monotonic()
        if now - self._shown < (0.1 if self._is_terminal else 10) and doing != "building":
            return
        self._shown = now
        if doing == "measuring":  # the longest part; what comes after it counts as done
            self._share = done / of
        share = (self._ended + self._share) / self._techniques
        left = f", {(now - self._start) * (1 - share) / share:.0f} s left" if share > 0 else ""
        articles = f" {done + 1} of {of} articles" if of > 1 else ""
        line = f"[{min(self._ended + 1, self._techniques)}/{self._techniques}] {technique}: {doing}{articles}{left}"
        if self._is_terminal:
            self._write("\r" + line.ljust(len(self._line)))
        else:
            self._write("\n" + line + "\n")
        self._line = line

    def technique_ended(self) -> None:
        """Counts one technique as done."""
        self._ended, self._share = self._ended + 1, 0.0
