"""What was measured, and what it proves: pure functions of times, tokens and scores.

Others use `measure` (what a timed run amounts to), `profiling` (what ranks cost each other), `quality` (ROUGE, with
`rouge`, likelihood and parity), `statistics` (intervals and tests), `gates` (thresholds and verdicts) and
`compare` (one session with another).
"""

__all__ = ["compare", "gates", "measure", "profiling", "quality", "statistics"]
