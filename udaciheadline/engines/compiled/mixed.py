"""Products of many rows with weights in 8 or 4 bits, on a GPU: prompts, and the steps of a job.

What is fastest depends on the number of rows:

* **Few** (a lone prompt, a small batch): the time is that of reading the weights, as for one row. A kernel unpacks a
  tile in registers and hands it to the matrix units, in the type of x; a row's scale waits for the sum.
* **Many**: the time is that of multiplying, and the library does that best. It gets the weight unpacked, which is a
  small part of the time then, and in memory that the next product uses again.
* **fp8**, many: the matrix units multiply fp8 as it is, at twice their rate for 16 bits, if x is fp8 too. So each row
  of x is scaled by its largest magnitude and rounded (dynamic quantisation). That changes the numbers, by more than the
  weights do where those are calibrated. A text that is written alone meets it in its prompt only, and is judged so
  (`as_steps`).
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from udaciheadline.engines.compiled.kernels import code
from udaciheadline.engines.compiled.weights import Quantized

FEW = 128  # rows for which reading the weights takes longer than multiplying with them
FP8_ROWS = 16  # from which on fp8 is multiplied as it is
FP8_SIZES = 16  # a multiple of which the matrix must be for that
UNPACKED = 1024  # numbers that a program unpacks

_rows_of_steps: list[Tensor] = []


@contextlib.contextmanager
def as_steps(rows: Tensor) -> Iterator[None]:
    """Meanwhile these rows (n) of all products, by number, are multiplied as a step multiplies its few, however many
    there are: x is not rounded for them. So a whole text can be read as it is written, its prompt at once and the rest
    token by token."""
    _rows_of_steps.append(rows)
    try:
        yield
    finally:
        _rows_of_steps.pop()


def product(weight: Quantized, x: Tensor, bias: Tensor | None) -> Tensor:
    """x (m, i) times the weight (o, i), transposed, plus bias (o): (m, o) in x's type."""
    made: Tensor = _product(x, weight.codes, weight.scales, weight.in_a_word, weight.together, weight.floating)
    return made if bias is None else made + bias


@torch.library.custom_op("udaciheadline::quantized_product", mutates_args=())
def _product(x: Tensor, codes: Tensor, scales: Tensor, in_a_word: int, together: int, floating: bool) -> Tensor:
    packing: Any = {"CODES": in_a_word, "GROUP": together, "FLOAT": floating}
    fits = x.dtype == torch.bfloat16 and len(codes) % FP8_SIZES == 0
    if not (floating and len(x) >= FP8_ROWS and fits):
        return _with_x_as_it_is(x, codes, scales, packing)
    made = _scaled(x, codes, scales, packing)
    for rows in _rows_of_steps:
        made[rows] = _with_x_as_it_is(x[rows], codes, scales, packing)
    return made


@_product.register_fake
def _(x: Tensor, codes: Tensor, scales: Tensor, in_a_word: int, together: int, floating: bool) -> Tensor:
    return x.new_empty(x.shape[0], codes.shape[0])  # of any number of rows: `len` would fix it


def _with_x_as_it_is(x: Tensor, codes: Tensor, scales: Tensor, packing: Any) -> Tensor:
    if len(x) <= FEW:
        return _fused(x, codes, scales, packing)
    return x @ unpacked(codes, scales, x.dtype, packing).t()


def _scaled(x: Tensor, codes: Tensor, scales: Tensor, packing: Any) -> Tensor:
    """The same with x in fp8, each row with a scale of its own, in the order that its columns have in words."""
    rows, columns = x.shape
    low, x_scales = torch.empty_like(x, dtype=torch.float8_e4m3fn), x.new_empty(rows, 1, dtype=torch.float32)
    scale_rows_kernel[(rows,)](
        x, low, x_scales, IN=columns, GROUP=packing["GROUP"], BLOCK=triton.next_power_of_2(columns), num_warps=8
    )
    return torch._scaled_mm(
        low, codes.view(torch.float8_e4m3fn).t(), x_scales, scales[None], out_dtype=x.dtype, use_fast_accum=True
    )


def _fused(x: Tensor, codes: Tensor, scales: Tensor, packing: Any) -> Tensor:
    """The same with few rows of x: the weight is unpacked in registers."""
    rows, (out, length) = len(x), codes.shape
    made = x.new_empty(rows, out)
    many = min(128, max(16, triton.next_power_of_2(rows)))
    wide = 32 if many <= 64 else 64
    multiply_words_kernel[(triton.cdiv(out, wide), triton.cdiv(rows, many))](
        x.contiguous(), codes, scales, made, rows, out,
        LENGTH=length, WORDS=64 if many <= 32 else 32, MANY=many, WIDE=wide, num_warps=4, num_stages=2, **packing,
    )  # fmt: skip
    return made


