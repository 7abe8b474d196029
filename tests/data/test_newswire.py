import json
import random
import re
import string
import sys
from importlib.resources import files
from itertools import islice, product

import pytest

from udaciheadline import newswire
from udaciheadline.data.newswire import EVALUATION_COUNT, _articles, evaluation_articles, training_articles
from udaciheadline.data.newswire.grammar import HEADLINE_WEIGHTS, Frame, compose, frames
from udaciheadline.data.newswire.names import Figure, Person, Phrase, _pool, draw, is_held_out
from udaciheadline.evidence.quality import rouge
from udaciheadline.records import Article

POOLS = ("first", "surname", "place", "region", "company")


@pytest.fixture(scope="module")
def training() -> tuple[Article, ...]:
    return tuple(training_articles(20_000))


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[A-Za-z]+", text))


def text_of(article: Article) -> str:
    return f"{article.headline} {article.short_description} {article.authors}"


def names(*, held_out: bool) -> set[str]:
    """Every name of a pool, without the few that are also words of the frames themselves (Seven, Landing)."""
    return {name for pool in POOLS for name in _pool(pool, held_out)} - frame_words()


def frame_words() -> set[str]:
    words: set[str] = set()
    for frame in frames():
        for template in frame.descriptions + frame.headlines:
            words |= words_of(re.sub(r"\{.*?\}", " ", template))
        for entry in (entry for entries in frame.words.values() for entry in entries):
            words |= words_of(f"{entry} {Phrase(entry).title}")
    return words | {word.capitalize() for word in words}


def slots_of(template: str) -> set[str]:
    """The slots of a template, whatever form (`{x.title}`) it asks for."""
    return {field.partition(".")[0] for _, field, _, _ in string.Formatter().parse(template) if field is not None}


# The evaluation set


def test_the_evaluation_set_ships_exactly_as_generated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["newswire"])
    newswire.main()
    shipped = (files("udaciheadline.data") / "embedded.jsonl").read_bytes()
    assert capsys.readouterr().out.encode() == shipped


def test_the_evaluation_set_has_a_thousand_distinct_articles() -> None:
    articles = evaluation_articles()
    assert len(articles) == EVALUATION_COUNT == 1000
    assert len({article.short_description for article in articles}) == 1000
    assert len({text_of(article) for article in articles}) == 1000


def test_every_second_evaluation_article_has_only_held_out_names() -> None:
    trained_on = names(held_out=False)
    for article in evaluation_articles()[1::2]:
        assert not words_of(text_of(article)) & trained_on
        assert all(is_held_out(name) for name in article.authors.split())


def test_the_other_evaluation_articles_have_no_held_out_name() -> None:
    held_out = names(held_out=True)
    for article in evaluation_articles()[::2]:
        assert not words_of(text_of(article)) & held_out


def test_no_held_out_name_occurs_in_a_training_article(training: tuple[Article, ...]) -> None:
    met = {word for article in training for word in words_of(text_of(article))}
    assert not met & names(held_out=True)


def test_training_and_evaluation_share_no_description(training: tuple[Article, ...]) -> None:
    evaluation = {article.short_description for article in evaluation_articles()}
    assert not evaluation & {article.short_description for article in training}


def test_a_training_article_with_the_description_of_an_evaluation_article_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second, third, fourth = training_articles(4)
    monkeypatch.setattr(_articles, "evaluation_articles", lambda: (first, third))
    assert list(training_articles(2)) == [second, fourth]


def test_the_first_words_of_a_description_say_little_of_its_headline() -> None:
    articles = evaluation_articles()
    openings = [" ".join(article.short_description.split()[:12]) for article in articles]
    scores = rouge(openings, [article.headline for article in articles])["rouge1"]
    assert sum(scores) / len(scores) <= 0.35


# Streams of training articles


def test_the_same_seed_gives_the_same_articles() -> None:
    assert list(training_articles(50, seed=7)) == list(training_articles(50, seed=7))


def test_more_articles_of_a_seed_begin_with_the_fewer() -> None:
    assert list(islice(training_articles(50, seed=7), 20)) == list(training_articles(20, seed=7))


def test_another_seed_gives_other_articles() -> None:
    assert not set(training_articles(50, seed=7)) & set(training_articles(50, seed=8))


def test_as_many_training_articles_come_as_were_asked_for(training: tuple[Article, ...]) -> None:
    assert len(training) == 20_000


def test_the_command_writes_training_articles_of_a_seed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["newswire", "--articles", "3", "--seed", "7"])
    newswire.main()
    written = [Article(**json.loads(line)) for line in capsys.readouterr().out.splitlines()]
    assert written == list(training_articles(3, seed=7))


def test_no_article_has_a_brace_left(training: tuple[Article, ...]) -> None:
    assert not [a for a in (*training, *evaluation_articles()) if set("{}") & set(text_of(a) + a.category + a.link)]


