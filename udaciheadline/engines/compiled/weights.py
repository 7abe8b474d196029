"""The matrices of a model's products: as they are, or in 8 or 4 bits that a product unpacks on the way.

A token's time at batch 1 is that of reading the weights, so half of the bytes is nearly half of the time, if nothing
but the product touches them: no copy in full precision is ever made of them there. What is multiplied stays in full
precision (weight-only quantisation), and so does the sum.

* **int8**: a row of the matrix has one scale, its largest magnitude / 127.
* **fp8**: the same with numbers of 4 bits of exponent and 3 of mantissa (e4m3), the largest of them 448: as many bytes,
  coarser near the largest weights, finer near zero; a Hopper GPU multiplies them as they are.
* **int4**: a group of 128 or 64 neighbours in a row has one scale, for codes from -8 to 7.

The head, which decides between tokens that are nearly tied, is int8 whatever the layers are, and so is the embedding
that is tied to it.

Shapes: weights (o, i) multiply x (m, i) to (m, o).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from udaciheadline.records import Unsupported

KINDS = ("int8", "fp8", "int4")
RANGE = {"int8": (-127.0, 127.0), "fp8": (-448.0, 448.0), "int4": (-8.0, 7.0)}  # of codes
GROUPS = (128, 64)  # weights of a row that share a scale in 4 bits: the first that divides the row
UNPACKED = {"CODES": 1, "GROUP": 1, "FLOAT": False}  # the `packing` of a weight that is not quantised
TOGETHER = 16  # words side by side, whose kth codes are of neighbours in 8 bits


class Quantized(nn.Module):
    """A weight (o, i) in 8 or 4 bits, for products in `dtype`.

    `codes` (o, i) are int8 or float8_e4m3fn, and `scales` (o) float32. Or there are several codes `in_a_word`: `codes`
    are then words (o, i / in_a_word) of int32, `together` of them side by side, whose kth codes are those of as many
    neighbours: what is next to each other in words is so in x, too. Integers have half of their range added there; of
    a `floating` code a word has the bits. Words of 4 bits have `scales` (o, i / group) in `dtype`, for groups of
    8 * together neighbours. A GPU has all kinds in words.
    """

    def __init__(
        self, codes: Tensor, scales: Tensor, dtype: torch.dtype, in_a_word: int = 1, floating: bool = False
    ) -> None:
        super().__init__()
        self.codes = nn.Parameter(codes, requires_grad=False)
        self.scales = nn.Parameter(scales, requires_grad=False)
        self.dtype, self.in_a_word, self.floating = dtype, in_a_word, floating
        self.bits = 4 if in_a_word == 8 else 8
        self.shape = torch.Size((len(codes), codes.shape[1] * in_a_word))
        self.together = 1
        if in_a_word > 1:
            self.together = self.shape[1] // scales.shape[1] // in_a_word if self.bits == 4 else TOGETHER

    @property
    def packing(self) -> dict[str, Any]:
        """Codes in a word, words together, and whether they are floating, by the names that kernels have for them."""
        return {"CODES": self.in_a_word, "GROUP": self.together, "FLOAT": self.floating}

    def __len__(self) -> int:
        return self.shape[0]

    def numel(self) -> int:
        """The number of weights."""
        return self.shape.numel()

    @property
    def row(self) -> tuple[int, int]:
        """The words of a row, and its codes."""
        return self.codes.shape[1], self.shape[1]

    @property
    def is_cuda(self) -> bool:
        return self.codes.is_cuda

    def unpacked(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """The codes of these rows as numbers (m, groups, group): a group is what shares a scale."""
        codes = self.codes[rows]
        if self.in_a_word == 1:
            own = codes.float()
        else:
            words = codes.view(len(codes), -1, 1, self.together)
            parts = [(words >> self.bits * k) & (2**self.bits - 1) for k in range(self.in_a_word)]
            own = torch.cat(parts, dim=2).flatten(1)
            if self.floating:
                own = own.to(torch.uint8).view(torch.float8_e4m3fn).float()
            else:
                own = own.float() - 2 ** (self.bits - 1)
        return own.view(len(codes), self.scales[0].numel(), -1)

    def dense(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """These rows (m, i) of the weight in full precision, float32."""
        own = self.unpacked(rows)
        return (own * self.scales[rows].float().view(*own.shape[:2], 1)).flatten(1)

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x (m, i) times the weight, transposed, plus bias (o): (m, o)."""
        if self.is_cuda:
            from udaciheadline.engines.compiled import mixed  # needs Triton, which a CPU build of torch comes without

            return mixed.product(self, x, bias)
        return F.linear(x, self.dense().to(x.dtype), bias)


Matrix = nn.Parameter | Quantized


