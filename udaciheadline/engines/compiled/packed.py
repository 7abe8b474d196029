"""Weights in the order in which a CPU multiplies them with our own products (`cpu/`).

A word of 32 bits holds as many codes of neighbouring columns of one row as fit, and the words of several rows lie side
by side: one vector of the processor, each of whose lanes sums up a row of its own. A single vector x is multiplied in
float32; several are rounded to bfloat16 where the processor multiplies pairs of them. Sums are float32. PyTorch's own
products of 8 and 4 bits were measured beside these (docs/performance.md).
"""

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor

from udaciheadline.engines.compiled import native
from udaciheadline.engines.compiled.weights import Matrix, Quantized

QUANTISED = ("int8", "int4")  # the kinds of quantised weights that there are products for, beside whole numbers
KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2, torch.int32: 3}  # of codes, as products.h counts them


class Packed(Quantized):
    """A weight (o, i) in packed order: codes (o / lanes, i / share, lanes) of int32, where `share` codes are in a
    word, and scales (o / lanes, groups, lanes), float32, where it has any (groups is 0 otherwise).

    Weights that are not quantised are codes without scales. What fills no vector or word is filled up with zeros.
    """

    def __init__(self, weight: Matrix) -> None:
        rows, _ = weight.shape
        bits = weight.bits if isinstance(weight, Quantized) else 8 * weight.element_size()
        share = 32 // bits
        if isinstance(weight, Quantized):
            codes, scales = weight.codes.detach(), weight.scales.float().view(rows, -1)
        else:
            codes, scales = weight.detach(), torch.zeros(rows, 0)
        if isinstance(weight, Quantized) and weight.bits == 4:
            own = _side_by_side(weight.unpacked().flatten(1).to(torch.int8) & 15, share)
            words = torch.zeros(own.shape[:-1], dtype=torch.int32)
            for k in range(share):
                words |= own[..., k].to(torch.int32) << 4 * k
        else:
            words = _side_by_side(codes, share).view(torch.int32).squeeze(-1)
        super().__init__(words, _side_by_side(scales, 1).squeeze(-1), weight.dtype)
        self.kind = KINDS[codes.dtype]
        self.bits = bits
        self.shape = weight.shape

    def dense(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """These rows (m, i) of the weight, float32."""
        index, lanes = torch.arange(len(self))[rows], self.codes.shape[2]
        words, scales = (part[index // lanes, :, index % lanes] for part in (self.codes, self.scales))
        if self.bits == 4:
            own = torch.stack([words << 28 - 4 * k >> 28 for k in range(8)], dim=2).flatten(1)
        else:
            own = words.view({32: torch.float32, 16: torch.bfloat16, 8: torch.int8}[self.bits])
        own = own[:, : self.shape[1]].float()
        if not scales.numel():
            return own
        return (own.view(*scales.shape, -1) * scales[..., None]).flatten(1)

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x (m, i) times the weight, transposed, plus bias (o): (m, o)."""
        matrix = self.matrix()
        vectors = F.pad(x.float(), (0, matrix.columns - x.shape[1])).contiguous()
        y = vectors.new_empty(len(x), len(self))
        native.library().product(
            ctypes.byref(matrix), vectors.data_ptr(), len(x), y.data_ptr(), torch.get_num_threads()
        )
        return (y if bias is None else y + bias).to(x.dtype)

    def matrix(self, bias: Tensor | None = None) -> native.Matrix:
        """Its addresses, which hold as long as it and the bias (o), float32, do."""
        groups = self.scales.shape[1]
        return native.Matrix(
            codes=self.codes.data_ptr(),
            scales=self.scales.data_ptr() if groups else None,
            bias=None if bias is None else bias.data_ptr(),
            rows=len(self),
            columns=self.codes.shape[1] * 32 // self.bits,
            words=self.codes.shape[1],
            groups=max(groups, 1),
            kind=self.kind,
        )


def _side_by_side(numbers: Tensor, share: int) -> Tensor:
    """Numbers (o, i), `lanes` rows and `share` columns together: (o / lanes, i / share, lanes, share)."""
    rows, columns = numbers.shape
    lanes = native.library().lanes()
    filled = F.pad(numbers, (0, -columns % share, 0, -rows % lanes))
    return filled.unflatten(1, (-1, share)).unflatten(0, (-1, lanes)).transpose(1, 2).contiguous()
