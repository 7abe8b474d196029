"""The step of one text as five kernels a layer, in Triton: what a token costs on a GPU is then reading the weights.

A step of Llama-3.2-1B reads 2.5 GB, 0.6 ms on an H200, in some 80 products of a matrix with one vector. Each is over in
2 to 20 µs, so what stands between two of them counts as much as they do:

* **Fusion.** What is done to a vector between two products (norm, rotary embedding, activation, residual) is done
  by the kernel that reads it next or wrote it last. A norm is computed by every program that needs it: 4 KB from the
  cache are quicker than one more kernel.
* **Programmatic dependent launch** (from compute capability 9.0 on): a kernel may start while its predecessor still
  runs, and asks for its first weights before it waits for the vector they are multiplied with. The order in each kernel
  is: load weights, wait, let the next one start. So a kernel runs ahead by one at most, and what was written by an
  earlier one than its predecessor is there from the start.

* **Push**: of several ranks, each has a part of what is to be added to the residual stream. The kernel that makes a
  part writes it into the memory of all ranks (`peers.py`), and the next one waits until all parts are there. A word
  carries its value and the number of the step, so that what has arrived needs no other sign (the LL protocol of NCCL,
  Hu et al. 2025, https://arxiv.org/abs/2507.04786).

`attend` also serves batches, whose matrix products are better left to a library. `step.py` launches the others.

Vectors between kernels are float32, weights and cache in the model's dtype, products summed in float32.
"""

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from udaciheadline.records import Unsupported

ATTEND_SLOTS = {"one": 128, "many": 32}  # of the cache at a time: one text has the whole GPU, and waits for each turn


@triton.jit
def push(inboxes_ptr, words_at, values, step, mask, RANKS: tl.constexpr):
    """Writes float32 values, each in a word with the number of the step, to these words of the inbox of each rank."""
    words = (values.to(tl.int32, bitcast=True).to(tl.int64) & 0xFFFFFFFF) | (step << 32)
    for rank in tl.static_range(RANKS):
        inbox = tl.load(inboxes_ptr + rank).to(tl.pointer_type(tl.int64))
        tl.store(inbox + words_at, words, mask=mask)


