"""What every engine does alike with text: how long it may be, where a headline ends, how likely the true one was."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from udaciheadline.data.prompts import completion_for
from udaciheadline.engines.device import is_out_of_memory
from udaciheadline.records import UsageError

LIKELIHOOD_BATCH = 8


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


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """The tokens that end a headline: those that the checkpoint names, else the tokenizer's; none where neither does,
    and only its length ends a headline."""
    eos = model.generation_config.eos_token_id if model.generation_config else None
    eos = tokenizer.eos_token_id if eos is None else eos
    return set(eos) if isinstance(eos, list) else {eos} - {None}


def with_ends(details: dict[str, float] | None, ends: set[int]) -> dict[str, float]:
    """A technique's own figures, and among them that no token ends a headline, where that is so."""
    return (details or {}) | ({} if ends else {"no_end_token": 1.0})


@dataclass(frozen=True)
class Limit:
    """The longest text that an engine takes, prompt and headline together, in `tokens`; `whose` limit that is, and how
    a longer one is mended."""

    tokens: float
    whose: str
    mend: str

    @classmethod
    def of(cls, *models: Any) -> "Limit":
        """That of models which work together: the positions of the one that has fewest; none where none counts them."""
        sizes = (getattr(model.config.get_text_config(), "max_position_embeddings", None) for model in models)
        fewest = min(size or math.inf for size in sizes)
        return cls(fewest, "the model has positions for", "cut the article, or give a model for longer texts")

    def check(self, prompts: Sequence[list[int]], new: Sequence[int]) -> None:
        """Raises UsageError where a prompt (its tokens) and the `new` tokens behind it are more."""
        for number, (prompt, more) in enumerate(zip(prompts, new, strict=True), 1):
            if len(prompt) + more > self.tokens:
                raise UsageError(
                    f"article {number}: its prompt of {len(prompt)} tokens and the {more} of a headline are more than "
                    f"the {self.tokens} that {self.whose}: {self.mend}"
                )


def check_articles(limit: Limit, tokenizer: Any, max_new_tokens: int, prompts: list[str], headlines: list[str]) -> None:
    """Raises UsageError where one of these is too long, be it to write its headline or to judge the true one."""
    pairs = _tokens(tokenizer, prompts, headlines)
    limit.check([prompt for prompt, _ in pairs], [max(max_new_tokens, len(headline)) for _, headline in pairs])


def _tokens(tokenizer: Any, prompts: list[str], headlines: list[str]) -> list[tuple[list[int], list[int]]]:
    """The tokens of each prompt, and of its true headline behind it."""
    return [
        (tokenizer(prompt)["input_ids"], tokenizer(completion_for(headline), add_special_tokens=False)["input_ids"])
        for prompt, headline in zip(prompts, headlines, strict=True)
    ]


def padded(rows: Sequence[list[int]], pad: int | None, side: str = "right") -> Tensor:
    """Rows of tokens as one tensor (rows, length), filled up at that side. A mask or causality hides what it is filled
    with, so a tokenizer without a pad token needs none."""
    length = max(map(len, rows))
    fill = [[pad or 0] * (length - len(row)) for row in rows]
    return torch.tensor([f + row if side == "left" else row + f for row, f in zip(rows, fill, strict=True)])


def likelihood(
    logits: Callable[[Tensor], Tensor],
    tokenizer: Any,
    device: Any,
    limit: Limit,
    prompts: list[str],
    headlines: list[str],
) -> list[float]:
    """Mean negative log-likelihood, in nats per token, of each headline after its prompt (teacher-forced).

    `logits` maps tokens (rows, length) on `device` to logits (rows, length, vocabulary), causally: rows are padded on
    the right, where no token looks, so that positions need no correction. Raises UsageError for a text beyond `limit`.
    """
    pairs = _tokens(tokenizer, prompts, headlines)
    limit.check([prompt for prompt, _ in pairs], [len(headline) for _, headline in pairs])
    values: list[float] = []
    for start in range(0, len(pairs), LIKELIHOOD_BATCH):
        batch = pairs[start : start + LIKELIHOOD_BATCH]
        ids = padded([prompt + headline for prompt, headline in batch], tokenizer.pad_token_id).to(device)
        with torch.no_grad():
            predictions = logits(ids)
        for row, (prompt, headline) in enumerate(batch):
            first, last = len(prompt), len(prompt) + len(headline)
            predicted = predictions[row, first - 1 : last - 1].float()  # position t predicts token t + 1
            values.append(torch.nn.functional.cross_entropy(predicted, ids[row, first:last]).item())
    return values
