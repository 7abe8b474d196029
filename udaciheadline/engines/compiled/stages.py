"""Rows on one stage of a pipeline: hidden states come from the stage before and go to the one after.

A token needs all stages, one after the other, and the next token of the same text needs this one. So the texts are
several micro-batches: while the last stage works on one, those before it work on others. What a stage sends is
on its way while the stage goes on: the next micro-batch is launched before anybody waits for the tokens of this one.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed
from torch.profiler import record_function

from udaciheadline.engines.compiled.graphs import GraphPool, PromptGraphs, capture, halving, put
from udaciheadline.engines.compiled.llama import Llama
from udaciheadline.engines.compiled.rows import Rows, Tokens
from udaciheadline.records import MICRO_BATCH


class Line:
    """The other stages, as one of them sees them: ranks in the order of the layers."""

    def __init__(self) -> None:
        self._rank, self._last = distributed.get_rank(), distributed.get_world_size() - 1
        # NCCL does one thing after another in a group: tokens on their way back must not wait for hidden states.
        self._back = distributed.new_group()

    def receive(self, x: Tensor) -> Tensor:
        """Fills x with what the stage before sends."""
        distributed.recv(x, self._rank - 1)
        return x

    def send(self, x: Tensor) -> Any:
        """Sends x to the stage after; x may be changed once the result's `wait` is over."""
        return distributed.isend(x, self._rank + 1)

    def share(self, x: Tensor) -> Any:
        """Fills x on all stages with what the last one has there, once the result's `wait` is over."""
        return distributed.broadcast(x, self._last, group=self._back, async_op=True)

    def total(self, number: int, device: torch.device) -> int:
        """The sum of a number over all stages, which is taken on `device`."""
        numbers = torch.tensor(number, device=device)
        distributed.all_reduce(numbers)
        return int(numbers)

    def logits(self, model: Llama, tokens: Tensor, prompts: Sequence[int]) -> Tensor:
        """Logits (b, t, vocabulary) of whole texts, tokens (b, t), on every stage; `prompts` as in `as_written`."""
        given = tokens if model.stage.first else self.receive(model.norm.new_empty(*tokens.shape, len(model.norm)))
        made = model.as_written(given, prompts)
        if not model.stage.last:
            self.send(made).wait()
            made = model.norm.new_empty(*tokens.shape, model.vocabulary)
        self.share(made).wait()
        return made


class StageRows(Rows):
    """A micro-batch on one stage, `number` so many of them. On a GPU a step's launches are one graph; what comes and
    goes stays outside."""

    def __init__(self, model: Llama, count: int, slots: int, line: Line, number: int) -> None:
        super().__init__(model, count, slots)
        self._line, self._stage, self._name = line, model.stage, f"{MICRO_BATCH}{number}"
        self._arriving: tuple[Tokens, Tensor | slice] | None = None  # and the rows that they are of
        hidden = model.norm.new_zeros(count, len(model.norm))
        # What a step begins with and what it ends with.
        self._given = self._last if self._stage.first else hidden
        self._made = torch.zeros_like(self._last) if self._stage.last else torch.zeros_like(hidden)
        self._replays: dict[int, Callable[[], Any]] = {}
        self._prompts: PromptGraphs | None = None
        if model.device.type == "cuda":
            self._capture()

    def prefill(self, prompts: Sequence[list[int]], rows: Sequence[int]) -> Tokens:
        """Reads prompts into these rows; the first token of each."""
        self._settle()
        tokens, lengths, index = self._on_device(prompts, rows)
        read: Callable[[], Tensor]
        if self._prompts is not None:
            given, read = self._prompts.graph(prompts[0])
            if self._stage.first:
                put(prompts[0], given)
        else:
            given = tokens if self._stage.first else self._model.norm.new_empty(*tokens.shape, len(self._model.norm))
            read = partial(self._read, given, lengths, index)
        if not self._stage.first:
            self._line.receive(given)
        with record_function(self._name):
            made = read()
        return self._pass_on(made, index)

    def advance(self, count: int) -> Tokens:
        """The next token of each of the first `count` rows."""
        self._settle()
        if not self._stage.first:
            self._line.receive(self._given[:count])
        with record_function(self._name):
            self._replays.get(count, partial(self._launch, count))()
        return self._pass_on(self._made[:count], slice(count))

    def fitting(self, count: int) -> int:
        """The fewest rows, `count` or more, that `advance` can take."""
        return min((n for n in self._replays if n >= count), default=count)

    def close_ranks(self, kept: Sequence[int]) -> None:
        """Moves these rows to the front, in this order."""
        self._settle()
        super().close_ranks(kept)

    def _pass_on(self, made: Tensor, rows: Tensor | slice) -> Tokens:
        if self._stage.last:
            tokens = Tokens(made[:, None], self._line.share(made).wait)
        else:
            sent, made = self._line.send(made), self._last.new_empty(len(made))

            def wait(tokens: Tensor = made) -> None:
                sent.wait()
                self._line.share(tokens).wait()

            # What waits on a GPU takes a multiprocessor from what works there, so tokens are not waited for before they
            # are needed: in the order in which they were launched, on all stages.
            tokens = Tokens(made[:, None], wait)
        self._arriving = tokens, rows
        return tokens

    def _settle(self) -> None:
        """Waits for the tokens of what was launched last, and so for the way of what they were made of."""
        if self._arriving is not None:
            tokens, rows = self._arriving
            self._last[rows] = tokens.arrive()[:, 0]
            self._arriving = None

    def _read(self, given: Tensor, lengths: Tensor, rows: Tensor) -> Tensor:
        made = self._model.prefill(given, lengths, self._cache, rows)
        self._place[rows] = lengths
        return self._model.ranks.greedy(made) if self._stage.last else made

    def _launch(self, count: int) -> None:
        made = self._model.decode(self._given[:count], self._place[:count], self._cache)
        self._made[:count] = self._model.ranks.greedy(made) if self._stage.last else made
        self._place[:count].add_(1).clamp_(max=self.slots - 1)

    def _capture(self) -> None:
        pool = GraphPool()
        if self.count > 1:
            self._replays = {n: capture(partial(self._launch, n), pool) for n in halving(self.count)}
        else:
            from udaciheadline.engines.compiled.step import Step

            step, norm = Step(self._model, self._cache, self._last, self._place), self._model.norm
            self._given = self._last if self._stage.first else step.x[None]
            self._made = self._last if self._stage.last else step.x[None]
            self._replays = {1: capture(step, pool)}

            def empty(tokens: int) -> Tensor:
                return self._last.new_zeros(1, tokens) if self._stage.first else norm.new_zeros(1, tokens, len(norm))

            self._prompts = PromptGraphs(self._read, empty, self.slots, pool)
        self._place.zero_()
