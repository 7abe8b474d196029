"""An invented newswire: articles in the form of the News Category Dataset, made by a seeded grammar.

Real news cannot ship with a benchmark, and a benchmark without a quality gate proves nothing. So the project makes
its own news: a few hundred kinds of event (`frames/*.toml`, one file a category), each told in several ways, filled
with invented people, places, organisations and figures (`names.py`) by `grammar.py`.

Two promises make it a test of understanding rather than of memory:

* the headline says the event in other words than the description, so copying the opening scores low;
* every other evaluation article takes its names from pools that no training article ever draws from.

`python -m udaciheadline.newswire` writes articles as JSON lines.
"""

from udaciheadline.data.newswire._articles import EVALUATION_COUNT, evaluation_articles, training_articles

__all__ = ["EVALUATION_COUNT", "evaluation_articles", "training_articles"]