@triton.jit
def arrived(at_ptr, step, mask):
    """The float32 values of words of this step, as soon as all of them are there."""
    words = tl.load(at_ptr, mask=mask, other=0, volatile=True)
    while tl.sum((mask & ((words >> 32) != step)).to(tl.int32), 0) > 0:
        words = tl.load(at_ptr, mask=mask, other=0, volatile=True)
    return words.to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def add_parts_kernel(
    x_ptr, inbox_ptr, step_ptr,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr, RANKS: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """x (SIZE) = or += the sum of all ranks' parts (RANKS, SIZE) in this rank's inbox, in the same order on each."""
    if AHEAD:
        gdc_wait()
        gdc_launch_dependents()
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    step = tl.load(step_ptr)
    total = tl.load(x_ptr + i) if ADD else tl.zeros((BLOCK,), tl.float32)
    for rank in tl.static_range(RANKS):
        total += arrived(inbox_ptr + rank * SIZE + i, step, i < SIZE)
    tl.store(x_ptr + i, total)


@triton.jit
def project_kernel(
    x_ptr, norm_ptr, weight_ptr, out_ptr, eps, inboxes_ptr, step_ptr, word,
    IN: tl.constexpr, OUT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    NORM: tl.constexpr, GATED: tl.constexpr, ADD: tl.constexpr, RANKS: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """out (OUT) = or += weight (OUT, IN) times x (IN), or its norm; GATED: weight is (2 OUT, IN), gate over up. Of
    several RANKS, the result goes into their inboxes, from `word` on, instead."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    at = weight_ptr + rows[:, None].to(tl.int64) * IN + columns[None, :]
    weight = tl.load(at)
    if GATED:
        up_weight = tl.load(at + OUT * IN)
    if AHEAD:
        gdc_wait()
        gdc_launch_dependents()
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    up_total = tl.zeros((ROWS, COLUMNS), tl.float32)
    squares = tl.zeros((COLUMNS,), tl.float32)
    for start in tl.static_range(0, IN, COLUMNS):
        x = tl.load(x_ptr + start + columns)
        if NORM:
            squares += x * x
            x *= tl.load(norm_ptr + start + columns).to(tl.float32)
        total += weight.to(tl.float32) * x[None, :]
        if GATED:
            up_total += up_weight.to(tl.float32) * x[None, :]
        if start + COLUMNS < IN:
            weight = tl.load(at + start + COLUMNS)
            if GATED:
                up_weight = tl.load(at + OUT * IN + start + COLUMNS)
    y = tl.sum(total, 1)
    up = tl.sum(up_total, 1)
    if NORM:  # dividing by the root of the mean square commutes with the product
        scale = tl.rsqrt(tl.sum(squares, 0) / IN + eps)
        y *= scale
        up *= scale
    if GATED:
        y = y * tl.sigmoid(y) * up
    if RANKS > 1:
        push(inboxes_ptr, word + rows, y, tl.load(step_ptr), rows < OUT, RANKS)
    else:
        if ADD:
            y += tl.load(out_ptr + rows)
        tl.store(out_ptr + rows, y)


@triton.jit
def attend_kernel(
    qkv_ptr, cos_ptr, sin_ptr, place_ptr, keys_ptr, values_ptr, out_ptr, slots,
    Q: tl.constexpr, N: tl.constexpr, D: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """One token of each row: rotates its queries and key, puts key and value into the cache, and reads the cache.

    A program has one key-value head of one row, and the Q / N queries that share it, padded to GROUP for the matrix
    units. The softmax is computed block by block of the cache (FlashAttention, Dao et al. 2022,
    https://arxiv.org/abs/2205.14135), and starts with the token itself, which so is never read back.
    """
    row, n = tl.program_id(0).to(tl.int64), tl.program_id(1)
    HALF: tl.constexpr = D // 2
    d, s, g = tl.arange(0, D), tl.arange(0, BLOCK), tl.arange(0, GROUP)
    kind = keys_ptr.dtype.element_ty
    place = tl.load(place_ptr + row)
    head = (row * N + n) * slots * D
    tile = head + s[:, None] * D + d[None, :]
    seen = s < place
    keys = tl.load(keys_ptr + tile, mask=seen[:, None], other=0.0)
    values = tl.load(values_ptr + tile, mask=seen[:, None], other=0.0)
    cos = tl.load(cos_ptr + place * HALF + d % HALF)
    sin = tl.load(sin_ptr + place * HALF + d % HALF)
    sin = tl.where(d < HALF, -sin, sin)
    other = (d + HALF) % D  # the partner in a rotated pair
    if AHEAD:
        gdc_wait()
        gdc_launch_dependents()
    here = qkv_ptr + row * ((Q + 2 * N) * D)
    k_at = here + (Q + n) * D
    key = (tl.load(k_at + d).to(tl.float32) * cos + tl.load(k_at + other).to(tl.float32) * sin).to(kind)
    value = tl.load(here + (Q + N + n) * D + d).to(kind)
    tl.store(keys_ptr + head + place * D + d, key)
    tl.store(values_ptr + head + place * D + d, value)
    q_at = here + (n * (Q // N) + g[:, None]) * D
    real = (g < Q // N)[:, None]
    query = tl.load(q_at + d[None, :], mask=real, other=0.0).to(tl.float32) * cos[None, :]
    query += tl.load(q_at + other[None, :], mask=real, other=0.0).to(tl.float32) * sin[None, :]
    query = query.to(kind)
    scale: tl.constexpr = D**-0.5
    top = tl.sum(query.to(tl.float32) * key.to(tl.float32)[None, :], 1) * scale
    total = tl.full((GROUP,), 1.0, tl.float32)
    read = tl.zeros((GROUP, D), tl.float32) + value.to(tl.float32)[None, :]
    start = tl.full((), 0, tl.int64)
    while start < place:
        if start > 0:
            seen = start + s < place
            keys = tl.load(keys_ptr + tile + start * D, mask=seen[:, None], other=0.0)
            values = tl.load(values_ptr + tile + start * D, mask=seen[:, None], other=0.0)
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * scale
        scores = tl.where(seen[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        shares = tl.exp(scores - higher[:, None])
        kept = tl.exp(top - higher)
        total = total * kept + tl.sum(shares, 1)
        read = read * kept[:, None] + tl.dot(shares.to(kind), values, input_precision="ieee")
        top = higher
        start += BLOCK
    out = out_ptr + row * (Q * D) + (n * (Q // N) + g[:, None]) * D + d[None, :]
    tl.store(out, (read / total[:, None]).to(out_ptr.dtype.element_ty), mask=real)


@triton.jit
def best_kernel(
    x_ptr, norm_ptr, weight_ptr, value_ptr, token_ptr, eps, vocabulary,
    IN: tl.constexpr, ROWS: tl.constexpr, TURNS: tl.constexpr, COLUMNS: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """Each program's best token and its logit, up to a positive factor that all share: the norm's scale changes no
    order."""
    columns = tl.arange(0, COLUMNS)
    first = tl.program_id(0) * (ROWS * TURNS)
    if AHEAD:
        gdc_wait()
        gdc_launch_dependents()
    best = float("-inf")
    token = 0
    for turn in tl.range(TURNS):
        rows = first + turn * ROWS + tl.arange(0, ROWS)
        real = rows < vocabulary
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for start in tl.static_range(0, IN, COLUMNS):
            x = tl.load(x_ptr + start + columns) * tl.load(norm_ptr + start + columns).to(tl.float32)
            at = weight_ptr + rows[:, None].to(tl.int64) * IN + start + columns[None, :]
            total += tl.load(at, mask=real[:, None], other=0.0).to(tl.float32) * x[None, :]
        logits = tl.where(real, tl.sum(total, 1), float("-inf"))
        top, at_row = tl.max(logits, 0, return_indices=True, return_indices_tie_break_left=True)
        token = tl.where(top > best, first + turn * ROWS + at_row, token)
        best = tl.maximum(best, top)
    tl.store(value_ptr + tl.program_id(0), best)
    tl.store(token_ptr + tl.program_id(0), token)


@triton.jit
def pick_kernel(
    value_ptr, token_ptr, last_ptr, place_ptr, count, slots, inboxes_ptr, step_ptr, word, first_token,
    SIZE: tl.constexpr, RANKS: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """The best of all programs' tokens; the text goes one slot further.

    Of several RANKS, whose tokens begin with `first_token`, the best goes into all inboxes instead: its logit to
    `word`, and to the word RANKS behind it the token, whose bits travel as a float's.
    """
    if AHEAD:
        gdc_wait()
        gdc_launch_dependents()
    i = tl.arange(0, SIZE)
    values = tl.load(value_ptr + i, mask=i < count, other=float("-inf"))
    best, where = tl.max(values, 0, return_indices=True, return_indices_tie_break_left=True)
    token = tl.load(token_ptr + where).to(tl.int32)
    if RANKS > 1:
        own = tl.arange(0, 2)
        bits = tl.where(own == 0, best.to(tl.int32, bitcast=True), token + first_token)
        push(inboxes_ptr, word + own * RANKS, bits.to(tl.float32, bitcast=True), tl.load(step_ptr), own < 2, RANKS)
    else:
        tl.store(last_ptr, token.to(tl.int64))
        tl.store(place_ptr, tl.minimum(tl.load(place_ptr) + 1, slots - 1))


@triton.jit
def agree_kernel(
    inbox_ptr, step_ptr, last_ptr, place_ptr, slots, SIZE: tl.constexpr, RANKS: tl.constexpr, AHEAD: tl.constexpr
):
    """The best of all ranks' tokens, the first rank's where they are equal; the text goes one slot further, and the
    number of the step by one."""
    if AHEAD:
        gdc_wait()
        gdc_launch_dependents()
    step = tl.load(step_ptr)
    rank = tl.arange(0, SIZE)
    values = tl.where(rank < RANKS, arrived(inbox_ptr + rank, step, rank < RANKS), float("-inf"))
    tokens = arrived(inbox_ptr + RANKS + rank, step, rank < RANKS).to(tl.int32, bitcast=True)
    _, winner = tl.max(values, 0, return_indices=True, return_indices_tie_break_left=True)
    tl.store(last_ptr, tl.sum(tl.where(rank == winner, tokens, 0), 0).to(tl.int64))
    tl.store(place_ptr, tl.minimum(tl.load(place_ptr) + 1, slots - 1))
    tl.store(step_ptr, step + 1)


@triton.jit
def embed_kernel(
    last_ptr, embedding_ptr, x_ptr, inboxes_ptr, step_ptr, word, first_token, vocabulary,
    IN: tl.constexpr, COLUMNS: tl.constexpr, RANKS: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """x (IN) of the last token. Of several RANKS, the one that has its row gives it, the others zeros: all inboxes get
    these parts, from `word` on."""
    if AHEAD:
        gdc_wait()
        gdc_launch_dependents()
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    own = tl.load(last_ptr) - first_token
    mine = (own >= 0) & (own < vocabulary) & (columns < IN)
    row = tl.load(embedding_ptr + own * IN + columns, mask=mine, other=0.0).to(tl.float32)
    if RANKS > 1:
        push(inboxes_ptr, word + columns, row, tl.load(step_ptr), columns < IN, RANKS)
    else:
        tl.store(x_ptr + columns, row)


def check(head_dim: int) -> None:
    """Raises Unsupported for a model whose heads the kernels cannot read: they take powers of two."""
    if head_dim < 16 or head_dim & (head_dim - 1):
        raise Unsupported(
            f"its heads have {head_dim} dimensions, and the compiled engine's GPU kernels take powers of two "
            "from 16 on: use --engine transformers"
        )


def attend(cos: Tensor, sin: Tensor, place: Tensor, qkv: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """What one token of each row reads, (m, q * d): qkv (m, q + 2n, d) of tokens at their `place` (m), which are put
    into the first m rows of keys and values (b, n, slots, d); cos and sin (length, 1, d/2) turn queries and keys."""
    heads = qkv.shape[1] - 2 * keys.shape[1]
    out = qkv.new_empty(len(qkv), heads * keys.shape[3])
    launch_attend(cos, sin, qkv, place, keys, values, out, "many", {"AHEAD": False, "num_warps": 4})
    return out


def launch_attend(
    cos: Tensor,
    sin: Tensor,
    qkv: Tensor,
    place: Tensor,
    keys: Tensor,
    values: Tensor,
    out: Tensor,
    texts: str,
    ahead: dict[str, int | bool],
) -> None:
    """`attend` into `out`, for "one" or "many" `texts`; `ahead` are options of the launch."""
    _, kv_heads, slots, head_dim = keys.shape
    heads = out.numel() // len(place) // head_dim
    group = max(16, triton.next_power_of_2(heads // kv_heads))
    attend_kernel[(len(place), kv_heads)](
        qkv, cos, sin, place, keys, values, out, slots,
        Q=heads, N=kv_heads, D=head_dim, GROUP=group, BLOCK=ATTEND_SLOTS[texts], **ahead,
    )  # fmt: skip
