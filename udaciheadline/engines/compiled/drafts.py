"""Where drafts come from: a smaller model, or the text itself.

A drafter proposes the next k tokens of one text, which lies on the device with its prompt (`text`, whose last token is
at `place`). What the target keeps of them, and all counting of places, is `speculation.py`'s.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from udaciheadline.engines.codec import Limit
from udaciheadline.engines.compiled.families import MAX_LENGTH
from udaciheadline.engines.compiled.llama import Cache, Llama

MOST_DRAFTS = 8  # tokens of a draft at most
SPARE = 2 * MOST_DRAFTS  # slots behind a text: for drafts beyond its end, and for what was launched before it was seen
NOTHING = -2  # in the place of a drafted token, where there is none
NGRAM = 3  # the last tokens that are looked for in the text: so many at most
FEWEST = 2  # of them that must be found, for what follows there to be a draft


class Drafter(Protocol):
    """Proposes tokens for one text at a time."""

    models: Sequence[Llama]
    limits: Sequence[Limit]
    always: bool
    """Whether it has a draft for every text."""

    def reserve(self, slots: int, compiled: "Compiled") -> None:
        """Makes room for a text of so many tokens, before the first one comes, and programs where there are any."""

    def read(self, tokens: Tensor, lengths: Tensor, rows: Tensor) -> None:
        """Reads a prompt (1, t), as `Llama.prefill` does."""

    def draft(self, text: Tensor, place: Tensor, k: int) -> Tensor:
        """The k tokens that follow the one at place (1), or NOTHING."""

    def runs(self, tokens: list[int], start: int) -> list[int]:
        """For each place of a finished text from `start` to the last but one: how many of the tokens behind it a draft
        made there would have right, up to MOST_DRAFTS; NOTHING where there would be none."""


Compiled = Callable[[Callable[..., Tensor]], Callable[..., Tensor]]
"""Makes a program of a function of many small operations on a GPU, and leaves it as it is on a CPU."""


class ModelDrafts:
    """A smaller model drafts; `source` is a transformers model that shares the target's vocabulary, and `weights` names
    the kind that its matrices are quantised to, where it is given: no token depends on it, but how many are accepted.

    Behind a draft that was accepted as a whole, this model has not read its own last token yet. So the first pass of a
    round reads two tokens, the last but one a second time as a rule: that costs what reading one does.
    """

    always = True

    def __init__(self, source: Any, weights: str | None = None) -> None:
        self.limits: Sequence[Limit] = [Limit.of(source)]
        self._model = Llama(source, MAX_LENGTH + SPARE, kind=weights)
        self.models: Sequence[Llama] = [self._model]
        self._second = torch.ones(1, dtype=torch.long, device=self._model.device)
        if self._model.device.type == "cuda":
            from udaciheadline.engines.compiled import kernels

            kernels.check(self._model.head_dim)
            self._model.compile_layers()

    def reserve(self, slots: int, compiled: Compiled) -> None:
        """Makes the cache."""
        self._cache = self._model.cache(1, slots)
        self._best = partial(best_tokens, self._model, self._cache)
        self._last = self._second.new_zeros(1)
        self._at = self._second.new_zeros(1)
        self._step: Callable[[], None] = self._one_more
        if self._model.device.type == "cuda":
            from udaciheadline.engines.compiled.step import Step

            self._step = Step(self._model, self._cache, self._last, self._at)

    def read(self, tokens: Tensor, lengths: Tensor, rows: Tensor) -> None:
        """Fills the cache."""
        self._model.prefill(tokens, lengths, self._cache, rows)

    def draft(self, text: Tensor, place: Tensor, k: int) -> Tensor:
        """The model's own next tokens."""
        made = text.new_empty(k)
        before = place - 1
        self._last.copy_(self._best(text[torch.cat((before, place))], before, self._second))
        self._at.copy_(place + 1)
        made[:1] = self._last
        for i in range(1, k):
            self._step()
            made[i : i + 1] = self._last
        return made

    def _one_more(self) -> None:
        self._last.copy_(self._best(self._last.clone(), self._at))
        self._at += 1

    def runs(self, tokens: list[int], start: int) -> list[int]:
        """By what the model says of the finished text: a draft is right as long as it is the text."""
        said = self._model(torch.tensor([tokens], device=self._model.device))[0].argmax(-1).tolist()
        runs = [0]
        for at in range(len(tokens) - 2, start - 1, -1):
            runs.append(min(runs[-1] + 1, MOST_DRAFTS) if said[at] == tokens[at + 1] else 0)
        return runs[:0:-1]


class TextDrafts:
    """The text drafts for itself: what followed the last few tokens where they stood before, in the article as a rule.

    Saxena 2023 (https://github.com/apoorvumang/prompt-lookup-decoding); Yang et al. 2023
    (https://arxiv.org/abs/2304.04487).
    """

    always = False
    models: Sequence[Llama] = ()
    limits: Sequence[Limit] = ()

    def reserve(self, slots: int, compiled: Compiled) -> None:
        """Compiles the search."""
        self._look_up = compiled(look_up)

    def read(self, tokens: Tensor, lengths: Tensor, rows: Tensor) -> None:
        """The text is all that it needs."""

    def draft(self, text: Tensor, place: Tensor, k: int) -> Tensor:
        """What `look_up` finds."""
        return self._look_up(text, place, k)

    def runs(self, tokens: list[int], start: int) -> list[int]:
        """By looking up at each place."""
        text, runs = torch.tensor(tokens), []
        for at in range(start, len(tokens) - 1):
            draft = look_up(text, torch.tensor([at]), MOST_DRAFTS).tolist()
            right = [drafted == token for drafted, token in zip(draft, tokens[at + 1 :], strict=False)]
            runs.append(NOTHING if draft[0] == NOTHING else [*right, False].index(False))
        return runs


def look_up(text: Tensor, place: Tensor, k: int) -> Tensor:
    """The k tokens behind the latest of the longest matches of the last tokens, up to `place` (1), earlier in the text
    (s); or NOTHING (k) where fewer than FEWEST of them were found. Behind the end of the text it goes on from the match
    again, as if the text repeated itself."""
    at = torch.arange(len(text), device=text.device)
    same = at < place
    length = torch.zeros_like(at)
    for n in range(NGRAM):
        same = same & (at >= n) & (text.roll(n) == text[place - n])
        length = length + same
    match = torch.where(at < place, length * len(text) + at, -1).argmax(0, keepdim=True)
    found = length[match] >= FEWEST
    behind = match + 1 + torch.arange(k, device=text.device) % (place - match)
    return torch.where(found, text[behind], NOTHING)


def best_tokens(model: Llama, cache: Cache, given: Tensor, place: Tensor, keep: Tensor | None = None) -> Tensor:
    """Reads more tokens (t) of the text from a place (1) on: which token (t) follows each, or those (k) to keep."""
    return model.ranks.greedy(model.extend(given, place, cache, keep))
