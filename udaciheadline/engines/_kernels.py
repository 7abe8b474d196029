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

`attend` also serves batches, whose matrix products are better left to a library.

Vectors between kernels are float32, weights and cache in the model's dtype, products summed in float32.
"""

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from udaciheadline.records import Unsupported

if TYPE_CHECKING:
    from udaciheadline.engines.llama import Cache, Llama

ROWS = 8  # of a matrix a program multiplies, fewer where this does not divide it
GATED_ROWS = 2  # of gate and of up
COLUMNS = 1024  # at a time
HEAD_ROWS = 32  # of the head's matrix a program compares
ATTEND_SLOTS = {"one": 128, "many": 32}  # of the cache at a time: one text has the whole GPU, and waits for each turn


@triton.jit
def _project(
    x_ptr, norm_ptr, weight_ptr, out_ptr, eps,
    IN: tl.constexpr, OUT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    NORM: tl.constexpr, GATED: tl.constexpr, ADD: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """out (OUT) = or += weight (OUT, IN) times x (IN), or its norm; GATED: weight is (2 OUT, IN), gate over up."""
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
    if ADD:
        y += tl.load(out_ptr + rows)
    tl.store(out_ptr + rows, y)


@triton.jit
def _attend(
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
def _best(
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
def _pick(value_ptr, token_ptr, last_ptr, place_ptr, count, slots, SIZE: tl.constexpr, AHEAD: tl.constexpr):
    """The best of all programs' tokens; the text goes one slot further."""
    if AHEAD:
        gdc_wait()
        gdc_launch_dependents()
    i = tl.arange(0, SIZE)
    values = tl.load(value_ptr + i, mask=i < count, other=float("-inf"))
    _, at = tl.max(values, 0, return_indices=True, return_indices_tie_break_left=True)
    tl.store(last_ptr, tl.load(token_ptr + at).to(tl.int64))
    tl.store(place_ptr, tl.minimum(tl.load(place_ptr) + 1, slots - 1))


@triton.jit
def _embed(last_ptr, embedding_ptr, x_ptr, IN: tl.constexpr, COLUMNS: tl.constexpr, AHEAD: tl.constexpr):
    """x (IN) of the last token."""
    if AHEAD:
        gdc_wait()
        gdc_launch_dependents()
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    tl.store(x_ptr + columns, tl.load(embedding_ptr + tl.load(last_ptr) * IN + columns).to(tl.float32))


def check(model: "Llama") -> None:
    """Raises Unsupported for a model whose heads the kernels cannot read: they take powers of two."""
    if model.head_dim < 16 or model.head_dim & (model.head_dim - 1):
        raise Unsupported(
            f"its heads have {model.head_dim} dimensions, and the compiled engine's GPU kernels take powers of two "
            "from 16 on: use --engine transformers"
        )


