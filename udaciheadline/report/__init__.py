"""What a run says.

Others use `table` (the end of a run, on the terminal), `comparison` (of two runs), `progress` (while it lasts) and
`timeline` (a profile as text).
"""

__all__ = ["comparison", "progress", "table", "timeline"]
