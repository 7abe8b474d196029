"""Models: found, loaded, divided over ranks, grown to true sizes, and trained.

Others use `models` (finds a checkpoint with `finding`, unpacks a GGUF file with `gguf`, and loads), `division` (what
each rank gets of it), `growth` (the shapes that the embedded models, in `embedded/`, can be grown to), `home` (where
what was found out about a model is kept), `train` (which made the embedded ones) and `fine_tuning` (which trains any
checkpoint on, pruned or not); both have their articles from `examples` and their loop from `trainer`.
"""

__all__ = ["division", "fine_tuning", "growth", "home", "models", "train"]
