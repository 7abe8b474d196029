"""Our own greedy decode loop, on a Llama of our own: launches and Python taken away, so that a token costs what the
hardware needs for it.

Others use `CompiledEngine`, `check`, which says whether it can run a model, and `calibrate_once`, which chooses weights
of few bits (`calibration`) and keeps them (`kept`). Inside, from what a job sees to what a token sees: `loop` sends
texts through rows; `rows` holds the texts in flight, as they are or in C++ for a CPU (`native` builds `cpu/`, of
`packed` weights), and `graphs` as CUDA graphs, whose `step` launches the `kernels` and the `products`, divided into
`tiles`; `llama` is the model, of one of the `families`, and `attention` has the angles of its tokens' positions.
`speculation` is a text whose tokens are drafted, by one of the `drafts`, and checked together (`extend`). Of several
ranks, `stages` are rows of some layers, `ranks` and `peers` what ranks with a part of each layer tell each other.
"""

from udaciheadline.engines.compiled.families import check
from udaciheadline.engines.compiled.kept import calibrate_once
from udaciheadline.engines.compiled.loop import CompiledEngine

__all__ = ["CompiledEngine", "calibrate_once", "check"]
