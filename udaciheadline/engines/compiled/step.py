"""One text's step on a GPU: the launches of what `kernels.py` and `products.py` hold, five kernels a layer, seven with
several ranks."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import triton
from torch import Tensor

from udaciheadline.engines.compiled import kernels, products, words
from udaciheadline.engines.compiled.tiles import HEAD_ROWS, stream, tile
from udaciheadline.engines.compiled.weights import UNPACKED, Matrix, Quantized, parts

if TYPE_CHECKING:
    from udaciheadline.engines.compiled.llama import Cache, Llama
    from udaciheadline.engines.compiled.peers import Peers

BLOCK = 1024  # elements of a vector that a program copies or sums


def inbox_words(model: "Llama") -> int:
    """The words that a step of a split model sends to each rank: a part from each of the embedding and of two sums a
    layer, and each rank's best token with its logit."""
    return model.ranks.count * ((2 * len(model.layers) + 1) * len(model.norm) + 2)


class Step:
    """The next token of one text, with its `last` token (1), which is not in the cache yet, and the `place` (1) where
    it goes: calling it launches the kernels, and changes all three.

    A rank of a split model needs its `peers`. A stage of a pipeline works on `x` (h), float32: it finds there what the
    stage before made, or leaves there what the next one goes on with.
    """

    def __init__(
        self, model: "Llama", cache: "Cache", last: Tensor, place: Tensor, peers: "Peers | None" = None
    ) -> None:
        self._model, self._cache, self._last, self._place, self._peers = model, cache, last, place, peers
        self._norms: dict[Tensor, Tensor] = {}
        self._processors = torch.cuda.get_device_properties(last.device).multi_processor_count if last.is_cuda else 1
        hidden, layer = len(model.norm), model.layers[0]
        queries = model.heads * model.head_dim
        vectors = last.new_empty(hidden + len(layer.qkv) + queries + layer.down.shape[1], dtype=torch.float32)
        self.x, self._qkv, self._read, self._active = vectors.split(
            [hidden, len(layer.qkv), queries, layer.down.shape[1]]
        )
        if model.stage.last:
            self._programs = triton.cdiv(len(model.head), HEAD_ROWS)
            if isinstance(model.head, Quantized):
                self._programs = stream(len(model.head), *model.head.row, False, self._processors).programs
            self._values = last.new_empty(self._programs, dtype=torch.float32)
            self._tokens = last.new_empty(self._programs, dtype=torch.int32)
        self._block = min(triton.next_power_of_2(hidden), BLOCK)
        self._inboxes = (None, None) if peers is None else (peers.inboxes, peers.step)
        self._first_token = model.ranks.first_token
        ahead = last.is_cuda and torch.version.hip is None and torch.cuda.get_device_capability(last.device) >= (9, 0)
        self._ahead = {"AHEAD": kernels.BEFORE, "launch_pdl": True} if ahead else {"AHEAD": 0}

    def __call__(self) -> None:
        """Launches a step."""
        for _ in self.launches():
            pass

    def launches(self) -> Iterator[None]:
        """Launches a step, with a pause before each kernel that waits for other ranks."""
        model = self._model
        if model.stage.first:
            yield from self._embed()
        for i, (layer, (keys, values)) in enumerate(zip(model.layers, self._cache, strict=True)):
            self._project(self.x, layer.qkv, self._qkv, norm=layer.attention_norm, bias=layer.qkv_bias)
            kernels.launch_attend(
                model.cos, model.sin, self._qkv, self._place, keys, values, self._read,
                kernels.Norms(layer.q_norm, layer.k_norm, model.eps), "one", self._ahead,
            )  # fmt: skip
            yield from self._add(self._read, layer.out, 2 * i + 1)
            self._project(self.x, layer.gate_up, self._active, norm=layer.mlp_norm, gated=True)
            yield from self._add(self._active, layer.down, 2 * i + 2)
        if model.stage.last:
            yield from self._pick()
        else:
            self._place += 1

    def _embed(self) -> Iterator[None]:
        model, hidden = self._model, len(self.x)
        packing = model.embedding.packing if isinstance(model.embedding, Quantized) else UNPACKED
        kernels.embed_kernel[(triton.cdiv(hidden, self._block),)](
            self._last, *parts(model.embedding), self.x, *self._inboxes, self._at(0), self._first_token,
            len(model.embedding),
            IN=hidden, COLUMNS=self._block, **packing, RANKS=model.ranks.count, num_warps=4,
            **self._ahead,
        )  # fmt: skip
        yield from self._add_parts(0)

    def _add(self, x: Tensor, weight: Matrix, number: int) -> Iterator[None]:
        """Adds the product to the residual stream: of several ranks, sum `number` of the step, which is of theirs."""
        self._project(x, weight, self.x, add=True, pushed=None if self._peers is None else self._at(number))
        yield from self._add_parts(number)

    def _add_parts(self, number: int) -> Iterator[None]:
        if self._peers is None:
            return
        yield
        hidden, ranks = len(self.x), self._peers.count
        parts = self._peers.inbox[number * ranks * hidden :]
        kernels.add_parts_kernel[(triton.cdiv(hidden, self._block),)](
            self.x, parts, self._peers.step,
            SIZE=hidden, BLOCK=self._block, ADD=number > 0, RANKS=ranks, num_warps=4, **self._ahead,
        )  # fmt: skip

    def _at(self, number: int) -> int:
        """The word where this rank's part of a sum begins."""
        return 0 if self._peers is None else (number * self._peers.count + self._peers.rank) * len(self.x)

    def _pick(self) -> Iterator[None]:
        model, hidden, peers = self._model, len(self.x), self._peers
        if isinstance(model.head, Quantized):
            streamed = stream(len(model.head), *model.head.row, False, self._processors)
            words.best_words_kernel[(self._programs,)](
                self.x, self._in_full(model.norm), *parts(model.head), self._values, self._tokens,
                words.EXPONENTS, IN=hidden, OUT=len(model.head), **model.head.packing,
                ROWS=streamed.rows, WORDS=streamed.words, num_warps=streamed.warps,
                **self._ahead,
            )  # fmt: skip
        else:
            shape = tile(len(model.head), hidden, model.head.element_size(), False, self._processors)
            products.best_kernel[(self._programs,)](
                self.x, model.norm, model.head, self._values, self._tokens,
                IN=hidden, OUT=len(model.head), ROWS=shape.rows, TURNS=HEAD_ROWS // shape.rows, COLUMNS=shape.columns,
                num_warps=shape.warps, **self._ahead,
            )  # fmt: skip
        slots, size = self._cache[0][0].shape[2], triton.next_power_of_2(self._programs)
        at = 0 if peers is None else len(peers.inbox) - 2 * peers.count + peers.rank
        kernels.pick_kernel[(1,)](
            self._values, self._tokens, self._last, self._place, self._programs, slots, *self._inboxes, at,
            self._first_token, SIZE=size, RANKS=model.ranks.count, num_warps=8, **self._ahead,
        )  # fmt: skip
        if peers is None:
            return
        yield
        size = triton.next_power_of_2(peers.count)
        kernels.agree_kernel[(1,)](
            peers.inbox[-2 * peers.count :], peers.step, self._last, self._place, slots,
            SIZE=size, RANKS=peers.count, num_warps=1, **self._ahead,
        )  # fmt: skip

    def _in_full(self, norm: Tensor | None) -> Tensor | None:
        """A norm's weights in float32, as kernels of words read them: see `words.read_x`."""
        if norm is None or norm.dtype == torch.float32:
            return norm
        if norm not in self._norms:
            self._norms[norm] = norm.float()
        return self._norms[norm]

    def _project(
        self,
        x: Tensor,
        weight: Matrix,
        out: Tensor,
        norm: Tensor | None = None,
        bias: Tensor | None = None,
        gated: bool = False,
        add: bool = False,
        pushed: int | None = None,
    ) -> None:
        options: dict[str, Any] = {
            "IN": len(x), "OUT": len(out), "GATED": gated, "ADD": add,
            "RANKS": 1 if pushed is None else self._model.ranks.count, **self._ahead,
        }  # fmt: skip
        if isinstance(weight, Quantized):
            streamed = stream(len(out), *weight.row, gated, self._processors)
            words.project_words_kernel[(streamed.programs,)](
                x, self._in_full(norm), *parts(weight), bias, out, self._model.eps, *self._inboxes, pushed or 0,
                words.EXPONENTS, **weight.packing,
                ROWS=streamed.rows, WORDS=streamed.words, num_warps=streamed.warps, **options,
            )  # fmt: skip
            return
        shape = tile(len(out), len(x), weight.element_size(), gated, self._processors)
        products.project_kernel[(triton.cdiv(len(out), shape.rows),)](
            x, norm, weight, bias, out, self._model.eps, *self._inboxes, pushed or 0,
            ROWS=shape.rows, COLUMNS=shape.columns, FIRST=shape.first, num_warps=shape.warps, **options,
        )  # fmt: skip
