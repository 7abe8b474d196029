"""The step of one text as five kernels a layer, in Triton: what a token costs on a GPU is then reading the weights.

A step of Llama-3.2-1B reads 2.5 GB, 0.6 ms on an H200, in some 80 products of a matrix with one vector. Each is over in
2 to 20 µs, so what stands between two of them counts as much as they do:

* **Fusion.** What is done to a vector between two products (norm, rotary embedding, activation, residual) is done
  by the kernel that reads it next or wrote it last. A norm is computed by every program that needs it: 4 KB from the
  cache are quicker than one more kernel.
* **Programmatic dependent launch** (from compute capability 9.0 on): a kernel may start while its predecessors still
  run, and asks for its first weights before it waits for the vector they are multiplied with. The order in each kernel
  is: load weights, let the next one start, wait. A predecessor has waited in its turn, so behind the wait all that came
  before is there; ahead of it a kernel reads what no kernel of the step writes (weights), or only its last (the place
  of the token), and the step's first kernel lets nobody start before it has waited itself.
* **Push**: of several ranks, each has a part of what is to be added to the residual stream. The kernel that makes a
  part writes it into the memory of all ranks (`peers.py`), and the next one waits until all parts are there. A word
  carries its value and the number of the step, so that what has arrived needs no other sign (the LL protocol of NCCL,
  Hu et al. 2025, https://arxiv.org/abs/2507.04786).

The products of a matrix with a vector stand in `products.py`. `attend` also serves batches, whose matrix products are
better left to a library. `step.py` launches the others.

Vectors between kernels are float32, weights and cache in the model's dtype, products summed in float32.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from udaciheadline.records import Unsupported

# Of the cache at a time, and warps: one text has the whole GPU, and waits for each turn.
ATTEND_SLOTS = {"one": 128, "many": 32}
ATTEND_WARPS = {"one": 4, "many": 4}
AFTER, BEFORE = 1, 2  # AHEAD: the next kernel may start after this one has waited, or before; 0: no kernel runs ahead


class Norms(NamedTuple):
    """Weights (d) of the norms that each query and each key goes through before it is turned, where there are such."""

    q: Tensor | None
    k: Tensor | None
    eps: float


NO_NORMS = Norms(None, None, 0.0)


@triton.jit
def take_turn(AHEAD: tl.constexpr):
    """Waits for the predecessor, and lets the next kernel start."""
    if AHEAD == 2:
        gdc_launch_dependents()
    if AHEAD != 0:
        gdc_wait()
    if AHEAD == 1:
        gdc_launch_dependents()


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
    take_turn(AHEAD)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    step = tl.load(step_ptr)
    total = tl.load(x_ptr + i, mask=i < SIZE, other=0.0) if ADD else tl.zeros((BLOCK,), tl.float32)
    for rank in tl.static_range(RANKS):
        total += arrived(inbox_ptr + rank * SIZE + i, step, i < SIZE)
    tl.store(x_ptr + i, total, mask=i < SIZE)


@triton.jit
def norm_scale(x, eps, D: tl.constexpr, AXIS: tl.constexpr):
    """1 / sqrt(mean(x²) + eps) of vectors x, whose D dimensions are its AXIS."""
    return tl.rsqrt(tl.sum(x * x, AXIS, keep_dims=True) / D + eps)


@triton.jit
def read_on(query, keys, values, seen, scale, top, total, read):
    """One block more of the cache, of which slots are `seen`, in a softmax that is computed block by block: the highest
    score so far, the sum of the shares, and what was read, of each query."""
    scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * scale
    scores = tl.where(seen[None, :], scores, float("-inf"))
    higher = tl.maximum(top, tl.max(scores, 1))
    shares = tl.exp(scores - higher[:, None])
    kept = tl.exp(top - higher)
    total = total * kept + tl.sum(shares, 1)
    read = read * kept[:, None] + tl.dot(shares.to(values.dtype), values, input_precision="ieee")
    return higher, total, read


@triton.jit
def attend_kernel(
    qkv_ptr, q_norm_ptr, k_norm_ptr, cos_ptr, sin_ptr, place_ptr, keys_ptr, values_ptr, out_ptr, slots, eps,
    Q: tl.constexpr, N: tl.constexpr, D: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """One token of each row: rotates its queries and key, which first go through their norms, where these are given,
    puts key and value into the cache, and reads the cache.

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
    if q_norm_ptr is not None:
        q_norm, q_other = tl.load(q_norm_ptr + d).to(tl.float32), tl.load(q_norm_ptr + other).to(tl.float32)
    if k_norm_ptr is not None:
        k_norm, k_other = tl.load(k_norm_ptr + d).to(tl.float32), tl.load(k_norm_ptr + other).to(tl.float32)
    take_turn(AHEAD)
    here = qkv_ptr + row * ((Q + 2 * N) * D)
    k_at = here + (Q + n) * D
    key, partner = tl.load(k_at + d).to(tl.float32), tl.load(k_at + other).to(tl.float32)
    if k_norm_ptr is not None:
        scale_of_key = norm_scale(key, eps, D, 0)
        key *= scale_of_key * k_norm
        partner *= scale_of_key * k_other
    key = (key * cos + partner * sin).to(kind)
    value = tl.load(here + (Q + N + n) * D + d).to(kind)
    tl.store(keys_ptr + head + place * D + d, key)
    tl.store(values_ptr + head + place * D + d, value)
    q_at = here + (n * (Q // N) + g[:, None]) * D
    real = (g < Q // N)[:, None]
    query = tl.load(q_at + d[None, :], mask=real, other=0.0).to(tl.float32)
    partner = tl.load(q_at + other[None, :], mask=real, other=0.0).to(tl.float32)
    if q_norm_ptr is not None:
        scale_of_query = norm_scale(query, eps, D, 1)
        query *= scale_of_query * q_norm[None, :]
        partner *= scale_of_query * q_other[None, :]
    query = (query * cos[None, :] + partner * sin[None, :]).to(kind)
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
        top, total, read = read_on(query, keys, values, seen, scale, top, total, read)
        start += BLOCK
    out = out_ptr + row * (Q * D) + (n * (Q // N) + g[:, None]) * D + d[None, :]
    tl.store(out, (read / total[:, None]).to(out_ptr.dtype.element_ty), mask=real)


@triton.jit
def pick_kernel(
    value_ptr, token_ptr, last_ptr, place_ptr, count, slots, inboxes_ptr, step_ptr, word, first_token,
    SIZE: tl.constexpr, RANKS: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """The best of all programs' tokens; the text goes one slot further.

    Of several RANKS, whose tokens begin with `first_token`, the best goes into all inboxes instead: its logit to
    `word`, and to the word RANKS behind it the token, whose bits travel as a float's.
    """
    take_turn(AHEAD)
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
    take_turn(AHEAD)
    step = tl.load(step_ptr)
    rank = tl.arange(0, SIZE)
    values = tl.where(rank < RANKS, arrived(inbox_ptr + rank, step, rank < RANKS), float("-inf"))
    tokens = arrived(inbox_ptr + RANKS + rank, step, rank < RANKS).to(tl.int32, bitcast=True)
    _, winner = tl.max(values, 0, return_indices=True, return_indices_tie_break_left=True)
    tl.store(last_ptr, tl.sum(tl.where(rank == winner, tokens, 0), 0).to(tl.int64))
    tl.store(place_ptr, tl.minimum(tl.load(place_ptr) + 1, slots - 1))
    tl.store(step_ptr, step + 1)


@triton.jit
def code(words, shift, CODES: tl.constexpr, FLOAT: tl.constexpr):
    """The codes of words, of which CODES are in each, that begin at bit `shift`, as float32. FLOAT: they are fp8."""
    if FLOAT:
        return (((words << (24 - shift)) >> 4) & -0x78100000).to(tl.float32, bitcast=True) * 2.0**120
    elif CODES == 4:
        return ((words >> shift) & 255).to(tl.float32) - 128.0
    else:
        return ((words >> shift) & 15).to(tl.float32) - 8.0


@triton.jit
def embed_kernel(
    last_ptr, embedding_ptr, scale_ptr, x_ptr, inboxes_ptr, step_ptr, word, first_token, vocabulary,
    IN: tl.constexpr, COLUMNS: tl.constexpr, CODES: tl.constexpr, GROUP: tl.constexpr, FLOAT: tl.constexpr,
    RANKS: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """x (IN) of the last token, whose row may have a scale, and CODES in a word (`words.py`). Of several RANKS, the one
    that has its row gives it, the others zeros: all inboxes get these parts, from `word` on.

    It is the step's first kernel: whoever runs ahead of its wait must not start before the last step has ended.
    """
    take_turn(1 if AHEAD else 0)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    own = tl.load(last_ptr) - first_token
    mine = (own >= 0) & (own < vocabulary) & (columns < IN)
    if CODES == 1:
        row = tl.load(embedding_ptr + own * IN + columns, mask=mine, other=0.0).to(tl.float32)
    else:
        within = columns % (CODES * GROUP)
        at = embedding_ptr + own * (IN // CODES) + columns // (CODES * GROUP) * GROUP + within % GROUP
        row = code(tl.load(at, mask=mine, other=0), within // GROUP * (32 // CODES), CODES, FLOAT)
    if scale_ptr is not None:
        row *= tl.load(scale_ptr + own, mask=(own >= 0) & (own < vocabulary), other=0.0)
    if RANKS > 1:
        push(inboxes_ptr, word + columns, row, tl.load(step_ptr), columns < IN, RANKS)
    else:
        tl.store(x_ptr + columns, row, mask=columns < IN)


def check(head_dim: int) -> None:
    """Raises Unsupported for a model whose heads the kernels cannot read: they take powers of two."""
    if head_dim < 16 or head_dim & (head_dim - 1):
        raise Unsupported(
            f"its heads have {head_dim} dimensions, and the compiled engine's GPU kernels take powers of two from 16 on"
        )


def attend(
    cos: Tensor,
    sin: Tensor,
    place: Tensor,
    qkv: Tensor,
    keys: Tensor,
    values: Tensor,
    norms: Norms = NO_NORMS,
) -> Tensor:
    """What one token of each row reads, (m, q * d): qkv (m, q + 2n, d) of tokens at their `place` (m), which are put
    into the first m rows of keys and values (b, n, slots, d); cos and sin (length, 1, d/2) turn queries and keys, which
    go through their `norms` first."""
    heads = qkv.shape[1] - 2 * keys.shape[1]
    out = qkv.new_empty(len(qkv), heads * keys.shape[3])
    launch_attend(cos, sin, qkv, place, keys, values, out, norms, "many", {"AHEAD": 0})
    return out


def launch_attend(
    cos: Tensor,
    sin: Tensor,
    qkv: Tensor,
    place: Tensor,
    keys: Tensor,
    values: Tensor,
    out: Tensor,
    norms: Norms,
    texts: str,
    options: dict[str, int | bool],
) -> None:
    """`attend` into `out`, for "one" or "many" `texts`; `options` are those of the launch."""
    _, kv_heads, slots, head_dim = keys.shape
    heads = out.numel() // len(place) // head_dim
    group = max(16, triton.next_power_of_2(heads // kv_heads))
    attend_kernel[(len(place), kv_heads)](
        qkv, norms.q, norms.k, cos, sin, place, keys, values, out, slots, norms.eps,
        Q=heads, N=kv_heads, D=head_dim, GROUP=group, BLOCK=ATTEND_SLOTS[texts],
        num_warps=ATTEND_WARPS[texts], **options,
    )  # fmt: skip
