"""What was measured, and what it proves: pure functions of times, tokens and scores.

Others use `measure` (what a timed run amounts to), `profiling` (what ranks cost each other), `quality` (ROUGE, with
`rouge`, likelihood and parity), `statistics` (intervals and tests), `gates` (thresholds and whether a row keeps them),
`compare` (one session with another), `gains` (over the reference) and `verdict` (which technique to deploy, by
`budget`; `wording` says it).
"""

__all__ = ["compare", "gains", "gates", "measure", "profiling", "quality", "statistics", "verdict", "wording"]
