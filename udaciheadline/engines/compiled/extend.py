"""Attention of several tokens of one text at once, in Triton: the pass that checks a draft.

They come behind what the cache holds, and each sees that, the tokens before it, and itself: a causal tail. Read
together they need the weights once, and the cache once: the queries of all tokens that share a key-value head are rows
of one product for the matrix units, which a step of one token pads to as many anyway.
"""

import triton
import triton.language as tl
from torch import Tensor

from udaciheadline.engines.compiled.kernels import read_on

FEWEST = 16  # rows, and tokens, of a product that the matrix units take
SLOTS = 64  # of the cache at a time
WARPS = 4


@triton.jit
def extend_kernel(
    qkv_ptr, cos_ptr, sin_ptr, place_ptr, keys_ptr, values_ptr, out_ptr, slots,
    T: tl.constexpr, Q: tl.constexpr, N: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, TAIL: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """T tokens from a text's place on: rotates their queries and keys, puts keys and values into the cache, and reads
    the cache.

    A program has one key-value head, its T keys and values padded to TAIL, and the T * Q / N queries that share it,
    token by token, padded to ROWS. The softmax begins with the tail, of which every query sees at least its own token,
    and goes on block by block of the cache, as in `kernels.attend_kernel`.
    """
    n = tl.program_id(0)
    HALF: tl.constexpr = D // 2
    GROUP: tl.constexpr = Q // N
    WIDTH: tl.constexpr = (Q + 2 * N) * D
    d, s, t, row = tl.arange(0, D), tl.arange(0, BLOCK), tl.arange(0, TAIL), tl.arange(0, ROWS)
    other = (d + HALF) % D  # the partner in a rotated pair
    sign = tl.where(d < HALF, -1.0, 1.0)[None, :]
    kind = keys_ptr.dtype.element_ty
    place = tl.load(place_ptr)
    head = n.to(tl.int64) * slots * D
    real = (t < T)[:, None]
    at = (place + t)[:, None] * HALF + (d % HALF)[None, :]
    cos = tl.load(cos_ptr + at, mask=real, other=0.0)
    sin = tl.load(sin_ptr + at, mask=real, other=0.0) * sign
    k_at = qkv_ptr + t[:, None] * WIDTH + (Q + n) * D
    key = tl.load(k_at + d[None, :], mask=real, other=0.0).to(tl.float32)
    partner = tl.load(k_at + other[None, :], mask=real, other=0.0).to(tl.float32)
    key = (key * cos + partner * sin).to(kind)
    value = tl.load(k_at + N * D + d[None, :], mask=real, other=0.0).to(kind)
    new = head + (place + t)[:, None] * D + d[None, :]
    tl.store(keys_ptr + new, key, mask=real)
    tl.store(values_ptr + new, value, mask=real)
    token = row // GROUP
    asked = (token < T)[:, None]
    at = (place + token)[:, None] * HALF + (d % HALF)[None, :]
    cos = tl.load(cos_ptr + at, mask=asked, other=0.0)
    sin = tl.load(sin_ptr + at, mask=asked, other=0.0) * sign
    q_row = token[:, None] * WIDTH + (n * GROUP + row % GROUP)[:, None] * D
    query = tl.load(qkv_ptr + q_row + d[None, :], mask=asked, other=0.0).to(tl.float32)
    partner = tl.load(qkv_ptr + q_row + other[None, :], mask=asked, other=0.0).to(tl.float32)
    query = (query * cos + partner * sin).to(kind)
    scale: tl.constexpr = D**-0.5
    scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
    scores = tl.where((t[None, :] <= token[:, None]) & (t < T)[None, :], scores, float("-inf"))
    top = tl.max(scores, 1)
    shares = tl.exp(scores - top[:, None])
    total = tl.sum(shares, 1)
    read = tl.dot(shares.to(kind), value, input_precision="ieee")
    tile = head + s[:, None] * D + d[None, :]
    start = tl.full((), 0, tl.int64)
    while start < place:
        seen = start + s < place
        keys = tl.load(keys_ptr + tile + start * D, mask=seen[:, None], other=0.0)
        values = tl.load(values_ptr + tile + start * D, mask=seen[:, None], other=0.0)
        top, total, read = read_on(query, keys, values, seen, scale, top, total, read)
        start += BLOCK
    out = out_ptr + token[:, None] * (Q * D) + (n * GROUP + row % GROUP)[:, None] * D + d[None, :]
    tl.store(out, (read / total[:, None]).to(out_ptr.dtype.element_ty), mask=asked)


def extend(cos: Tensor, sin: Tensor, place: Tensor, qkv: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """What t tokens of the only text read, (t, q * d): qkv (t, q + 2n, d) of tokens from its `place` (1) on, which are
    put into keys and values (1, n, slots, d); cos and sin (length, 1, d/2) turn queries and keys."""
    _, kv_heads, slots, head_dim = keys.shape
    tokens, heads = len(qkv), qkv.shape[1] - 2 * kv_heads
    out = qkv.new_empty(tokens, heads * head_dim)
    extend_kernel[(kv_heads,)](
        qkv, cos, sin, place, keys, values, out, slots,
        T=tokens, Q=heads, N=kv_heads, D=head_dim,
        ROWS=max(FEWEST, triton.next_power_of_2(tokens * heads // kv_heads)),
        TAIL=max(FEWEST, triton.next_power_of_2(tokens)), BLOCK=SLOTS, num_warps=WARPS,
    )  # fmt: skip
    return out
