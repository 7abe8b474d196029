"""What a run says.

Others use `verdict`, `table` and, on request, `details` (the end of a run, on the terminal, in `colour`), `page` (the
same and more as files: HTML and Markdown), `comparison` (of two runs), `progress` (while it lasts) and `timeline` (a
profile as text). Inside, `figures` are the pictures with their numbers, which `plots` draws and `labels` names,
`headlines` what was written, `findings` sentences on each technique, `values` what both take from a row, and `numbers`
how the page writes figures.
"""

__all__ = ["colour", "comparison", "details", "page", "progress", "table", "timeline", "verdict"]
