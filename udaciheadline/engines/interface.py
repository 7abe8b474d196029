"""What an engine is to those who use one: no more than this."""

from typing import Protocol

from udaciheadline.engines.codec import Limit
from udaciheadline.records import BuildInfo, Generation


class Texts(Protocol):
    """What an engine says of texts that it need not have written. See `engines/texts.py`."""

    limit: Limit
    """The longest text that it takes."""

    def longest(self, prompts: list[str], count: int) -> list[int]:
        """The numbers of the longest `count` prompts, the longest first."""

    def check(self, prompts: list[str], completions: list[str]) -> None:
        """Raises UsageError where one of these is too long for the engine."""

    def fitting(self, prompts: list[str], completions: list[str]) -> int:
        """How many of the first of these come before one that is too long."""

    def likelihood(self, prompts: list[str], completions: list[str]) -> list[float]:
        """Mean negative log-likelihood per token, in nats, of each completion after its prompt (teacher-forced)."""

    def preferences(self, prompts: list[str], tokens: list[list[int]], others: list[int]) -> list[float]:
        """How many nats likelier the last of each text's new tokens is than the other one, in its place."""

    def rounding(self, prompts: list[str], tokens: list[list[int]]) -> float:
        """How far another batch shape moves such a preference, in nats, at most."""


class Engine(Protocol):
    """A model that generates headlines. See `engines/`."""

    info: BuildInfo

    @property
    def texts(self) -> Texts:
        """What it says of texts."""

    def generate(self, prompts: list[str], batch_size: int | None = None) -> list[Generation]:
        """Generates greedily for all prompts, `batch_size` at a time (default: all at once)."""

    def generate_from(self, prompts: list[list[int]], batch_size: int | None = None) -> list[Generation]:
        """The same from prompts in tokens, without the headlines' texts: another process has the tokenizer."""

    def shape(self, prompt: str) -> int:
        """The shape of this prompt, as a number: once one of a shape was answered, the times of all others of it are
        those of an engine that runs."""

    def close(self) -> None:
        """Drops the model."""
