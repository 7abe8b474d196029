"""What every engine does alike with text: where a headline ends, and how likely the true one was."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from udaciheadline.data.prompts import completion_for
from udaciheadline.engines.device import is_out_of_memory

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
    """The tokens that end a headline: those that the checkpoint names, else the tokenizer's."""
    eos = model.generation_config.eos_token_id if model.generation_config else None
    eos = tokenizer.eos_token_id if eos is None else eos
    return set(eos) if isinstance(eos, list) else {eos}


def likelihood(
    logits: Callable[[Tensor], Tensor], tokenizer: Any, device: Any, prompts: list[str], headlines: list[str]
) -> list[float]:
    """Mean negative log-likelihood, in nats per token, of each headline after its prompt (teacher-forced).

    `logits` maps tokens (rows, length) on `device` to logits (rows, length, vocabulary), causally: rows are padded on
    the right, where no token looks, so that positions need no correction.
    """
    pairs = [
        (tokenizer(prompt)["input_ids"], tokenizer(completion_for(headline), add_special_tokens=False)["input_ids"])
        for prompt, headline in zip(prompts, headlines, strict=True)
    ]
    values: list[float] = []
    for start in range(0, len(pairs), LIKELIHOOD_BATCH):
        batch = pairs[start : start + LIKELIHOOD_BATCH]
        ids = torch.full((len(batch), max(len(p) + len(h) for p, h in batch)), tokenizer.pad_token_id)
        for row, (prompt, headline) in enumerate(batch):
            ids[row, : len(prompt) + len(headline)] = torch.tensor(prompt + headline)
        ids = ids.to(device)
        with torch.no_grad():
            predictions = logits(ids)
        for row, (prompt, headline) in enumerate(batch):
            first, last = len(prompt), len(prompt) + len(headline)
            predicted = predictions[row, first - 1 : last - 1].float()  # position t predicts token t + 1
            values.append(torch.nn.functional.cross_entropy(predicted, ids[row, first:last]).item())
    return values
