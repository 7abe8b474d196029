"""One text that is drafted for: rounds of k drafted tokens and one pass of the target over all of them.

A pass over k + 1 tokens reads the weights once, as a step does. It says what the target writes behind the text, and
behind each drafted token; drafts are kept as long as they are that, and the target's own token follows them. So a
round writes 1 to k + 1 tokens, all of them the target's own, wherever the drafts come from (`drafts.py`): Leviathan et
al. 2022 (https://arxiv.org/abs/2211.17192), greedily.

Nothing in a round waits for the host. Drafts are compared on the device, where the text lies; a draft is taken back by
moving the text's `place`, behind which no cache is ever looked at. On a GPU a whole round is one CUDA graph. The host
looks at its tokens before it launches the next: a headline takes few rounds, and one that is launched for a text that
has ended costs more than the host's way between two. Where a drafter has nothing for most places (`prompt-lookup`),
rounds without a draft would cost more than a step: the host then launches steps, one ahead of what it has seen, until
the device says that it has found something. What is written does not depend on what is launched.

**k** is chosen when the engine is built (`best_k`): the target writes some headlines, on which is counted how many
tokens each number of drafts would have got right, and a round of each is timed, as is a step. Where steps are as fast
as the best of them, nothing is drafted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from udaciheadline.engines.compiled.drafts import NOTHING, SPARE, Drafter, best_tokens
from udaciheadline.engines.compiled.graphs import GraphPool, PromptGraphs, capture, put
from udaciheadline.engines.compiled.llama import Llama
from udaciheadline.engines.compiled.rows import REJECTED, Rows, Tokens
from udaciheadline.engines.device import now

REPEATS = 8  # of a round that is timed
WORTH = 1.02  # times as fast as steps must be what is launched in their place


class Written(Tokens):
    """Tokens (1, k + 2) of a round, REJECTED and NOTHING behind them, and whether there is a draft for the next."""

    def __init__(self, tokens: Tensor, tell: Callable[[bool], None], awaited: bool = False) -> None:
        super().__init__(tokens)
        self._tell, self.awaited = tell, awaited

    def read(self) -> list[list[int]]:
        """The tokens, those behind the last one negative."""
        (row,) = super().read()
        self._tell(row.pop() > 0)
        return [row]


class DraftedRow(Rows):
    """One text, `k` tokens drafted at a time. On a CPU a round is one operation after the other."""

    def __init__(self, model: Llama, slots: int, drafter: Drafter, k: int) -> None:
        super().__init__(model, 1, slots + SPARE)
        self.slots = slots
        self._drafter, self._k = drafter, k
        self._text = self._last.new_zeros(slots + SPARE)
        self._promising = drafter.always
        drafter.reserve(slots + SPARE, self._compiled)
        self._best = partial(best_tokens, model, self._cache)
        self._accept = self._compiled(accept)

    def prefill(self, prompts: Sequence[list[int]], rows: Sequence[int]) -> Tokens:
        """Reads the prompt; its first token."""
        self._promising = self._drafter.always  # until something else is heard
        return Written(self._read(*self._on_device(prompts, rows))[None], self._hear)

    def advance(self, count: int) -> Tokens:
        """The tokens of a round, or one of a step where no draft is to be had."""
        k = self._k if self._promising else 0
        return Written(self._launch(k)[None], self._hear, awaited=k > 0)

    def use(self, k: int) -> None:
        """From now on k tokens are drafted at a time."""
        self._k = k

    def seconds(self, k: int) -> float:
        """What a round of k drafts takes, or a step (0): the least of several."""
        self._place.fill_(self.slots // 2)
        self._launch(k)
        times = []
        for _ in range(REPEATS):
            start = now(self._model.device.type)
            self._launch(k)
            times.append(now(self._model.device.type) - start)
        return min(times)

    def _launch(self, k: int) -> Tensor:
        return self._round(k) if k else self._single()

    def _hear(self, promising: bool) -> None:
        self._promising = promising

    def _compiled(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return function

    def _read(self, tokens: Tensor, lengths: Tensor, rows: Tensor) -> Tensor:
        first = super()._read(tokens, lengths, rows)
        self._drafter.read(tokens, lengths, rows)
        self._text[: tokens.shape[1]] = tokens[0]
        self._text[lengths] = first
        return self._noted(first)

    def _round(self, k: int) -> Tensor:
        """Drafts, reads, compares, and moves the text on: tokens as in `Written`."""
        drafts = self._drafter.draft(self._text, self._place, k)
        best = self._best(torch.cat((self._last, drafts.clamp(min=0))), self._place)
        return self._noted(self._accept(self._text, self._last, self._place, drafts, best, self.slots))

    def _single(self) -> Tensor:
        """The same with nothing drafted."""
        self._step(self._last, self._place)
        self._text[self._place] = self._last
        return self._noted(self._last)

    def _step(self, last: Tensor, place: Tensor) -> None:
        last.copy_(self._best(last.clone(), place))
        place.add_(1).clamp_(max=self.slots - 1)

    def _noted(self, tokens: Tensor) -> Tensor:
        """The tokens, and whether there is a draft for the next."""
        if self._drafter.always:
            return torch.cat((tokens, torch.ones_like(tokens[:1])))
        return torch.cat((tokens, self._drafter.draft(self._text, self._place, 1) + 1))


def accept(text: Tensor, last: Tensor, place: Tensor, drafts: Tensor, best: Tensor, slots: int) -> Tensor:
    """Keeps of the `drafts` (k) behind the token `last` (1) at `place` (1) those that are the target's own, which are
    the `best` (k + 1) behind each token: `text`, `last` and `place` go on, up to the last slot. The tokens (k + 1) that
    were written, with REJECTED or NOTHING behind them."""
    at = torch.arange(len(best), device=best.device)
    kept = (drafts == best[:-1]).long().cumprod(0).sum(0, keepdim=True)
    written = torch.cat((drafts, drafts.new_zeros(1)))  # behind the last draft there is always a token of the target's
    text.index_copy_(0, place + 1 + at, best)
    last.copy_(best[kept])
    place.copy_((place + kept + 1).clamp(max=slots - 1))
    missing = torch.where(written.roll(1) == NOTHING, NOTHING, REJECTED)
    return torch.where(at <= kept, best, missing)


class GraphedDrafts(DraftedRow):
    """The same on a GPU: a round is one graph, and so is a step; prompts as in `GraphedRow`."""

    def __init__(self, model: Llama, slots: int, drafter: Drafter, k: int) -> None:
        from udaciheadline.engines.compiled.step import Step

        super().__init__(model, slots, drafter, k)
        self._pool = GraphPool()
        self._replays: dict[int, Callable[[], Tensor]] = {}
        self._one = Step(model, self._cache, self._last, self._place)
        self._prompts = PromptGraphs(self._read, lambda bucket: self._last.new_zeros(1, bucket), slots, self._pool)
        self.use(k)

    def use(self, k: int) -> None:
        """From now on k tokens are drafted at a time. Graphs of other numbers stay (see `GraphPool`)."""
        super().use(k)
        for n in {k} if self._drafter.always else {0, k}:
            self._replay(n)

    def prefill(self, prompts: Sequence[list[int]], rows: Sequence[int]) -> Tokens:
        """Reads the prompt; its first token."""
        self._promising = self._drafter.always
        tokens, replay = self._prompts.graph(prompts[0])
        put(prompts[0], tokens)
        return Written(replay()[None], self._hear)

    def _launch(self, k: int) -> Tensor:
        return self._replay(k)()

    def _replay(self, k: int) -> Callable[[], Tensor]:
        if k not in self._replays:
            self._place.fill_(self.slots // 2)
            self._replays[k] = capture(partial(super()._launch, k), self._pool)
        return self._replays[k]

    def _step(self, last: Tensor, place: Tensor) -> None:
        self._one()

    def _compiled(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return torch.compile(function, fullgraph=True, dynamic=True)


def drafted_row(model: Llama, slots: int, drafter: Drafter, k: int) -> DraftedRow:
    """The row for this model's device."""
    kind = GraphedDrafts if model.device.type == "cuda" else DraftedRow
    return kind(model, slots, drafter, k)


