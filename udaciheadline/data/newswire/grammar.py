"""Event frames, and how one of them becomes an article.

A frame is one kind of event: several descriptions and three headlines of it, with slots for names and figures. The
usual headline comes first and is taken `HEADLINE_WEIGHTS[0]` of the time: newsrooms have a house style and break it.
"""

import random
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from udaciheadline.data.newswire.names import Phrase, draw

HEADLINE_WEIGHTS = (0.75, 0.15, 0.10)


@dataclass(frozen=True)
class Frame:
    """One kind of event of one category; `words` are the word lists of the category, by slot name."""

    id: str
    category: str
    descriptions: tuple[str, ...]
    headlines: tuple[str, ...]
    words: dict[str, tuple[str, ...]]


class _Slots(dict[str, object]):
    """The fillings of one article, each drawn when a template first asks for it."""

    def __init__(self, rng: random.Random, words: dict[str, tuple[str, ...]], held_out: bool):
        super().__init__()
        self._rng, self._words, self._held_out = rng, words, held_out

    def __missing__(self, slot: str) -> object:
        if slot in self._words:
            value: object = Phrase(self._rng.choice(self._words[slot]))
        else:
            kind = slot.removesuffix("2")
            value = draw(kind, self._rng, self._held_out)
            while slot != kind and value == self[kind]:  # {place2} is another place than {place}
                value = draw(kind, self._rng, self._held_out)
        self[slot] = value
        return value


@cache
def frames() -> tuple[Frame, ...]:
    """All frames of all categories, in the order of the file names."""
    found = []
    for file in sorted(files(__package__).joinpath("frames").iterdir(), key=lambda f: f.name):
        if not file.name.endswith(".toml"):
            continue
        table = tomllib.loads(file.read_text("utf-8"))
        words = {name: tuple(entries) for name, entries in table.get("words", {}).items()}
        for frame in table["frame"]:
            found.append(
                Frame(frame["id"], table["category"], tuple(frame["descriptions"]), tuple(frame["headlines"]), words)
            )
    return tuple(found)


def compose(frame: Frame, rng: random.Random, held_out: bool) -> tuple[str, str]:
    """One telling of `frame`: (description, headline). `held_out` takes its names from the held-out pool."""
    slots = _Slots(rng, frame.words, held_out)
    description = rng.choice(frame.descriptions).format_map(slots)
    headline = rng.choices(frame.headlines, HEADLINE_WEIGHTS)[0].format_map(slots)
    return description[:1].upper() + description[1:], headline
