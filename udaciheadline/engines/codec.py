"""Text on its way into tokens and back, by the tokenizer alone: without a model, a device or torch, so that a process
beside the engine's can do it while the device works (`writing/job.py`)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from udaciheadline.data.prompts import extract_headline
from udaciheadline.records import UsageError


@dataclass(frozen=True)
class Limit:
    """The longest text that an engine takes, prompt and headline together, in `tokens`; `whose` limit that is, and how
    a longer one is mended."""

    tokens: float
    whose: str
    mend: str = "cut the article"

    @classmethod
    def of(cls, *models: Any) -> "Limit":
        """That of models which work together: the positions of the one that has fewest; none where none counts them."""
        sizes = (getattr(model.config.get_text_config(), "max_position_embeddings", None) for model in models)
        fewest = min(size or math.inf for size in sizes)
        return cls(fewest, "the model has positions for", "cut the article, or give a model for longer texts")

    def excess(self, prompt: int, new: int) -> str | None:
        """What is wrong with a prompt of so many tokens and as many `new` ones behind it, or None."""
        if prompt + new <= self.tokens:
            return None
        return (
            f"its prompt of {prompt} tokens and the {new} of a headline are more than the {self.tokens} that "
            f"{self.whose}: {self.mend}"
        )

    def check(self, prompts: Sequence[list[int]], new: Sequence[int]) -> None:
        """Raises UsageError where a prompt (its tokens) and the `new` tokens behind it are more."""
        for number, (prompt, more) in enumerate(zip(prompts, new, strict=True), 1):
            if why := self.excess(len(prompt), more):
                raise UsageError(f"article {number}: {why}")


class Codec:
    """Prompts as tokens, and new tokens as headlines, which end as `stop` says (`data.prompts.STOPS`)."""

    def __init__(self, tokenizer: Any, stop: str) -> None:
        self._tokenizer, self._stop = tokenizer, stop

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """The tokens of each prompt, however many they are."""
        encoded: list[list[int]] = self._tokenizer(list(prompts))["input_ids"] if prompts else []
        return encoded

    def headline(self, tokens: Sequence[int]) -> str:
        """The headline in new tokens."""
        return extract_headline(str(self._tokenizer.decode(tokens, skip_special_tokens=True)), self._stop)
