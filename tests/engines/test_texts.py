"""Where a headline ends, and what an engine says of tokens that it did not write."""

from types import SimpleNamespace

import pytest
import torch

from udaciheadline.engines.texts import Ending, preferences, rounding

WORDS = {0: "<end>", 1: " Rain", 2: " Falls", 3: "\n", 4: ".\n\n", 5: " ", 6: "a\tb"}
NAMES = {0: "<end>", 1: "ĠRain", 2: "ĠFalls", 3: "Ċ", 4: ".ĊĊ", 5: "Ġ", 6: "aĉb"}


class Tokenizer:
    """Of seven tokens, one of them special; a text of n characters has n tokens."""

    eos_token_id = 0
    pad_token_id = 0
    all_special_ids = (0,)

    def get_vocab(self):
        return {name: token for token, name in NAMES.items()}

    def decode(self, tokens, skip_special_tokens=False):
        return "".join(WORDS[token] for token in tokens if token or not skip_special_tokens)

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [1] * len(text)}


def ending(stop="newline", eos=None):
    generation = SimpleNamespace(eos_token_id=eos)
    model = SimpleNamespace(generation_config=generation, config=SimpleNamespace(vocab_size=7))
    return Ending(model, Tokenizer(), stop)


@pytest.mark.parametrize(
    ("tokens", "kept"),
    [
        pytest.param([1, 2, 0, 1], [1, 2, 0], id="at the end of the sequence"),
        pytest.param([1, 2, 3, 1], [1, 2, 3], id="at a line break after text"),
        pytest.param([1, 4, 1], [1, 4], id="at a token with a line break behind text"),
        pytest.param([4, 1], [4], id="at one that brings its text along"),
        pytest.param([3, 5, 3, 1, 3, 2], [3, 5, 3, 1, 3], id="not at line breaks before text"),
        pytest.param([1, 5, 6], [1, 5, 6], id="not at other white space"),
        pytest.param([3, 3], [3, 3], id="not without text"),
    ],
)
def test_a_headline_ends(tokens, kept):
    assert ending().cut(tokens) == kept


def test_without_a_stop_a_headline_goes_on_over_line_breaks():
    assert ending("none").cut([1, 3, 2, 0, 1]) == [1, 3, 2, 0]


@pytest.mark.parametrize("eos", [2, [2, 6]])
def test_the_end_of_the_sequence_is_what_the_checkpoint_names(eos):
    assert ending(eos=eos).cut([1, 2, 1]) == [1, 2]


@pytest.mark.parametrize(("stop", "headline"), [("newline", "Rain"), ("none", "Rain\n Falls")])
def test_a_headline_is_the_text_up_to_where_it_ends(stop, headline):
    assert ending(stop).headline([3, 1, 3, 2, 0]) == headline


def logits(ids):
    """The last token decides: after token t, token v has the logit t * v. In a batch, all is 0.25 v more."""
    values = ids[..., None] * torch.arange(7.0)
    return values + (0.25 * torch.arange(7.0) if len(ids) > 1 else 0)


def test_a_preference_is_for_the_last_token_over_the_other_one_in_its_place():
    assert preferences(logits, Tokenizer(), "cpu", ["ab"], [[3, 5]], [4]) == [3.0]


def test_preferences_of_many_texts_are_each_ones_own():
    found = preferences(
        lambda ids: logits(ids[:1]).expand(len(ids), -1, -1), Tokenizer(), "cpu", ["a"] * 9, [[2]] * 9, [6] * 9
    )
    assert found == [-4.0] * 9


def test_rounding_is_the_most_that_a_batch_moves_the_preference_for_the_best_token():
    assert rounding(logits, Tokenizer(), "cpu", ["ab", "c"], [[2, 3], [6]]) == pytest.approx(0.25)
