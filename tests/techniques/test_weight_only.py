"""What rows of few bits are calibrated on."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from udaciheadline.data.articles import CALIBRATION_ARTICLES
from udaciheadline.data.newswire import evaluation_articles, training_articles
from udaciheadline.data.prompts import completion_for, prompt_for
from udaciheadline.engines import compiled
from udaciheadline.records import Article
from udaciheadline.techniques.weight_only import build, calibrated

ARTICLES = (
    Article("Cats sleep", "A study of cats says that they sleep."),
    Article("Dogs run", "Dogs were seen to run."),
)


@pytest.fixture
def calibrated_on(monkeypatch):
    """The texts that weights are calibrated on, in place of which nothing is calibrated."""
    made = []
    monkeypatch.setattr(compiled, "calibrate_once", lambda model, texts, kind: made.extend(texts) or {})
    return made


def text(article):
    return prompt_for(article.short_description) + completion_for(article.headline)


def test_it_is_calibrated_on_the_articles_that_it_is_given_with_their_headlines(calibrated_on, tokenizer):
    assert calibrated(None, tokenizer, ARTICLES, "int4") == {"calibration_articles": 2}
    assert [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in calibrated_on] == [
        text(article) for article in ARTICLES
    ]


def test_without_articles_it_is_calibrated_on_the_newswires_which_are_never_measured(calibrated_on, tokenizer):
    calibrated(None, tokenizer, (), "int4")
    read = [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in calibrated_on]
    assert read == [text(article) for article in training_articles(CALIBRATION_ARTICLES)]
    assert not {text(article) for article in evaluation_articles()} & set(read)


@pytest.mark.parametrize(("kind", "is_calibrated"), [("int8", False), ("fp8", True), ("int4", True)])
def test_all_but_int8_are_calibrated_and_the_row_says_so(spec, monkeypatch, kind, is_calibrated):
    given = {}

    def engine(model, tokenizer, **arguments):
        given.update(arguments, scales=hasattr(model.model.layers[-1].mlp.down_proj, "scales"))
        return SimpleNamespace()

    monkeypatch.setattr(compiled, "CompiledEngine", engine)
    build(kind, replace(spec, calibration=ARTICLES))
    assert given["weights"] == kind
    assert given["scales"] == is_calibrated
    figures = {"calibration_seconds", "calibration_tokens", "calibration_articles"}
    assert (given["details"] or {}).keys() == (figures if is_calibrated else set())
