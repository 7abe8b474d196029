"""The texts in flight, and how a prompt is read and a token written: in plain PyTorch, and in C++ of our own on a CPU.

What a GPU does instead stands in `graphs.py`.

A row of the cache holds one text. `prefill` reads prompts into rows, `advance` writes one or more tokens to the first
rows; both return at once, with tokens that are on their way to the host.
"""

import ctypes
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from udaciheadline.engines.compiled import native
from udaciheadline.engines.compiled.llama import Llama
from udaciheadline.engines.texts import Ending

REJECTED = -1  # in the place of a drafted token that is not written


class Text:
    """One prompt on its way to a headline."""

    def __init__(self, prompt: list[int]) -> None:
        self.prompt = prompt
        self.new: list[int] = []
        self.asked = 0  # tokens that were launched, whether they have arrived or not
        self.row = -1
        self.done = False
        self.first_token_at = 0.0
        self.drafted = 0
        self.accepted_at: list[int] = []  # how often, by the place of a token in its draft

    def count(self, row: list[int], used: int) -> None:
        """Counts the drafts of a round (`speculation.Written`), of whose tokens the headline takes the first `used`."""
        kept = sum(token >= 0 for token in row) - 1
        if drafted := kept + row.count(REJECTED):
            self.drafted += drafted
            self.accepted_at = self.accepted_at or [0] * drafted
            for place in range(min(used, kept)):
                self.accepted_at[place] += 1


class Tokens:
    """Tokens (rows, made) on their way to the host: the copy is queued behind their making, and only `read` waits.

    Where they come from another rank, `wait` has this device wait for them before it does anything else.
    """

    awaited = False
    """Whether to look at them before anything else is launched."""

    def __init__(self, tokens: Tensor, wait: Callable[[], object] | None = None) -> None:
        self._tokens, self._wait = tokens, wait
        self._on_host: Tensor | None = None
        if wait is None:
            self.arrive()

    def arrive(self) -> Tensor:
        """The tokens on the device, once they are there as far as what comes next on the device is concerned."""
        if self._on_host is None:
            if self._wait is not None:
                self._wait()
            self._on_host = self._tokens.to("cpu", non_blocking=True, copy=True)
            self._copied = torch.cuda.Event() if self._tokens.is_cuda else None
            if self._copied is not None:
                self._copied.record()
        return self._tokens

    def read(self) -> list[list[int]]:
        """The tokens that each row made."""
        self.arrive()
        assert self._on_host is not None
        if self._copied is not None:
            self._copied.synchronize()
        return self._on_host.tolist()


