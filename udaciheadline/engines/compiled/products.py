"""The products of a matrix with one vector that a step is made of, in Triton.

Nearly all that a step reads are the matrices, each element once. A product asks for as many of them as its registers
hold, waits for the vector, and multiplies; `tiles.py` chooses how many rows a program has, and how many columns it
reads at a time. A vector is loaded as if it had a row for each of the matrix: a thread then finds in its registers what
it multiplies. Otherwise it goes by way of shared memory, with two barriers for each tile behind the wait.
"""

import triton
import triton.language as tl

from udaciheadline.engines.compiled.kernels import push, take_turn


@triton.jit
def load_tile(at, i: tl.constexpr, row, column, OUT, IN: tl.constexpr, COLUMNS: tl.constexpr, WHOLE: tl.constexpr):
    """Tile i of rows of a matrix (OUT, IN), whose first tile is at `at` (rows, columns); WHOLE: no row is behind the
    last one. Zeros behind the ends, over which only the last tile of a row reaches."""
    if WHOLE and (i + 1) * COLUMNS <= IN:
        weight = tl.load(at + i * COLUMNS)
    else:
        weight = tl.load(at + i * COLUMNS, mask=(row < OUT) & (i * COLUMNS + column < IN), other=0.0)
    return weight


@triton.jit
def load_tiles(at, row, column, OUT, IN: tl.constexpr, COLUMNS: tl.constexpr, WHOLE: tl.constexpr, FIRST: tl.constexpr):
    """The FIRST tiles of these rows."""
    tiles = ()
    for i in tl.static_range(FIRST):
        tiles += (load_tile(at, i, row, column, OUT, IN, COLUMNS, WHOLE),)  # type: ignore[assignment]
    return tiles


@triton.jit
def project_kernel(
    x_ptr, norm_ptr, weight_ptr, bias_ptr, out_ptr, eps, inboxes_ptr, step_ptr, word,
    IN: tl.constexpr, OUT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, FIRST: tl.constexpr,
    GATED: tl.constexpr, ADD: tl.constexpr, RANKS: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """out (OUT) = or += weight (OUT, IN) times x (IN), or its norm, plus a bias (OUT), where these are given; GATED:
    weight is (2 OUT, IN), gate over up. Of several RANKS, the result goes into their inboxes, from `word` on, instead.

    The FIRST tiles of a row are loaded before the wait.
    """
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row, column = rows[:, None], tl.arange(0, COLUMNS)[None, :]
    WHOLE: tl.constexpr = OUT % ROWS == 0
    real = rows < OUT
    each = tl.zeros((ROWS, 1), tl.int32) + column
    at = weight_ptr + row.to(tl.int64) * IN + column
    weights = load_tiles(at, row, column, OUT, IN, COLUMNS, WHOLE, FIRST)
    if GATED:
        up_weights = load_tiles(at + OUT * IN, row, column, OUT, IN, COLUMNS, WHOLE, FIRST)
    if norm_ptr is not None:
        norms = load_tiles(norm_ptr + each, row, column, OUT, IN, COLUMNS, WHOLE, FIRST)
    bias = tl.zeros((ROWS,), tl.float32)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + rows, mask=real, other=0.0).to(tl.float32)
    take_turn(AHEAD)
    added = tl.zeros((ROWS,), tl.float32)
    if ADD and RANKS == 1:
        added = tl.load(out_ptr + rows, mask=real, other=0.0)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    up_total = tl.zeros((ROWS, COLUMNS), tl.float32)
    squares = tl.zeros((ROWS, COLUMNS), tl.float32)
    for i in tl.static_range((IN + COLUMNS - 1) // COLUMNS):
        x = load_tile(x_ptr + each, i, row, column, OUT, IN, COLUMNS, WHOLE)
        if norm_ptr is not None:
            squares += x * x
            norm = norms[i] if i < FIRST else load_tile(norm_ptr + each, i, row, column, OUT, IN, COLUMNS, WHOLE)
            x *= norm.to(tl.float32)
        weight = weights[i] if i < FIRST else load_tile(at, i, row, column, OUT, IN, COLUMNS, WHOLE)
        total += weight.to(tl.float32) * x
        if GATED:
            up_at = at + OUT * IN
            weight = up_weights[i] if i < FIRST else load_tile(up_at, i, row, column, OUT, IN, COLUMNS, WHOLE)
            up_total += weight.to(tl.float32) * x
    y = tl.sum(total, 1)
    up = tl.sum(up_total, 1)
    mean = tl.sum(squares, 1) / IN + eps
    finish(
        y, up, mean, bias, added, out_ptr, inboxes_ptr, step_ptr, word, rows, real, norm_ptr is not None, GATED, RANKS
    )


@triton.jit
def finish(
    y, up, mean, bias, added, out_ptr, inboxes_ptr, step_ptr, word, rows, real,
    NORM: tl.constexpr, GATED: tl.constexpr, RANKS: tl.constexpr,
):  # fmt: skip
    """Stores a product: of a NORM, dividing by the root of the mean square commutes with it."""
    if NORM:
        scale = tl.rsqrt(mean)
        y *= scale
        up *= scale
    y += bias
    if GATED:
        y = y * tl.sigmoid(y) * up
    y += added
    if RANKS > 1:
        push(inboxes_ptr, word + rows, y, tl.load(step_ptr), real, RANKS)
    else:
        tl.store(out_ptr + rows, y, mask=real)


@triton.jit
def best_kernel(
    x_ptr, norm_ptr, weight_ptr, value_ptr, token_ptr,
    IN: tl.constexpr, OUT: tl.constexpr, ROWS: tl.constexpr, TURNS: tl.constexpr, COLUMNS: tl.constexpr,
    AHEAD: tl.constexpr,
):  # fmt: skip
    """Each program's best of OUT tokens and its logit, up to a positive factor that all share: the norm's scale changes
    no order."""
    column = tl.arange(0, COLUMNS)[None, :]
    each = tl.zeros((ROWS, 1), tl.int32) + column
    WHOLE: tl.constexpr = OUT % (ROWS * TURNS) == 0
    first = tl.program_id(0) * (ROWS * TURNS)
    take_turn(AHEAD)
    best = float("-inf")
    token = 0
    for turn in tl.range(TURNS):
        rows = first + turn * ROWS + tl.arange(0, ROWS)
        row = rows[:, None]
        real = rows < OUT
        at = weight_ptr + row.to(tl.int64) * IN + column
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for i in tl.static_range((IN + COLUMNS - 1) // COLUMNS):
            x = load_tile(x_ptr + each, i, row, column, OUT, IN, COLUMNS, WHOLE)
            x *= load_tile(norm_ptr + each, i, row, column, OUT, IN, COLUMNS, WHOLE).to(tl.float32)
            total += load_tile(at, i, row, column, OUT, IN, COLUMNS, WHOLE).to(tl.float32) * x
        logits = tl.where(real, tl.sum(total, 1), float("-inf"))
        top, at_row = tl.max(logits, 0, return_indices=True, return_indices_tie_break_left=True)
        token = tl.where(top > best, first + turn * ROWS + at_row, token)
        best = tl.maximum(best, top)
    tl.store(value_ptr + tl.program_id(0), best)
    tl.store(token_ptr + tl.program_id(0), token)
