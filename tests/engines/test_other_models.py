"""What the engines do with tokenizers that name no tokens of their own, texts that are too long, and checkpoints that
bring settings for `generate`."""

import json

import pytest
from models_made import made
from rows import tokens

from udaciheadline.checkpoints.models import load_model, load_tokenizer
from udaciheadline.data.prompts import prompt_for
from udaciheadline.engines.compiled import CompiledEngine
from udaciheadline.engines.transformers import TransformersEngine
from udaciheadline.records import UsageError

ENGINES = [TransformersEngine, CompiledEngine]
LENGTH = 12
POSITIONS = 256  # of the tiny GPT-2
ROOM = POSITIONS - LENGTH  # for a prompt
WORD = " word"  # a token


@pytest.fixture(scope="module")
def prompts(news):
    return [prompt_for(article.short_description) for article in news[:6]]


def engine_of(kind, folder, **options):
    options = {"max_new_tokens": LENGTH} | ({"alone": False} if kind is CompiledEngine else {}) | options
    model = load_model(str(folder), device="cpu", dtype="float32")
    return kind(model, load_tokenizer(str(folder)), **options)


def edit(path, **changes):
    """Changes keys of a JSON file; None takes a key away."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


# -- neither a pad nor an end token ----------------------------------------------------------------------------------


@pytest.fixture
def nameless(tmp_path):
    """A checkpoint whose tokenizer names no special token, and which ends nowhere."""
    folder = made("llama", tmp_path / "nameless", bos_token_id=None, eos_token_id=None, pad_token_id=None)
    edit(folder / "tokenizer_config.json", bos_token=None, eos_token=None, pad_token=None)
    tokenizer = load_tokenizer(str(folder))
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (None, None)
    return folder


@pytest.mark.parametrize("stop", ["newline", "none"])
@pytest.mark.parametrize("kind", ENGINES)
def test_without_a_pad_token_a_batch_gives_what_its_prompts_give_one_by_one(nameless, prompts, kind, stop):
    alone = engine_of(TransformersEngine, nameless, stop=stop)
    expected = [alone.generate([prompt])[0].token_ids for prompt in prompts]
    assert tokens(engine_of(kind, nameless, stop=stop).generate(prompts)) == expected


@pytest.mark.parametrize("kind", ENGINES)
def test_without_an_end_token_a_headline_is_as_long_as_it_may_be_and_the_engine_says_so(nameless, prompts, kind):
    engine = engine_of(kind, nameless, stop="none", details={"sparsity": 0.5})
    assert {len(row) for row in tokens(engine.generate(prompts))} == {LENGTH}
    assert engine.info.details == {"sparsity": 0.5, "no_end_token": 1.0}


@pytest.mark.parametrize("kind", ENGINES)
def test_where_a_line_break_ends_a_headline_there_is_nothing_to_say(nameless, kind):
    assert engine_of(kind, nameless).info.details == {}


@pytest.mark.parametrize("kind", ENGINES)
def test_likelihood_needs_no_pad_token(nameless, prompts, kind):
    completions = [f" A headline {'of some length ' * n}" for n in range(len(prompts))]
    texts = engine_of(kind, nameless).texts
    alone = [texts.likelihood([p], [c])[0] for p, c in zip(prompts, completions, strict=True)]
    assert texts.likelihood(prompts, completions) == pytest.approx(alone, rel=1e-5)


# -- texts that are too long -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def short_sighted(tmp_path_factory):
    """An engine on a model of few positions."""
    return engine_of(TransformersEngine, made("gpt2", tmp_path_factory.mktemp("gpt2")))


def test_a_prompt_that_leaves_no_positions_for_a_headline_is_refused_with_its_number(short_sighted):
    fits = WORD * (ROOM - 1)  # the beginning of the text is a token too
    count = len(short_sighted._tokenizer(fits)["input_ids"])
    assert count == ROOM
    assert len(short_sighted.generate([fits])[0].token_ids) <= LENGTH
    reason = (
        f"article 2: its prompt of {count + 1} tokens and the {LENGTH} of a headline are more than the {POSITIONS} "
        "that the model has positions for: cut the article, or give a model for longer texts"
    )
    for refused in (short_sighted.generate, lambda prompts: short_sighted.texts.check(prompts, ["", ""])):
        with pytest.raises(UsageError) as caught:
            refused(["short", fits + WORD])
        assert str(caught.value) == reason


def test_a_true_headline_that_has_no_positions_behind_its_prompt_is_refused_before_it_is_judged(short_sighted):
    prompt = WORD * (ROOM - 1)
    assert short_sighted.texts.likelihood([prompt], [WORD * LENGTH])
    short_sighted.texts.check([prompt], [WORD * LENGTH])
    for refused in (short_sighted.texts.likelihood, short_sighted.texts.check):
        with pytest.raises(UsageError, match=rf"^article 1: .* and the {LENGTH + 1} of a headline are more than"):
            refused([prompt], [WORD * (LENGTH + 1)])


def test_the_compiled_engine_has_the_models_limit_where_that_is_lower(tmp_path):
    engine = engine_of(CompiledEngine, made("llama", tmp_path / "llama", max_position_embeddings=POSITIONS))
    with pytest.raises(UsageError, match=rf"more than the {POSITIONS} that the model has positions for"):
        engine.generate([WORD * POSITIONS])


def test_a_draft_with_fewer_positions_is_the_limit(tmp_path):
    target = made("llama", tmp_path / "target")
    draft = made("llama", tmp_path / "draft", max_position_embeddings=POSITIONS)
    drafting = load_model(str(draft), device="cpu", dtype="float32")
    engine = engine_of(TransformersEngine, target, draft=drafting, draft_tokens=2)
    with pytest.raises(UsageError, match=rf"more than the {POSITIONS} that the model has positions for"):
        engine.generate([WORD * POSITIONS])


def test_a_model_that_counts_no_positions_has_no_limit(tmp_path):
    engine = engine_of(TransformersEngine, made("mamba", tmp_path / "mamba"))
    engine.texts.check([WORD * 100_000], ["A headline"])


# -- settings that a checkpoint brings -------------------------------------------------------------------------------

CHAT = {"do_sample": True, "temperature": 40.0, "top_p": 0.8, "top_k": 2000, "repetition_penalty": 9.0}
FORCED = {"forced_bos_token_id": 7, "forced_eos_token_id": 9, "suppress_tokens": [3], "begin_suppress_tokens": [5]}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("settings", [CHAT, FORCED], ids=["chat", "forced"])
def test_what_a_checkpoint_says_of_generating_counts_for_no_row(tmp_path, prompts, family, settings):
    folder = made(family, tmp_path / "plain")
    expected = tokens(engine_of(TransformersEngine, folder).generate(prompts))
    edit(folder / "generation_config.json", **settings)
    edit(folder / "config.json", task_specific_params={"text-generation": {"do_sample": True, "max_length": 50}})
    assert tokens(engine_of(TransformersEngine, folder).generate(prompts)) == expected


def test_what_a_draft_says_of_generating_counts_for_nothing(tmp_path, prompts):
    folder = made("llama", tmp_path / "llama")
    edit(folder / "generation_config.json", **CHAT)
    draft = load_model(str(folder), device="cpu", dtype="float32")
    engine = engine_of(TransformersEngine, folder, draft=draft, draft_tokens=4)
    generations = [engine.generate([prompt])[0] for prompt in prompts]
    assert all(g.accepted == g.drafted > 0 for g in generations)