def test_every_description_begins_with_a_capital_or_a_figure(training: tuple[Article, ...]) -> None:
    assert not [a.short_description for a in training if not re.match(r"[A-Z0-9$]", a.short_description)]


# Frames


def test_there_are_at_least_two_hundred_frames_of_twelve_categories() -> None:
    assert len(frames()) >= 200
    assert len({frame.category for frame in frames()}) >= 12


def test_every_frame_has_several_descriptions_and_a_headline_for_each_weight() -> None:
    for frame in frames():
        assert len(set(frame.descriptions)) == len(frame.descriptions) >= 4, frame.id
        assert len(set(frame.headlines)) == len(frame.headlines) == len(HEADLINE_WEIGHTS), frame.id


def test_what_a_headline_asks_for_stands_in_every_description_of_its_frame() -> None:
    for frame in frames():
        asked = set().union(*map(slots_of, frame.headlines))
        assert asked, frame.id
        for description in frame.descriptions:
            assert asked <= slots_of(description), (frame.id, description)


@pytest.mark.parametrize("held_out", [False, True])
def test_every_template_of_every_frame_can_be_filled(held_out: bool) -> None:
    rng = random.Random(0)
    for frame in frames():
        for description, headline in product(frame.descriptions, frame.headlines):
            one = Frame(frame.id, frame.category, (description,), (headline,) * len(HEADLINE_WEIGHTS), frame.words)
            assert not set("{}") & set("".join(compose(one, rng, held_out))), frame.id


def test_the_usual_headline_of_a_frame_is_the_most_frequent() -> None:
    frame = Frame("id", "C", ("d",), ("usual", "second", "third"), {})
    rng = random.Random(0)
    drawn = [compose(frame, rng, held_out=False)[1] for _ in range(1000)]
    assert drawn.count("usual") > 650
    assert drawn.count("second") > drawn.count("third") > 0


def test_one_article_fills_a_slot_the_same_everywhere() -> None:
    frame = Frame(
        "id", "C", ("{person} of {place}, {thing}",), ("{person} {place} {thing}",) * 3, {"thing": ("a", "b")}
    )
    for seed in range(20):
        description, headline = compose(frame, random.Random(seed), held_out=False)
        assert headline == description.replace(" of ", " ").replace(",", "")


def test_a_second_slot_of_a_kind_is_another_than_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(["Ashham", "Ashham", "Ashham", "Oldford"])
    monkeypatch.setattr("udaciheadline.data.newswire.grammar.draw", lambda *_: next(drawn))
    frame = Frame("id", "C", ("{place} {place2}",), ("h",) * 3, {})
    assert compose(frame, random.Random(0), held_out=False)[0] == "Ashham Oldford"


# Names and figures


def test_no_name_is_in_both_pools() -> None:
    trained_on, held_out = ({name for pool in POOLS for name in _pool(pool, side)} for side in (False, True))
    assert trained_on
    assert held_out
    assert not trained_on & held_out


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("kind", ["person", "place", "region", "org", "company", "school", "team"])
def test_a_name_is_drawn_from_the_pool_that_was_asked_for(kind: str, held_out: bool) -> None:
    rng = random.Random(0)
    for _ in range(200):
        drawn = draw(kind, rng, held_out)
        name = str(drawn).split()[0]
        assert is_held_out(name) == held_out
        if isinstance(drawn, Person):
            assert is_held_out(drawn.last) == held_out


def test_an_unknown_slot_is_an_error() -> None:
    with pytest.raises(KeyError, match="mayor"):
        draw("mayor", random.Random(0), held_out=False)


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        ("money", r"\$(\d+(?:\.\d)?) (million|billion)=\$\1[MB]"),
        ("percent", r"(\d+) percent=\1%"),
        ("few", r"(two|three|four|five|six|seven|eight|nine)=[2-9]"),
    ],
)
def test_a_figure_has_a_form_for_text_and_a_short_one_for_headlines(kind: str, pattern: str) -> None:
    rng = random.Random(0)
    for _ in range(100):
        figure = draw(kind, rng, held_out=False)
        assert isinstance(figure, Figure)
        assert re.fullmatch(pattern, f"{figure}={figure.short}")


def test_a_few_has_the_digit_of_its_word() -> None:
    rng = random.Random(0)
    digits = {str(figure): figure.digit for _ in range(200) if isinstance(figure := draw("few", rng, False), Figure)}
    words = ["two", "three", "four", "five", "six", "seven", "eight", "nine"]
    assert digits == {word: str(value) for value, word in enumerate(words, start=2)}


def test_a_word_list_entry_has_a_headline_form_with_its_small_words_small() -> None:
    assert f"{Phrase('a box of tin for the road').title}" == "A Box of Tin for the Road"


def test_a_person_is_a_first_name_and_a_surname() -> None:
    assert "{p} / {p.last}".format(p=Person("Wilna", "Sarkdane")) == "Wilna Sarkdane / Sarkdane"
