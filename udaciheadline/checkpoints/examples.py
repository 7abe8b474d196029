"""What a trainer learns from: articles, those of them that are held out, and their tokens."""

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from udaciheadline.data.articles import EMBEDDED, load_articles
from udaciheadline.data.newswire import evaluation_articles, training_articles
from udaciheadline.data.prompts import NOTEBOOK, Prompt, few_shot_count
from udaciheadline.records import Article, UsageError

HELD_OUT_COUNT = 1000


class Examples(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Tokenised articles as two arrays (articles, length): token ids, and labels that are -100 outside the headline.

    What is learned is the headline behind its `prompt`, and the end of the sequence where the tokenizer has a token for
    it. A whole batch is gathered at once (`__getitems__`), which keeps the data loader out of the way of a fast GPU.
    """

    def __init__(
        self,
        articles: Sequence[Article],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        prompt: Prompt = NOTEBOOK,
    ):
        prompts = tokenizer([prompt.fill(a.short_description) for a in articles])["input_ids"]
        headlines = tokenizer([prompt.completion(a.headline) for a in articles], add_special_tokens=False)["input_ids"]
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        rows = [(p, [*h, *end]) for p, h in zip(prompts, headlines, strict=True)]
        rows = [(p, h) for p, h in rows if len(p) + len(h) <= max_length]
        if not rows:
            raise UsageError(f"no article fits in {max_length} tokens: give a larger --max-length")
        self.dropped = len(articles) - len(rows)
        self._lengths = np.array([len(p) + len(h) for p, h in rows])
        self._ids = np.zeros((len(rows), self._lengths.max()), dtype=np.int32)
        self._starts = np.array([len(p) for p, _ in rows])
        for i, (p, h) in enumerate(rows):
            self._ids[i, : self._lengths[i]] = p + h

    def __len__(self) -> int:
        return len(self._lengths)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: value[0] for name, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        lengths = self._lengths[indices][:, None]
        longest = int(lengths.max())
        ids = torch.from_numpy(self._ids[indices, :longest]).long()
        position = np.arange(longest)[None, :]
        is_text = torch.from_numpy(position < lengths)
        is_headline = torch.from_numpy((position >= self._starts[indices][:, None]) & (position < lengths))
        return {"input_ids": ids, "attention_mask": is_text.long(), "labels": ids.masked_fill(~is_headline, -100)}


def as_it_is(batch: Any) -> dict[str, torch.Tensor]:
    """A batch is whole as `__getitems__` gives it: there is nothing to collate."""
    return cast(dict[str, torch.Tensor], batch)


def articles_for(options: Any) -> tuple[Sequence[Article], Sequence[Article], Sequence[Article]]:
    """(training, held-out, shown) articles, of the options of the command line; `shown` are those of a few-shot prompt.

    The embedded newswire holds its evaluation articles out. Of other data the first tenth is held out, at most 1,000
    articles, which are those that `pytest bench` measures first; those that are shown come next. Raises UsageError.
    """
    shown = few_shot_count(options.prompt)
    if options.dataset == EMBEDDED:
        count = min(options.articles, options.steps * options.batch_size)  # no more than are learned from
        made = list(training_articles(count + shown, options.seed))
        return made[shown:], evaluation_articles(), made[:shown]
    articles = load_articles(
        options.dataset,
        options.articles + shown,
        text_column=options.text_column,
        headline_column=options.headline_column,
    ).articles
    held_out = min(HELD_OUT_COUNT, math.ceil(len(articles) / 10))
    if held_out + shown >= len(articles):
        count = f"{len(articles)} articles are" if len(articles) > 1 else "one article is"
        raise UsageError(f"{options.dataset}: {count} not enough to train on: give at least {shown + 2}")
    return articles[held_out + shown :], articles[:held_out], articles[held_out : held_out + shown]
