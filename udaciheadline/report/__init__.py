"""What a run says.

Others use `table` (the end of a run, on the terminal), `progress` (while it lasts) and `timeline` (a profile as text).
"""

__all__ = ["progress", "table", "timeline"]