def unpacked(codes: Tensor, scales: Tensor, dtype: torch.dtype, packing: Any) -> Tensor:
    """The weight (o, i) in full precision, of type `dtype`."""
    out, length = codes.shape
    made = torch.empty(out, length * packing["CODES"], dtype=dtype, device=codes.device)
    unpack_kernel[(triton.cdiv(made.numel(), UNPACKED),)](
        codes, scales, made, made.numel(), SHARED=made.shape[1] // scales[0].numel(), BLOCK=UNPACKED, num_warps=4,
        **packing,
    )  # fmt: skip
    return made


@triton.jit
def multiply_words_kernel(
    x_ptr, words_ptr, scale_ptr, out_ptr, M, OUT,
    LENGTH: tl.constexpr, CODES: tl.constexpr, GROUP: tl.constexpr, FLOAT: tl.constexpr, WORDS: tl.constexpr,
    MANY: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """out (M, OUT) = x (M, LENGTH * CODES) times words (OUT, LENGTH) with CODES codes each, and scales: (OUT), or of 4
    bits one for GROUP words side by side."""
    rows, outs = tl.program_id(1) * MANY + tl.arange(0, MANY), tl.program_id(0) * WIDE + tl.arange(0, WIDE)
    place = tl.arange(0, WORDS)
    kind = x_ptr.dtype.element_ty
    x_at = x_ptr + rows[:, None] * (LENGTH * CODES) + (place // GROUP * (CODES * GROUP) + place % GROUP)[None, :]
    at = words_ptr + outs[None, :].to(tl.int64) * LENGTH + place[:, None]
    scale_at = scale_ptr + outs[None, :].to(tl.int64) * (LENGTH // GROUP) + (place // GROUP)[:, None]
    total = tl.zeros((MANY, WIDE), tl.float32)
    for start in range(0, LENGTH, WORDS):
        inside = start + place < LENGTH
        mask = (outs < OUT)[None, :] & inside[:, None]
        words = tl.load(at + start, mask=mask, other=0)
        if CODES == 8:
            scales = tl.load(scale_at + start // GROUP, mask=mask, other=0.0).to(tl.float32)
        for k in tl.static_range(CODES):
            x_mask = (rows < M)[:, None] & inside[None, :]
            x = tl.load(x_at + start * CODES + k * GROUP, mask=x_mask, other=0.0)
            own = code(words, k * (32 // CODES), CODES, FLOAT)
            if CODES == 8:
                own *= scales
            total += tl.dot(x, own.to(kind), input_precision="ieee")
    if CODES == 4:
        total *= tl.load(scale_ptr + outs, mask=outs < OUT, other=0.0)[None, :]
    real = (rows < M)[:, None] & (outs < OUT)[None, :]
    tl.store(out_ptr + rows[:, None] * OUT + outs[None, :], total.to(kind), mask=real)


@triton.jit
def unpack_kernel(
    words_ptr, scale_ptr, out_ptr, size,
    SHARED: tl.constexpr, CODES: tl.constexpr, GROUP: tl.constexpr, FLOAT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out (size) = the codes of words times scales, which SHARED neighbours share."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    real = i < size
    within = (i % (CODES * GROUP)).to(tl.int32)
    words = tl.load(words_ptr + i // (CODES * GROUP) * GROUP + within % GROUP, mask=real, other=0)
    value = code(words, within // GROUP * (32 // CODES), CODES, FLOAT)
    value *= tl.load(scale_ptr + i // SHARED, mask=real, other=0.0).to(tl.float32)
    tl.store(out_ptr + i, value.to(out_ptr.dtype.element_ty), mask=real)


@triton.jit
def scale_rows_kernel(x_ptr, low_ptr, scale_ptr, IN: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr):
    """low = x / scale in fp8, with a scale for each row of x (m, IN), in the order of words of four codes."""
    row, i = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    word, k = i // 4, i % 4
    column = word // GROUP * (4 * GROUP) + k * GROUP + word % GROUP
    x = tl.load(x_ptr + row * IN + column, mask=i < IN, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(x), 0), 1e-30) / 448.0
    tl.store(low_ptr + row * IN + i, (x / scale).to(tl.float8e4nv), mask=i < IN)
    tl.store(scale_ptr + row, scale)
