"""The newsroom's job: a file of articles in, their headlines out, on the technique that a run has told to deploy.

Others use `options` (what the command takes, without what it needs to run) and `command` (the whole of it). Inside,
`incoming` is the articles on their way to the engine, `headlines` the file that is written, and `job` what goes on at
the same time.
"""

__all__ = ["command", "options"]
