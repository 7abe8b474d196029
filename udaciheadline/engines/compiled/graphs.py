"""Rows on a GPU: what a step launches is captured in a CUDA graph, and replayed with one launch.

At batch 1 a step of a small model is over before Python has launched its first kernels one by one. A graph has fixed
shapes and addresses: there is one for each of a few numbers of rows, and one for each length of a lone prompt.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from udaciheadline.engines.compiled.llama import Llama
from udaciheadline.engines.compiled.peers import Peers
from udaciheadline.engines.compiled.rows import Rows, Tokens

PROMPT_BUCKET = 32  # a lone prompt is padded to a multiple of this many tokens
FEWEST_ROWS = 8  # that are worth a graph of their own


class GraphPool:
    """Memory and a stream for graphs that go together. They run one after another, so they can share their memory.

    What cuBLAS works in belongs to a stream: with one for each graph the peak of a model of 3 MiB was 455, 32 MiB a
    stream on Hopper. Since 2026 torch frees it when the first graph of its stream goes, whatever others still use it
    (https://github.com/pytorch/pytorch/issues/193402): no graph may go before the others of its pool.
    """

    def __init__(self) -> None:
        self.memory: Any = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream()


class GraphedRows(Rows):
    """Many texts: a graph of a step for each of a few numbers of rows, halving from `count` on."""

    def __init__(self, model: Llama, count: int, slots: int) -> None:
        super().__init__(model, count, slots)
        pool = GraphPool()
        self._replays = {n: capture(partial(self._step, self._last[:n], self._place[:n]), pool) for n in halving(count)}
        self._place.zero_()

    def advance(self, count: int) -> Tokens:
        """The next token of each of the first `count` rows, a number that `fitting` gave."""
        self._replays[count]()
        return Tokens(self._last[:count, None])

    def fitting(self, count: int) -> int:
        """The fewest rows, `count` or more, that a graph was captured for."""
        return min(n for n in self._replays if n >= count)


class GraphedRow(Rows):
    """One text: a graph of a step in kernels of our own, and one for each length of a prompt, when the first comes."""

    def __init__(self, model: Llama, slots: int, peers: Peers | None = None) -> None:
        from udaciheadline.engines.compiled.step import Step

        super().__init__(model, 1, slots)
        pool = GraphPool()
        self._replay = capture(Step(model, self._cache, self._last, self._place, peers), pool)
        self._prompts = PromptGraphs(self._read, lambda bucket: self._last.new_zeros(1, bucket), slots, pool)

    def prefill(self, prompts: Sequence[list[int]], rows: Sequence[int]) -> Tokens:
        """Reads the prompt; its first token."""
        tokens, replay = self._prompts.graph(prompts[0])
        put(prompts[0], tokens)
        return Tokens(replay()[:, None])

    def advance(self, count: int) -> Tokens:
        """The next token."""
        self._replay()
        return Tokens(self._last[:, None])


class PromptGraphs:
    """Lone prompts: a graph for each of their lengths, rounded up, when the first one comes.

    `read(given, length, row)` is what a graph does with a prompt that lies in `given`, a tensor that `empty` makes for
    so many tokens; length and row, always 0, are tensors (1).
    """

    def __init__(
        self,
        read: Callable[[Tensor, Tensor, Tensor], Tensor],
        empty: Callable[[int], Tensor],
        slots: int,
        pool: GraphPool,
    ) -> None:
        self._read, self._empty, self._slots, self._pool = read, empty, slots, pool
        self._graphs: dict[int, tuple[Tensor, Tensor, Callable[[], Tensor]]] = {}

    def graph(self, prompt: list[int]) -> tuple[Tensor, Callable[[], Tensor]]:
        """Where the prompt, or its hidden states, must lie, and what then reads it."""
        bucket = min(-(-len(prompt) // PROMPT_BUCKET) * PROMPT_BUCKET, self._slots)
        if bucket not in self._graphs:
            given = self._empty(bucket)
            length, row = (torch.zeros(1, dtype=torch.long, device=given.device) for _ in range(2))
            length += 1
            self._graphs[bucket] = given, length, capture(partial(self._read, given, length, row), self._pool)
        given, length, replay = self._graphs[bucket]
        length.fill_(len(prompt))
        return given, replay


def put(prompt: list[int], tokens: Tensor) -> None:
    """Puts a prompt into tokens (1, t), and zeros behind it."""
    tokens.copy_(torch.tensor([prompt + [0] * (tokens.shape[1] - len(prompt))]), non_blocking=True)


def halving(count: int) -> list[int]:
    """The numbers of rows that are worth a graph, from `count` down."""
    sizes = [count]
    while sizes[-1] >= 2 * FEWEST_ROWS:
        sizes.append(sizes[-1] // 2)
    return sizes


def capture(function: Callable[[], Any], pool: GraphPool) -> Callable[[], Any]:
    """Captures what `function` does on the GPU, in a pool; calling the result does it again in one launch, and gives
    the same tensors as the first time, with what is in them now.

    It runs a few times before: compilers and libraries do things at their first calls that a graph cannot hold.
    """
    pool.stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(pool.stream):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(pool.stream)
    graph = torch.cuda.CUDAGraph()
    # Only this thread's calls are checked while it lasts: the process group has one that looks at events all the time.
    with torch.cuda.graph(graph, pool=pool.memory, stream=pool.stream, capture_error_mode="thread_local"):
        made = function()

    def replay() -> Any:
        # What a graph reads and writes it knows by address: `function` keeps it alive.
        _ = function
        graph.replay()
        return made

    return replay
