"""What a run says.

Others use `verdict`, `table` and, on request, `details` (the end of a run, on the terminal, in `colour`), `comparison`
(of two runs), `progress` (while it lasts) and `timeline` (a profile as text).
"""

__all__ = ["colour", "comparison", "details", "progress", "table", "timeline", "verdict"]