def attend(model: "Llama", place: Tensor, qkv: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """What one token of each row reads, (m, q * d): qkv (m, q + 2n, d) of tokens at their `place` (m), which are put
    into the first m rows of keys and values (b, n, slots, d)."""
    out = qkv.new_empty(len(qkv), model.heads * model.head_dim)
    _launch_attend(model, qkv, place, keys, values, out, ATTEND_SLOTS["many"], ahead={"AHEAD": False, "num_warps": 4})
    return out


class Step:
    """The next token of one text, with its `last` token (1), which is not in the cache yet, and the `place` (1) where
    it goes: calling it launches the kernels, and changes all three."""

    def __init__(self, model: "Llama", cache: "Cache", last: Tensor, place: Tensor) -> None:
        self._model, self._cache, self._last, self._place = model, cache, last, place
        (vocabulary, hidden), layer = model.head.shape, model.layers[0]
        queries = model.heads * model.head_dim
        vectors = last.new_empty(hidden + len(layer.qkv) + queries + layer.down.shape[1], dtype=torch.float32)
        self._x, self._qkv, self._read, self._active = vectors.split(
            [hidden, len(layer.qkv), queries, layer.down.shape[1]]
        )
        self._part = torch.empty_like(self._x)
        self._programs = triton.cdiv(vocabulary, HEAD_ROWS)
        self._values = last.new_empty(self._programs, dtype=torch.float32)
        self._tokens = last.new_empty(self._programs, dtype=torch.int32)
        ahead = last.is_cuda and torch.version.hip is None and torch.cuda.get_device_capability(last.device) >= (9, 0)
        self._ahead = {"AHEAD": True, "launch_pdl": True} if ahead else {"AHEAD": False}

    def __call__(self) -> None:
        """Launches a step."""
        model, hidden = self._model, len(self._x)
        columns = _dividing(hidden, COLUMNS)
        if model.ranks == 1:
            _embed[(hidden // columns,)](
                self._last, model.embedding, self._x, IN=hidden, COLUMNS=columns, num_warps=4, **self._ahead
            )
        else:
            self._x.copy_(model.embed(self._last)[0])
        for layer, (keys, values) in zip(model.layers, self._cache, strict=True):
            self._project(self._x, layer.qkv, self._qkv, norm=layer.attention_norm)
            warps = {"num_warps": 8} | self._ahead
            _launch_attend(model, self._qkv, self._place, keys, values, self._read, ATTEND_SLOTS["one"], ahead=warps)
            self._add(self._read, layer.out)
            self._project(self._x, layer.gate_up, self._active, norm=layer.mlp_norm, gated=True)
            self._add(self._active, layer.down)
        _best[(self._programs,)](
            self._x, model.norm, model.head, self._values, self._tokens, model.eps, len(model.head),
            IN=hidden, ROWS=ROWS, TURNS=HEAD_ROWS // ROWS, COLUMNS=columns, num_warps=4, **self._ahead,
        )  # fmt: skip
        if model.ranks > 1:
            # Each rank has compared its own part of the vocabulary: in the place of the best, all take the best of all.
            best = self._values.argmax(keepdim=True)
            own = self._values[best], self._tokens[best] + model.first_token
            self._values[:1], self._tokens[:1] = model.best_of_all(*own)
            self._values[1:] = -torch.inf
        slots, size = self._cache[0][0].shape[2], triton.next_power_of_2(self._programs)
        _pick[(1,)](
            self._values, self._tokens, self._last, self._place, self._programs, slots,
            SIZE=size, num_warps=8, **self._ahead,
        )  # fmt: skip

    def _add(self, x: Tensor, weight: Tensor) -> None:
        """Adds the product to the residual stream: of several ranks, the sum of theirs."""
        if self._model.ranks == 1:
            self._project(x, weight, self._x, add=True)
        else:
            self._project(x, weight, self._part)
            self._x += self._model.total(self._part)

    def _project(
        self, x: Tensor, weight: Tensor, out: Tensor, norm: Tensor | None = None, gated: bool = False, add: bool = False
    ) -> None:
        rows = _dividing(len(out), GATED_ROWS if gated else ROWS)
        _project[(len(out) // rows,)](
            x, weight if norm is None else norm, weight, out, self._model.eps,
            IN=len(x), OUT=len(out), ROWS=rows, COLUMNS=_dividing(len(x), COLUMNS),
            NORM=norm is not None, GATED=gated, ADD=add, num_warps=4, **self._ahead,
        )  # fmt: skip


def _launch_attend(
    model: "Llama",
    qkv: Tensor,
    place: Tensor,
    keys: Tensor,
    values: Tensor,
    out: Tensor,
    block: int,
    ahead: dict[str, int | bool],
) -> None:
    group = max(16, triton.next_power_of_2(model.heads // model.kv_heads))
    _attend[(len(place), model.kv_heads)](
        qkv, model.cos, model.sin, place, keys, values, out, keys.shape[2],
        Q=model.heads, N=model.kv_heads, D=model.head_dim, GROUP=group, BLOCK=block, **ahead,
    )  # fmt: skip


def _dividing(n: int, most: int) -> int:
    """The largest power of two up to `most` that divides n."""
    return min(n & -n, most)
