"""What every engine does alike with text: how long it may be, where a headline ends, how likely tokens are."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from udaciheadline.data.prompts import STOPS
from udaciheadline.engines.codec import Codec, Limit
from udaciheadline.engines.device import is_out_of_memory
from udaciheadline.records import Generation

READ_TOGETHER = 8  # texts whose likelihood is asked
_LINE_BREAKS = ("\n", "Ċ", "<0x0A>")  # as they are, in byte-level BPE, and as SentencePiece's byte
_BLANKS = " \n\t\rĠĊĉč▁"

T = TypeVar("T")


def fitting(size: int, job: Callable[[int], T], ranks: int = 1) -> tuple[int, T]:
    """`job(size)`, a job done with `size` texts at a time; half as many where so many do not fit in memory, and so on.

    Of several ranks, one that begins anew would leave the others waiting: lack of memory goes through.

    Returns the size that fitted, and what the job gave. Raises what is not about memory, or one text's lack of it.
    """
    while True:
        try:
            return size, job(size)
        except (RuntimeError, MemoryError) as error:  # torch's own out-of-memory error is a RuntimeError
            if size == 1 or ranks > 1 or not is_out_of_memory(error):
                raise
        size //= 2  # outside the handler, whose traceback keeps the tensors alive


class Ending:
    """Where a headline ends, in tokens: at the model's `eos` tokens and, with `stop` "newline", at the first of
    `breaks` that comes with or after text. `blanks` are tokens without text."""

    def __init__(self, model: Any, tokenizer: Any, stop: str = STOPS[0]) -> None:
        eos = model.generation_config.eos_token_id if model.generation_config else None
        eos = tokenizer.eos_token_id if eos is None else eos
        self.eos: frozenset[int] = frozenset(eos if isinstance(eos, list) else {eos} - {None})
        self.breaks: frozenset[int] = frozenset()
        self.blanks: frozenset[int] = frozenset()
        if stop == "newline":
            # What a vocabulary writes for white space. Only tokens that have such a mark are worth decoding.
            texts = {
                token: str(tokenizer.decode([token]))
                for name, token in tokenizer.get_vocab().items()
                if any(mark in name for mark in _LINE_BREAKS) or not name.strip(_BLANKS)
            }
            special = frozenset(tokenizer.all_special_ids)
            self.breaks = frozenset(token for token, text in texts.items() if "\n" in text) - special
            self.blanks = frozenset(token for token, text in texts.items() if not text.strip()) | special

    def has_come(self, tokens: Sequence[int]) -> bool:
        """Whether the last of these new tokens ends the headline; those before it did not."""
        last = tokens[-1]
        return last in self.eos or (last in self.breaks and any(token not in self.blanks for token in tokens))

    def cut(self, tokens: Sequence[int]) -> list[int]:
        """The tokens up to and including the one that ends the headline."""
        return next((list(tokens[:n]) for n in range(1, len(tokens) + 1) if self.has_come(tokens[:n])), list(tokens))

    def tables(self, vocabulary: int) -> list[Tensor]:
        """The same three sets for a device: for each token (vocabulary) whether it is in `eos`, `breaks`, `blanks`."""
        ids = torch.arange(vocabulary)
        return [torch.isin(ids, torch.tensor(sorted(s), dtype=ids.dtype)) for s in (self.eos, self.breaks, self.blanks)]

    def details(self) -> dict[str, float]:
        """For the report: that no token ends a headline, where that is so."""
        return {} if self.eos or self.breaks else {"no_end_token": 1.0}


def padded(rows: Sequence[list[int]], pad: int | None, side: str = "right") -> Tensor:
    """Rows of tokens as one tensor (rows, length), filled up at that side. A mask or causality hides what it is filled
    with, so a tokenizer without a pad token needs none."""
    length = max(map(len, rows))
    fill = [[pad or 0] * (length - len(row)) for row in rows]
    return torch.tensor([f + row if side == "left" else row + f for row, f in zip(rows, fill, strict=True)])


class Texts:
    """The texts of an engine, by its tokenizer, and what its model says of them (teacher-forced).

    `logits` maps tokens (rows, length) on `device`, and how many of each row are its prompt's, to logits (rows, length,
    vocabulary), causally.
    """

    def __init__(
        self,
        tokenizer: Any,
        logits: Callable[[Tensor, Sequence[int]], Tensor],
        device: Any,
        *,
        stop: str,
        limit: Limit,
        max_new_tokens: int,
    ) -> None:
        self._tokenizer, self._logits, self._device = tokenizer, logits, device
        self._codec, self.limit, self._max_new_tokens = Codec(tokenizer, stop), limit, max_new_tokens

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """The tokens of prompts that are to be answered. Raises UsageError for one that is too long."""
        encoded = self._codec.encode(prompts)
        self.limit.check(encoded, [self._max_new_tokens] * len(encoded))
        return encoded

    def headline(self, tokens: Sequence[int]) -> str:
        """The headline in new tokens."""
        return self._codec.headline(tokens)

    def with_headlines(self, generations: Sequence[Generation]) -> list[Generation]:
        """The same generations, with the headlines that are in their tokens."""
        return [replace(generation, headline=self.headline(generation.token_ids)) for generation in generations]

    def check(self, prompts: list[str], completions: list[str]) -> None:
        """Raises UsageError where a text is too long, be it to write its headline or to judge the true one."""
        encoded = self.encode(prompts)
        self.limit.check(encoded, [len(ids) for ids in self._completed(completions)])

    def fitting(self, prompts: list[str], completions: list[str]) -> int:
        """How many of the first texts come before one that is too long, for either."""
        encoded, true = self._codec.encode(prompts), self._completed(completions)
        longest = [(len(ids), max(len(own), self._max_new_tokens)) for ids, own in zip(encoded, true, strict=True)]
        return next((i for i, lengths in enumerate(longest) if self.limit.excess(*lengths)), len(longest))

    def likelihood(self, prompts: list[str], completions: list[str]) -> list[float]:
        """Mean negative log-likelihood, in nats per token, of each completion after its prompt."""
        tokens = self._completed(completions)
        return [
            torch.nn.functional.cross_entropy(values.float(), torch.tensor(ids, device=values.device)).item()
            for values, ids in zip(self._predictions(prompts, tokens), tokens, strict=True)
        ]

    def preferences(self, prompts: list[str], tokens: list[list[int]], others: list[int]) -> list[float]:
        """How many nats likelier, after each prompt and all but the last of its new `tokens`, that last one is than the
        `other` token."""
        last = [values[-1].float() for values in self._predictions(prompts, tokens)]
        return [float(v[ids[-1]] - v[other]) for v, ids, other in zip(last, tokens, others, strict=True)]

    def rounding(self, prompts: list[str], tokens: list[list[int]]) -> float:
        """How far rounding moves a preference, in nats: the most that the one for the best over the second best token
        differs, at any of these new tokens, between a text that is read alone and the same text in a batch; and no less
        than the distance of two neighbouring numbers where those logits are, by which they are rounded themselves.

        Both are correct; where a preference is smaller than that, correct programs may write different tokens. (Some
        devices read few texts alone and in a batch to the last bit alike, and yet a step with a cache otherwise.)
        """
        moved = 0.0
        alone = self._predictions(prompts, tokens, together=1)
        for one, other in zip(alone, self._predictions(prompts, tokens), strict=True):
            values, best = one.topk(2)
            preferred = [logits.float().gather(1, best).diff(dim=1) for logits in (one, other)]
            moved = max(moved, float((preferred[0] - preferred[1]).abs().max()), _spacing(values))
        return moved

    def longest(self, prompts: list[str], count: int) -> list[int]:
        """The numbers of the longest `count` prompts, the longest first."""
        lengths = [len(ids) for ids in self.encode(prompts)]
        return sorted(range(len(prompts)), key=lambda i: -lengths[i])[:count]

    def _completed(self, completions: list[str]) -> list[list[int]]:
        return [self._tokenizer(text, add_special_tokens=False)["input_ids"] for text in completions]

    def _predictions(
        self, prompts: Sequence[str], tokens: Sequence[Sequence[int]], together: int = READ_TOGETHER
    ) -> Iterator[Tensor]:
        """For each text the logits (new tokens, vocabulary) that predict its new tokens, so many texts at a
        time. Rows are padded on the right, where no token looks, so that positions need no correction. Raises
        UsageError for a text that is too long."""
        encoded = self._codec.encode(prompts)
        self.limit.check(encoded, list(map(len, tokens)))
        pairs = list(zip(encoded, tokens, strict=True))
        for start in range(0, len(pairs), together):
            batch = pairs[start : start + together]
            ids = padded([[*prompt, *new] for prompt, new in batch], self._tokenizer.pad_token_id)
            with torch.no_grad():
                predictions = self._logits(ids.to(self._device), [len(prompt) for prompt, _ in batch])
            for row, (prompt, new) in enumerate(batch):
                first = len(prompt) - 1  # position t predicts token t + 1
                yield predictions[row, first : first + len(new)]


def _spacing(values: Tensor) -> float:
    """The distance of two neighbouring numbers of this type where the largest of the values is."""
    largest = float(values.abs().max())
    return torch.finfo(values.dtype).eps * 2.0 ** math.floor(math.log2(largest)) if largest > 0 else 0.0
