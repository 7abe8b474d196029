"""The headlines that got worst and those that changed, side by side: rows that wrote the same one share a line."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from udaciheadline.records import Article, PerArticle, Record
from udaciheadline.techniques import REFERENCE

WORST, CHANGED = 5, 10  # as many as anybody reads


@dataclass(frozen=True)
class Written:
    """One headline, its ROUGE-1 (NaN: see `PerArticle`) and the techniques that wrote it."""

    headline: str
    rouge1: float
    techniques: tuple[str, ...]

    @property
    def writers(self) -> str:
        """The techniques by name; those that wrote the reference's are as many as the others leave."""
        if self.techniques[0] == REFERENCE and len(self.techniques) > 2:
            return f"{REFERENCE} and {len(self.techniques) - 1} others"
        return ", ".join(self.techniques)


@dataclass(frozen=True)
class Story:
    """One article, by its place in the run (from 1), with every headline that it got: the reference's first. Without
    its texts where the folder of results has not kept them."""

    number: int
    description: str
    true_headline: str
    written: tuple[Written, ...]


@dataclass(frozen=True)
class Stories:
    """The articles where a row lost most ROUGE-1 against the reference, and others where most rows wrote another
    headline than it; of how many articles these are all that changed, and how many changed in each row."""

    worst: tuple[Story, ...]
    changed: tuple[Story, ...]
    count: int
    changes: dict[str, int]


def stories(records: Sequence[Record], articles: Sequence[Article] | None) -> Stories | None:
    """None where the reference's headlines are not in the run, so that there is nothing to hold others against."""
    found = {r.technique: r.per_article for r in records if r.per_article and r.per_article.headlines}
    reference = found.pop(REFERENCE, None)
    if reference is None or not found:
        return None
    changed: dict[int, int] = {}
    lost: dict[int, float] = {}
    changes = dict.fromkeys(found, 0)
    for name, row in found.items():
        for i in _others(row, reference):
            changed[i] = changed.get(i, 0) + 1
            changes[name] += 1
            lost[i] = max(lost.get(i, 0.0), reference.rouge1[i] - row.rouge1[i])
    worst = sorted((i for i in lost if lost[i] > 0), key=lambda i: (-lost[i], i))[:WORST]
    others = sorted((i for i in changed if i not in worst), key=lambda i: (-changed[i], i))[:CHANGED]
    rows = {REFERENCE: reference, **found}
    return Stories(
        tuple(_story(i, rows, articles) for i in worst),
        tuple(_story(i, rows, articles) for i in others),
        len(changed),
        changes,
    )


def _others(row: PerArticle, reference: PerArticle) -> Iterable[int]:
    pairs = zip(row.headlines, reference.headlines, strict=False)
    return (i for i, (own, other) in enumerate(pairs) if own != other)


def _story(i: int, rows: dict[str, PerArticle], articles: Sequence[Article] | None) -> Story:
    groups: dict[str, list[str]] = {}
    rouge1: dict[str, float] = {}
    for name, row in rows.items():
        if i < len(row.headlines):
            groups.setdefault(row.headlines[i], []).append(name)
            rouge1[row.headlines[i]] = row.rouge1[i]
    article = articles[i] if articles and i < len(articles) else Article("", "")
    written = tuple(Written(headline, rouge1[headline], tuple(names)) for headline, names in groups.items())
    return Story(i + 1, article.short_description, article.headline, written)
