"""What a run says.

Others use `table` (the end of a run, on the terminal), `page` (the same and more as files: HTML and Markdown),
`comparison` (of two runs), `progress` (while it lasts) and `timeline` (a profile as text). Inside, `figures` are the
pictures with their numbers, which `plots` draws, `headlines` what was written, `findings` sentences on each technique,
and `numbers` how figures are written.
"""

__all__ = ["comparison", "page", "progress", "table", "timeline"]
