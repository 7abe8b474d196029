"""Models: found, loaded, divided over ranks, grown to true sizes, and trained.

Others use `models` (finds and loads a checkpoint), `division` (what each rank gets of it), `growth` (the shapes
that the embedded models, in `embedded/`, can be grown to) and `train` (which made those).
"""

__all__ = ["division", "growth", "models", "train"]