def quantized(weight: Tensor, kind: str, scales: Tensor | None = None, words: bool | None = None) -> Quantized:
    """The weight (o, i) in the KINDS' `kind`, each number rounded to the nearest code; 8 bits in `words` or not (None:
    as kernels want them where the weight is).

    Whoever has chosen scales (o, groups) and rounded on to them already gets exactly that; only int4 has more than one
    group in a row. Raises Unsupported for a matrix whose rows do not divide into groups or words.
    """
    rows, columns = weight.shape
    grouped = weight.float().view(rows, -1, group(columns) if kind == "int4" else columns)
    if scales is None:
        least = torch.finfo(weight.dtype).tiny * RANGE[kind][1]  # of a row of zeros, in the type of its scale
        scales = grouped.abs().amax(2).clamp(min=least) / RANGE[kind][1]
    scales = scales.to(weight.dtype) if kind == "int4" else scales.flatten()
    codes = to_codes((grouped / scales.float().view(rows, -1, 1)).flatten(1), kind)
    if kind == "int4":
        nibbles = codes.to(torch.int32) + 8
        return Quantized(in_words(nibbles, 8, group(columns) // 8), scales, weight.dtype, in_a_word=8)
    if weight.is_cuda if words is None else words:
        codes = codes.view(torch.uint8).to(torch.int32) if kind == "fp8" else codes.to(torch.int32) + 128
        return Quantized(in_words(codes, 4, TOGETHER), scales, weight.dtype, in_a_word=4, floating=kind == "fp8")
    return Quantized(codes, scales, weight.dtype, floating=kind == "fp8")


def to_codes(numbers: Tensor, kind: str) -> Tensor:
    """The nearest codes, int8 or float8_e4m3fn, of numbers that were divided by their scales and are used up."""
    numbers.clamp_(*RANGE[kind])  # beyond which fp8 has no number, and some versions of torch say so
    return numbers.to(torch.float8_e4m3fn) if kind == "fp8" else numbers.round_().to(torch.int8)


def in_words(codes: Tensor, count: int, together: int) -> Tensor:
    """Words (o, i / count) of int32 with `count` codes each, from codes (o, i) of int32, none of them negative: see
    `Quantized`. Raises Unsupported where a row has not a whole number of them."""
    rows, columns = codes.shape
    if columns % (count * together):
        raise Unsupported(f"its matrices have rows of {columns} weights, and {count * together} are packed together")
    words = torch.zeros(rows, columns // count // together, together, dtype=torch.int32, device=codes.device)
    for k, own in enumerate(codes.view(rows, -1, count, together).unbind(2)):
        words |= own << 32 // count * k
    return words.flatten(1)


def group(columns: int) -> int:
    """How many weights of a row of so many columns share a scale in 4 bits."""
    for size in GROUPS:
        if columns % size == 0:
            return size
    raise Unsupported(f"its matrices have rows of {columns} weights, which do not divide into groups of {GROUPS[-1]}")


def project(x: Tensor, weight: Matrix, bias: Tensor | None = None) -> Tensor:
    """x (m, i) times weight (o, i), transposed, plus bias (o): (m, o)."""
    if isinstance(weight, Quantized):
        return weight.product(x, bias)
    if weight.is_mkldnn:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def embed(tokens: Tensor, weight: Matrix) -> Tensor:
    """The rows (m, i) of these tokens (m)."""
    return weight.dense(tokens).to(weight.dtype) if isinstance(weight, Quantized) else F.embedding(tokens, weight)


def parts(weight: Matrix) -> tuple[Tensor, Tensor | None]:
    """What a kernel reads of a weight: it, or its codes, and its scales."""
    return (weight.codes, weight.scales) if isinstance(weight, Quantized) else (weight, None)


def taken_over(*modules: Any, name: str = "weight", kind: str | None = None) -> Any:
    """The weights (or biases) of transformers' modules, one under the other; quantised to `kind`, where it is given, on
    the `scales` that a module may have got by calibration."""
    weights = [getattr(module, name).detach() for module in modules]
    weight = weights[0] if len(weights) == 1 else torch.cat(weights)
    if kind is None:
        if weight.dim() == 1:  # a norm or bias would keep the file that it was read from in memory, all of it
            weight = weight.clone()
        return nn.Parameter(weight, requires_grad=False)
    scales = [module.scales for module in modules if hasattr(module, "scales")]
    return quantized(weight, kind, torch.cat(scales) if scales else None)


def packed(weight: Matrix) -> Matrix:
    """The weight in the order in which a CPU's library of matrix products reads it (oneDNN's), where it has one."""
    if isinstance(weight, Quantized) or not can_pack(weight.dtype):
        return weight
    return nn.Parameter(torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None), requires_grad=False)


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this CPU's matrix library has products of this type with weights in an order of its own."""
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def count(module: nn.Module) -> int:
    """The number of weights in a module, however few bytes they have."""
    matrices = [part for part in module.modules() if isinstance(part, Quantized)]
    packed_apart = sum(p.numel() for matrix in matrices for p in matrix.parameters())
    return sum(p.numel() for p in module.parameters()) - packed_apart + sum(map(Quantized.numel, matrices))
