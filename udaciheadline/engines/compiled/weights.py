"""The matrices of a model's products: as they are, or in 8 or 4 bits that a product unpacks on the way.

A token's time at batch 1 is that of reading the weights, so half of the bytes is nearly half of the time, if nothing
but the product touches them: no copy in full precision is ever made of them there. What is multiplied stays in full
precision (weight-only quantisation), and so does the sum.

* **int8**: a row of the matrix has one scale, its largest magnitude / 127.
* **fp8**: the same with numbers of 4 bits of exponent and 3 of mantissa (e4m3), the largest of them 448: as many bytes,
  coarser near the largest weights, finer near zero; a Hopper GPU multiplies them as they are.
* **int4**: a group of 128 or 64 neighbours in a row has one scale, for codes from -8 to 7. The head, which decides
  between tokens that are nearly tied, has 8 bits, and so has the embedding that is tied to it.

Shapes: weights (o, i) multiply x (m, i) to (m, o).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from udaciheadline.records import Unsupported

KINDS = ("int8", "fp8", "int4")
LARGEST = {"int8": 127.0, "fp8": 448.0, "int4": 7.0}
GROUPS = (128, 64)  # weights of a row that share a scale in 4 bits: the first that divides the row
NIBBLES = 8  # codes of 4 bits in a word of 32


class Quantized(nn.Module):
    """A weight (o, i) in 8 or 4 bits, for products in `dtype`.

    `codes` (o, i) are int8 or float8_e4m3fn, and `scales` (o) float32. In 4 bits, codes are words (o, i / 8) of int32,
    and scales (o, i / group) in `dtype`. A group is group / 8 words side by side, of which bits 4k and up hold, plus 8,
    the codes of the kth eighth of the group's columns: what is next to each other in words is so in x, too.
    """

    def __init__(self, codes: Tensor, scales: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.codes = nn.Parameter(codes, requires_grad=False)
        self.scales = nn.Parameter(scales, requires_grad=False)
        self.dtype = dtype
        self.bits = 4 if codes.dtype == torch.int32 else 8
        self.shape = torch.Size((len(codes), codes.shape[1] * (NIBBLES if self.bits == 4 else 1)))

    def __len__(self) -> int:
        return self.shape[0]

    def numel(self) -> int:
        """The number of weights."""
        return self.shape.numel()

    def element_size(self) -> float:
        """Bytes of a weight, without its share of a scale."""
        return self.bits / 8

    @property
    def is_cuda(self) -> bool:
        return self.codes.is_cuda

    def unpacked(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """The codes of these rows as numbers (m, groups, group)."""
        codes = self.codes[rows]
        if self.bits == 8:
            return codes.float()[:, None]
        words = codes.view(*self.scales[rows].shape, 1, -1)
        own = torch.cat([(words >> 4 * k) & 15 for k in range(NIBBLES)], dim=2).float() - 8  # (m, groups, 8, group / 8)
        return own.flatten(2)

    def dense(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """These rows (m, i) of the weight in full precision, float32."""
        own = self.unpacked(rows)
        return (own * self.scales[rows].float().view(*own.shape[:2], 1)).flatten(1)

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x (m, i) times the weight, transposed, plus bias (o): (m, o)."""
        return F.linear(x, self.dense().to(x.dtype), bias)


Matrix = nn.Parameter | Quantized


def quantized(weight: Tensor, kind: str, scales: Tensor | None = None) -> Quantized:
    """The weight (o, i) in the KINDS' `kind`, each number rounded to the nearest code.

    Whoever has chosen scales and rounded on to them already (`scales` (o, i / group), for int4) gets exactly that.
    Raises Unsupported for a matrix that 4 bits do not fit.
    """
    if kind == "int4":
        return _in_groups(weight, scales)
    values = weight.float()
    scale = values.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / LARGEST[kind]
    codes = values / scale[:, None]
    codes = codes.to(torch.float8_e4m3fn) if kind == "fp8" else codes.round().to(torch.int8)
    return Quantized(codes, scale, weight.dtype)


def _in_groups(weight: Tensor, scales: Tensor | None) -> Quantized:
    rows, columns = weight.shape
    size = group(columns)
    grouped = weight.float().view(rows, columns // size, size)
    if scales is None:
        scales = (grouped.abs().amax(2).clamp(min=torch.finfo(torch.float32).tiny) / LARGEST["int4"]).to(weight.dtype)
    codes = (grouped / scales.float()[..., None]).round().clamp(-8, 7).to(torch.int32) + 8
    words = torch.zeros(rows, columns // size, size // NIBBLES, dtype=torch.int32, device=weight.device)
    for k, eighth in enumerate(codes.chunk(NIBBLES, dim=2)):
        words |= eighth << 4 * k
    return Quantized(words.flatten(1), scales, weight.dtype)


def group(columns: int) -> int:
    """How many weights of a row of so many columns share a scale in 4 bits."""
    for size in GROUPS:
        if columns % size == 0:
            return size
    raise Unsupported(f"its matrices have rows of {columns} weights, which do not divide into groups of {GROUPS[-1]}")


def project(x: Tensor, weight: Matrix, bias: Tensor | None = None) -> Tensor:
    """x (m, i) times weight (o, i), transposed, plus bias (o): (m, o).

    For a single token there is no matrix to multiply, only a weight to read. Written out as products and sums, a
    compiler fuses it with the norm before and the activation after it, which a call into a library of matrix products
    does not allow. Sums are kept in float32, as the library does.
    """
    if isinstance(weight, Quantized):
        return weight.product(x, bias)
    if weight.is_mkldnn:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    if len(x) == 1 and torch.compiler.is_compiling():
        y = (x.float() * weight.float()).sum(-1, dtype=torch.float32)
        return (y if bias is None else y + bias).to(x.dtype)[None]
    return F.linear(x, weight, bias)


def embed(tokens: Tensor, weight: Matrix) -> Tensor:
    """The rows (m, i) of these tokens (m)."""
    return weight.dense(tokens).to(weight.dtype) if isinstance(weight, Quantized) else F.embedding(tokens, weight)


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
