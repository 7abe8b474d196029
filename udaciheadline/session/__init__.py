"""One run of the suite, from its options to what it leaves.

Others use `session` (all of it, as pytest drives it), `row` (one technique while it is measured) and `saved` (earlier
runs beside this one). Inside, `run` is what rows share, `rounds` who answers when, `store` what is left in the folder
of results.
"""

__all__ = ["row", "saved", "session"]
