"""One run of the suite, from its options to what it leaves.

Others use `session` (all of it, as pytest drives it), `row` (one technique while it is measured), `store` (what is left
in the folder of results), `runs` (those of earlier sessions, and baselines), `saved` (the same for the comparison
that pytest-benchmark has) and `options` (those that a job takes, too). Inside, `run` is what rows share, `engine` the
row's own, `rounds` who answers when, `jobs` all articles at once, `other_code` the row beside itself in that, and
`scoring` what the headlines are worth.
"""

__all__ = ["options", "row", "runs", "saved", "session", "store"]
