"""Jobs whose engine is none: the headline of a text is known beforehand, and what happens is noted."""

from collections.abc import Callable, Sequence
from typing import Any

from udaciheadline.data.sources import Source, open_source
from udaciheadline.engines.codec import Codec, Limit
from udaciheadline.writing.headlines import JsonLines, Layout
from udaciheadline.writing.incoming import Incoming

OWN = ("generated_headline", "error")


class Characters:
    """A tokenizer with a token for each character."""

    def __call__(self, texts: list[str]) -> dict[str, list[list[int]]]:
        return {"input_ids": [list(map(ord, text)) for text in texts]}

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool) -> str:
        return "".join(map(chr, tokens))


class Shouting:
    """A worker whose headlines are the prompts in capital letters. Each batch takes a second, and at most `fits` texts
    fit into one; `events` notes what it was asked."""

    def __init__(self, events: Any = None, fits: int = 10**6, dies_after: int | None = None) -> None:
        self.events = [] if events is None else events
        self._fits, self._dies_after = fits, dies_after
        self._asked: list[tuple[list[list[int]], int]] = []

    def renew(self) -> None:
        pass

    def begin(self, method: str, prompts: list[list[int]], size: int) -> None:
        assert method == "job"
        assert not self._asked, "one call at a time"
        self._asked.append((prompts, size))
        self.events.append(("begin", len(prompts), size))

    def end(self) -> Any:
        if self._dies_after is not None:
            self._dies_after -= 1
            if self._dies_after < 0:
                raise KeyboardInterrupt
        prompts, size = self._asked.pop()
        size = min(size, self._fits, len(prompts))
        self.events.append(("end", len(prompts)))
        tokens = [tuple(map(ord, "".join(map(chr, prompt)).upper())) for prompt in prompts]
        return tokens, float(-(-len(prompts) // size)), size


def incoming(
    source: str | Source, layout: Layout | None = None, *, limit: float = 1000, fill: Callable[[str], str] = str
) -> Incoming:
    """The articles of a file (or of an opened one), whose text is the whole prompt."""
    opened = open_source(source) if isinstance(source, str) else source
    takes = Limit(limit, "the test takes")
    return Incoming(opened, "news", "text", layout or JsonLines(OWN), fill, Codec(Characters(), "none"), takes, 3)


class Lines:
    """Keeps what is written, and notes when."""

    def __init__(self, events: Any = None) -> None:
        self.text, self.events, self.batch_size = b"", [] if events is None else events, None

    def append(self, lines: bytes) -> None:
        self.text += lines
        self.events.append(("write", lines.count(b"\n")))

    def remember(self, batch_size: int) -> None:
        self.batch_size = batch_size
