"""What every engine does alike with text: where a headline ends, and how likely the true one was."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from udaciheadline.data.prompts import STOPS, extract_headline
from udaciheadline.engines.device import is_out_of_memory

LIKELIHOOD_BATCH = 8
WARM_UPS = 3  # texts, where an engine does not prepare anything for each length
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
        self._tokenizer, self._stop = tokenizer, stop
        eos = model.generation_config.eos_token_id if model.generation_config else None
        eos = tokenizer.eos_token_id if eos is None else eos
        self.eos: frozenset[int] = frozenset(eos if isinstance(eos, list) else [eos])
        self.breaks: frozenset[int] = frozenset()
        self.blanks: frozenset[int] = frozenset()
        if stop == "newline":
            # What a vocabulary writes for white space. Only tokens that have such a mark are worth decoding.
            texts = {
                token: str(tokenizer.decode([token]))
                for name, token in tokenizer.get_vocab().items()
                if token < model.config.vocab_size
                and (any(mark in name for mark in _LINE_BREAKS) or not name.strip(_BLANKS))
            }
            special = {token for token in tokenizer.all_special_ids if token < model.config.vocab_size}
            self.breaks = frozenset(token for token, text in texts.items() if "\n" in text) - special
            self.blanks = frozenset(token for token, text in texts.items() if not text.strip()) | special

    def has_come(self, tokens: Sequence[int]) -> bool:
        """Whether the last of these new tokens ends the headline; those before it did not."""
        last = tokens[-1]
        return last in self.eos or (last in self.breaks and any(token not in self.blanks for token in tokens))

    def cut(self, tokens: Sequence[int]) -> list[int]:
        """The tokens up to and including the one that ends the headline."""
        return next((list(tokens[:n]) for n in range(1, len(tokens) + 1) if self.has_come(tokens[:n])), list(tokens))

    def headline(self, tokens: Sequence[int]) -> str:
        """The headline in new tokens."""
        return extract_headline(str(self._tokenizer.decode(tokens, skip_special_tokens=True)), self._stop)


def longest(lengths: Sequence[int], count: int) -> list[int]:
    """The numbers of the longest `count` texts of these lengths, the longest first."""
    return sorted(range(len(lengths)), key=lambda i: -lengths[i])[:count]


def one_of_each(lengths: Sequence[int], step: int = 1) -> list[int]:
    """The number of one text of each of these lengths, rounded up to a multiple of `step`, the longest first."""
    return list({-(-lengths[i] // step): i for i in longest(lengths, len(lengths))}.values())


Logits = Callable[[Tensor], Tensor]
"""From tokens (rows, length) on the engine's device to logits (rows, length, vocabulary), causally."""


def likelihood(
    logits: Logits, tokenizer: Any, device: Any, prompts: Sequence[str], completions: Sequence[str]
) -> list[float]:
    """Mean negative log-likelihood, in nats per token, of each completion after its prompt (teacher-forced)."""
    tokens = [tokenizer(completion, add_special_tokens=False)["input_ids"] for completion in completions]
    predicted = _predictions(logits, tokenizer, device, prompts, tokens)
    return [
        torch.nn.functional.cross_entropy(values, torch.tensor(ids, device=values.device)).item()
        for values, ids in zip(predicted, tokens, strict=True)
    ]


def preferences(
    logits: Logits,
    tokenizer: Any,
    device: Any,
    prompts: Sequence[str],
    tokens: Sequence[Sequence[int]],
    others: list[int],
) -> list[float]:
    """How many nats likelier, after each prompt and all but the last of its new `tokens`, that last one is than the
    `other` token (teacher-forced, in one pass)."""
    last = [values[-1] for values in _predictions(logits, tokenizer, device, prompts, tokens)]
    return [float(v[ids[-1]] - v[other]) for v, ids, other in zip(last, tokens, others, strict=True)]


def rounding(
    logits: Logits, tokenizer: Any, device: Any, prompts: Sequence[str], tokens: Sequence[Sequence[int]]
) -> float:
    """How far rounding moves a preference, in nats: the most that the one for the best over the second best token
    differs, at any of these new tokens, between a text that is read alone and the same text in a batch.

    Both are correct; where a preference is smaller than that, correct programs may write different tokens.
    """
    alone = _predictions(logits, tokenizer, device, prompts, tokens, batch=1)
    together = _predictions(logits, tokenizer, device, prompts, tokens)
    moved = 0.0
    for one, other in zip(alone, together, strict=True):
        best = one.topk(2).indices
        preferred = [values.gather(1, best).diff(dim=1) for values in (one, other)]
        moved = max(moved, float((preferred[0] - preferred[1]).abs().max()))
    return moved


def _predictions(
    logits: Logits,
    tokenizer: Any,
    device: Any,
    prompts: Sequence[str],
    tokens: Sequence[Sequence[int]],
    batch: int = LIKELIHOOD_BATCH,
) -> Iterator[Tensor]:
    """For each text the float32 logits (new tokens, vocabulary) that predict its new tokens, `batch` texts at a time.

    Rows are padded on the right, where no token looks, so that positions need no correction.
    """
    for start in range(0, len(prompts), batch):
        pairs = [
            (tokenizer(prompt)["input_ids"], list(new))
            for prompt, new in zip(prompts[start : start + batch], tokens[start : start + batch], strict=True)
        ]
        ids = torch.full((len(pairs), max(len(p) + len(n) for p, n in pairs)), tokenizer.pad_token_id)
        for row, (prompt, new) in enumerate(pairs):
            ids[row, : len(prompt) + len(new)] = torch.tensor(prompt + new)
        with torch.no_grad():
            predictions = logits(ids.to(device))
        for row, (prompt, new) in enumerate(pairs):
            first = len(prompt) - 1  # position t predicts token t + 1
            yield predictions[row, first : first + len(new)].float()
