"""Where a headline ends, and what an engine says of tokens that it did not write."""

from types import SimpleNamespace

import pytest
import torch
from rows import generation

from udaciheadline.engines.codec import Codec, Limit
from udaciheadline.engines.texts import Ending, Texts
from udaciheadline.records import UsageError

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

    def __call__(self, texts, add_special_tokens=True):
        ids = [[1] * len(text) for text in ([texts] if isinstance(texts, str) else texts)]
        return {"input_ids": ids[0] if isinstance(texts, str) else ids}


def ending(stop="newline", eos=None):
    generation = SimpleNamespace(eos_token_id=eos)
    return Ending(SimpleNamespace(generation_config=generation), Tokenizer(), stop)


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


def test_on_a_device_the_end_is_a_look_into_tables():
    found = [table.nonzero().flatten().tolist() for table in ending().tables(6)]
    assert found == [[0], [3, 4], [0, 3, 5]]


def test_where_nothing_but_its_length_ends_a_headline_the_report_is_told():
    assert ending("newline").details() == ending("none").details() == {}
    endless = SimpleNamespace(generation_config=None)
    tokenizer = Tokenizer()
    tokenizer.eos_token_id = None
    assert Ending(endless, tokenizer, "none").details() == {"no_end_token": 1.0}


def logits(ids, given):
    """The last token decides: after token t, token v has the logit t * v. In a batch, all is 0.25 v more."""
    values = ids[..., None] * torch.arange(7.0)
    return values + (0.25 * torch.arange(7.0) if len(ids) > 1 else 0)


def texts(logits=logits, stop="newline", limit=100):
    return Texts(Tokenizer(), logits, "cpu", stop=stop, limit=Limit(limit, "the test takes"), max_new_tokens=3)


@pytest.mark.parametrize(("stop", "headline"), [("newline", "Rain"), ("none", "Rain\n Falls")])
def test_a_headline_is_the_text_up_to_where_it_ends(stop, headline):
    assert texts(stop=stop).headline([3, 1, 3, 2, 0]) == headline


def test_a_preference_is_for_the_last_token_over_the_other_one_in_its_place():
    assert texts().preferences(["ab"], [[3, 5]], [4]) == [3.0]


def test_preferences_of_many_texts_are_each_ones_own():
    alone = texts(lambda ids, given: logits(ids[:1], given).expand(len(ids), -1, -1))
    assert alone.preferences(["a"] * 9, [[2]] * 9, [6] * 9) == [-4.0] * 9


def test_rounding_is_the_most_that_a_batch_moves_the_preference_for_the_best_token():
    assert texts().rounding(["ab", "c"], [[2, 3], [6]]) == pytest.approx(0.25)


def test_rounding_is_no_less_than_the_distance_of_the_numbers_that_the_logits_are_rounded_to():
    alike = (4 * torch.arange(7.0)).bfloat16()  # the best is 24, where bfloat16 has 16, 16.125, 16.25 and so on
    assert texts(lambda ids, _: alike.expand(*ids.shape, -1)).rounding(["ab", "c"], [[2, 3], [6]]) == 0.125


@pytest.mark.parametrize("completion", ["a", "a longer one"])
def test_an_article_is_too_long_with_its_headline_be_it_the_models_or_the_true_one(completion):
    message = "^article 2: its prompt of 6 tokens and the .* of a headline are more than the 8 that the test takes: cut"
    with pytest.raises(UsageError, match=message):
        texts(limit=8).check(["abcd", "abcdef"], [completion] * 2 if len(completion) < 3 else ["a", completion])


def test_the_longest_prompts_come_first():
    assert texts().longest(["a" * n for n in (3, 9, 4, 9, 1)], 3) == [1, 3, 2]


def test_headlines_are_read_from_the_tokens_of_generations():
    made = [generation(headline="", token_ids=(3, 1, 3)), generation(headline="", token_ids=(0,))]
    assert [g.headline for g in texts().with_headlines(made)] == ["Rain", ""]
    assert [g.token_ids for g in texts().with_headlines(made)] == [(3, 1, 3), (0,)]


def test_no_prompts_are_no_tokens_and_the_tokenizer_is_not_asked():
    assert Codec(None, "newline").encode([]) == []


@pytest.mark.parametrize(("prompt", "new", "is_too_long"), [(6, 2, False), (6, 3, True), (9, 0, True)])
def test_a_limit_is_for_prompt_and_headline_together(prompt, new, is_too_long):
    assert (Limit(8, "the test takes").excess(prompt, new) is not None) == is_too_long


def test_texts_before_the_first_that_is_too_long_fit(main_checkpoint, tokenizer) -> None:
    limit = Limit(20, "the model has positions for")
    texts = Texts(tokenizer, lambda ids, _: ids, "cpu", stop="newline", limit=limit, max_new_tokens=8)
    long = "A council has met in the town hall of Ashmarch, and nobody came to hear what it had to say."
    assert texts.fitting(["One.", "Two."], [" A", " B"]) == 2
    assert texts.fitting(["One.", long, "Two."], [" A", " B", " C"]) == 1
    assert texts.fitting(["One.", "Two."], [" A", f" {long}"]) == 1
