"""What goes in: articles, and the prompts that are made of them.

Others use `articles` (reads a dataset), `sources` (its rows, as they are), `prompts` (what a model is asked, and where
its headline is), and `newswire`, the invented news, of which `embedded.jsonl` is the dataset that a run has where it is
given no other. `lfs` tells a file from git-lfs's pointer to it, for data and weights alike.
"""

__all__ = ["articles", "lfs", "newswire", "prompts", "sources"]
