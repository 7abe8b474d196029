"""Streams of whole articles: the fixed evaluation set, and training articles that never meet it."""

import datetime
import random
import re
from collections.abc import Iterator
from functools import cache

from udaciheadline.data.newswire.grammar import compose, frames
from udaciheadline.data.newswire.names import draw
from udaciheadline.records import Article

EVALUATION_COUNT = 1000
_EVALUATION_SEED = 20_240_917


def _article(rng: random.Random, held_out: bool) -> Article:
    frame = rng.choice(frames())
    description, headline = compose(frame, rng, held_out)
    date = datetime.date(2023, 1, 1) + datetime.timedelta(days=rng.randrange(700))
    slug = re.sub(r"[^a-z0-9]+", "-", headline.lower()).strip("-")
    return Article(
        headline=headline,
        short_description=description,
        category=frame.category,
        authors=str(draw("person", rng, held_out)),
        date=date.isoformat(),
        link=f"https://newswire.invalid/{frame.id}/{slug}",
    )


@cache
def evaluation_articles() -> tuple[Article, ...]:
    """The 1,000 evaluation articles, always the same; every second one has held-out names."""
    rng = random.Random(_EVALUATION_SEED)
    chosen: dict[str, Article] = {}
    while len(chosen) < EVALUATION_COUNT:
        article = _article(rng, held_out=len(chosen) % 2 == 1)
        chosen.setdefault(article.short_description, article)
    return tuple(chosen.values())


def training_articles(count: int, seed: int = 0) -> Iterator[Article]:
    """`count` articles without held-out names, none of which has the description of an evaluation article.

    The same seed gives the same articles in the same order.
    """
    taken = {article.short_description for article in evaluation_articles()}
    rng = random.Random(f"training {seed}")
    while count:
        article = _article(rng, held_out=False)
        if article.short_description not in taken:
            count -= 1
            yield article