class Rows:
    """Rows in plain PyTorch: for batches on a CPU, whose matrix products are most of the work, and in float16 there, of
    which we have no products.

    `count` texts of at most `slots` tokens. A row's `last` token is not in the cache yet: it goes to slot `place`.
    """

    def __init__(self, model: Llama, count: int, slots: int) -> None:
        self.count, self.slots = count, slots
        self._model = model
        self._cache = model.cache(count, slots)
        self._last = torch.zeros(count, dtype=torch.long, device=model.device)
        self._place = torch.zeros(count, dtype=torch.long, device=model.device)

    def prefill(self, prompts: Sequence[list[int]], rows: Sequence[int]) -> Tokens:
        """Reads prompts into these rows; the first token of each."""
        return Tokens(self._read(*self._on_device(prompts, rows))[:, None])

    def advance(self, count: int) -> Tokens:
        """The next token of each of the first `count` rows."""
        self._step(self._last[:count], self._place[:count])
        return Tokens(self._last[:count, None])

    def fitting(self, count: int) -> int:
        """The fewest rows, `count` or more, that `advance` can take."""
        return count

    def close_ranks(self, kept: Sequence[int]) -> None:
        """Moves these rows to the front, in this order."""
        index = torch.tensor(kept, device=self._model.device)
        for tensor in (self._last, self._place, *(t for pair in self._cache for t in pair)):
            tensor[: len(kept)] = tensor[index]

    def _on_device(self, prompts: Sequence[list[int]], rows: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """The prompts (b, t), their lengths (b), and the rows (b)."""
        longest = max(map(len, prompts))
        tokens = torch.tensor([prompt + [0] * (longest - len(prompt)) for prompt in prompts])
        tensors = (tokens, torch.tensor([len(prompt) for prompt in prompts]), torch.tensor(rows))
        tokens, lengths, index = (tensor.to(self._model.device, non_blocking=True) for tensor in tensors)
        return tokens, lengths, index

    def _read(self, tokens: Tensor, lengths: Tensor, rows: Tensor) -> Tensor:
        first = self._model.ranks.greedy(self._model.prefill(tokens, lengths, self._cache, rows))
        self._last[rows], self._place[rows] = first, lengths
        return first

    def _step(self, last: Tensor, place: Tensor) -> None:
        last.copy_(self._model.ranks.greedy(self._model.decode(last, place, self._cache)))
        # A row whose text has ended goes on until a new one takes it: it must not run out of its cache.
        place.add_(1).clamp_(max=self.slots - 1)


class PackedRow(Rows):
    """One text on a CPU, of a model whose matrices are all packed: all its tokens in one call of our own C++.

    At batch 1 a step of the embedded model is some hundred small operations, whose dispatch costs several times what
    they compute. A product unpacks codes in registers, which no library does that a compiled program could call for
    each of a hundred small ones. Around them a step does few things, so those are C++, too, and so is the loop over the
    tokens; there is nothing to compile for a model.
    Vectors, norms and the cache are float32, whatever the model was. The prompt is read as a job's prompts are.
    """

    def __init__(self, model: Llama, slots: int, ending: Ending, new_tokens: int) -> None:
        super().__init__(model, 1, slots)
        self._steps = new_tokens - 1
        self._made = torch.zeros(max(self._steps, 1), dtype=torch.long)
        self._cache = [(keys.float(), values.float()) for keys, values in self._cache]
        self._held: list[Tensor] = []  # those whose addresses are given away
        layers = [
            native.Layer(
                qkv=layer.qkv.matrix(self._floats(layer.qkv_bias)),
                **{name: getattr(layer, name).matrix() for name in ("out", "gate_up", "down")},
                **{
                    name: self._address(getattr(layer, name))
                    for name in ("attention_norm", "mlp_norm", "q_norm", "k_norm")
                },
                keys=keys.data_ptr(),
                values=values.data_ptr(),
            )
            for layer, (keys, values) in zip(model.layers, self._cache, strict=True)
        ]
        self._tables = ending.tables(model.vocabulary)
        ends, breaks, blanks = (table.data_ptr() for table in self._tables)
        self._native = native.Model(
            layers=(native.Layer * len(layers))(*layers),
            embedding=model.embedding.matrix(),
            head=model.head.matrix(),
            norm=self._address(model.norm),
            cos=model.cos.data_ptr(),
            sin=model.sin.data_ptr(),
            ends=ends,
            breaks=breaks,
            blanks=blanks,
            count=len(layers),
            heads=model.heads,
            kv_heads=model.kv_heads,
            head_dim=model.head_dim,
            slots=slots,
            eps=model.eps,
        )

    def prefill(self, prompts: Sequence[list[int]], rows: Sequence[int]) -> Tokens:
        """Reads the prompt; its first token."""
        tokens = torch.tensor(prompts[0])
        self._length = len(tokens)
        self._first = native.library().read_tokens(
            ctypes.byref(self._native), tokens.data_ptr(), len(tokens), torch.get_num_threads()
        )
        return Tokens(torch.tensor([[self._first]]))

    def advance(self, count: int) -> Tokens:
        """All tokens up to the end of the headline."""
        made = native.library().write_tokens(
            ctypes.byref(self._native),
            self._first,
            self._length,
            self._steps,
            torch.get_num_threads(),
            self._made.data_ptr(),
        )
        return Tokens(self._made[None, :made])

    def _floats(self, tensor: Tensor | None) -> Tensor | None:
        """The tensor in float32, kept for as long as this object."""
        if tensor is not None:
            self._held.append(tensor.detach().float())
        return None if tensor is None else self._held[-1]

    def _address(self, tensor: Tensor | None) -> int | None:
        floats = self._floats(tensor)
        return None if floats is None else floats.data_ptr()