@dataclass(frozen=True)
class Choice:
    """The number of drafts that is fastest (0: steps are), and the seconds that a token behind the first is expected to
    take; of the numbers above 0 the `best`, and how many times as fast as steps that one would be."""

    k: int
    token_seconds: float
    best: int
    speed_up: float

    def details(self) -> dict[str, float]:
        """For the report."""
        return {
            "draft_tokens": float(self.k),
            "predicted_token_seconds": self.token_seconds,
            "best_draft_tokens": float(self.best),
            "predicted_speed_up": self.speed_up,
        }


def best_k(runs: Sequence[Sequence[int]], seconds: dict[int, float]) -> Choice:
    """The number of drafts that writes some headlines fastest, by what was counted on them and the seconds of a round.

    `runs` are those of each headline (`Drafter.runs`), `seconds` by number of drafts, 0 for a step. Where each draft
    has the same chance a, a round gives (1 - a^(k + 1)) / (1 - a) tokens; what is counted needs no such assumption.
    """
    tokens = sum(map(len, runs))
    totals = {}
    for k, round_seconds in seconds.items():
        total = 0.0
        for run in runs:
            at = 0
            while at < len(run):
                if k and run[at] != NOTHING:
                    total, at = total + round_seconds, at + min(run[at], k) + 1
                else:
                    total, at = total + seconds[0], at + 1
        totals[k] = total / tokens
    best = min((k for k in totals if k), key=totals.__getitem__)
    speed_up = totals[0] / totals[best]
    k = best if speed_up > WORTH else 0
    return Choice(k, totals[k], best, speed_up)
