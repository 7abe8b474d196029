"""What was measured, and what it proves: pure functions of times, tokens and scores.

Others use `measure` (what a timed run amounts to), `profiling` (what ranks cost each other), `quality` (ROUGE, with
`rouge`, likelihood and parity), `statistics` (intervals and tests) and `gates` (thresholds and verdicts).
"""

__all__ = ["gates", "measure", "profiling", "quality", "statistics"]
