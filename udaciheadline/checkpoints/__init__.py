"""Models: found, loaded, divided over ranks, grown to true sizes, and trained.

Others use `models` (finds a checkpoint with `finding`, unpacks a GGUF file with `gguf`, and loads), `division` (what
each rank gets of it), `growth` (the shapes that the embedded models, in `embedded/`, can be grown to) and `train`
(which made those).
"""

__all__ = ["division", "growth", "models", "train"]
