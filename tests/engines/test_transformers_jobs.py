"""Jobs of many prompts, the static cache, and what the engine on `generate` says of its weights."""

import itertools
from types import SimpleNamespace

import pytest
from rows import tokens
from transformers import LlamaConfig, LlamaForCausalLM

from udaciheadline.checkpoints.models import load_model
from udaciheadline.data.prompts import prompt_for
from udaciheadline.engines import transformers as module
from udaciheadline.engines.transformers import STATIC_SLOTS, TransformersEngine

LENGTH = 12


@pytest.fixture(scope="module")
def prompts(news):
    return [prompt_for(article.short_description) for article in news[:7]]


@pytest.fixture(scope="module")
def engine(main_checkpoint, tokenizer):
    return TransformersEngine(load(main_checkpoint), tokenizer, max_new_tokens=LENGTH)


@pytest.fixture(scope="module")
def static(main_checkpoint, tokenizer):
    return TransformersEngine(load(main_checkpoint), tokenizer, max_new_tokens=LENGTH, static_cache=True)


@pytest.fixture(scope="module")
def one_by_one(engine, prompts):
    """The generations of all prompts, one call each."""
    return [engine.generate([prompt])[0] for prompt in prompts]


def load(checkpoint):
    return load_model(checkpoint, device="cpu", dtype="float32")


@pytest.fixture
def counted(main_checkpoint, tokenizer, monkeypatch):
    """An engine whose clock counts forward passes."""
    model, passes, clock = load(main_checkpoint), itertools.count(1), SimpleNamespace(seconds=0)
    model.register_forward_hook(lambda *_: setattr(clock, "seconds", next(passes)))
    monkeypatch.setattr(module, "now", lambda device: clock.seconds)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock.seconds))
    return TransformersEngine(model, tokenizer, max_new_tokens=4)


# -- jobs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 100, None])
def test_a_job_gives_the_same_tokens_in_the_order_of_the_prompts_however_many_at_a_time(
    engine, prompts, one_by_one, size
):
    assert tokens(engine.generate(prompts, batch_size=size)) == tokens(one_by_one)


def test_prompts_in_tokens_get_the_same_tokens_and_no_text(engine, prompts, one_by_one):
    generations = engine.generate_from(engine.texts.encode(prompts), 3)
    assert tokens(generations) == tokens(one_by_one)
    assert {g.headline for g in generations} == {""}
    assert engine.generate_from([]) == []


def test_a_job_runs_the_longest_prompts_first_so_that_little_is_padded(main_checkpoint, tokenizer, prompts):
    model, shapes = load(main_checkpoint), []
    model.model.register_forward_pre_hook(
        lambda _, __, kw: shapes.append(tuple(kw["input_ids"].shape)), with_kwargs=True
    )
    TransformersEngine(model, tokenizer, max_new_tokens=1).generate(prompts, batch_size=3)
    lengths = sorted((len(ids) for ids in tokenizer(prompts)["input_ids"]), reverse=True)
    assert shapes == [(len(lengths[i : i + 3]), max(lengths[i : i + 3])) for i in (0, 3, 6)]


@pytest.mark.parametrize(("size", "noted"), [(1, 1), (2, 2), (3, 3), (100, 3), (None, 3)])
def test_a_generation_says_how_many_were_worked_on_at_a_time(counted, prompts, size, noted):
    assert {generation.batch_size for generation in counted.generate(prompts[:3], batch_size=size)} == {noted}


def test_a_generation_says_how_long_its_prompt_was_without_padding(counted, prompts, tokenizer):
    found = [generation.prompt_tokens for generation in counted.generate(prompts, batch_size=3)]
    assert found == [len(tokenizer(prompt)["input_ids"]) for prompt in prompts]
    assert len(set(found)) > 3


def test_no_prompts_are_a_job_without_headlines(engine):
    assert engine.generate([]) == []


def test_the_seconds_of_a_job_are_those_of_all_its_batches(counted, prompts):
    assert {generation.seconds for generation in counted.generate(prompts, batch_size=3)} == {3 * 4}


def test_a_first_token_is_there_when_the_batches_before_it_are_done(counted, prompts):
    """Three batches of four passes: the first tokens come with the first, fifth and ninth pass."""
    made = counted.generate(prompts, batch_size=3)
    order = counted.texts.longest(prompts, len(prompts))
    assert [made[i].first_token_seconds for i in order] == [1, 1, 1, 5, 5, 5, 9]


# -- the static cache ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3])
def test_with_a_static_cache_the_tokens_are_the_same(static, prompts, one_by_one, size):
    assert tokens(static.generate(prompts, batch_size=size)) == tokens(one_by_one)


def test_a_static_cache_that_was_used_before_leaves_nothing_behind(static, prompts, one_by_one):
    for _ in range(2):
        assert static.generate(prompts[:1])[0].token_ids == one_by_one[0].token_ids


def test_a_static_cache_is_used_again_for_a_prompt_that_fits_and_is_a_multiple_of_its_slots(static, prompts):
    static.generate(prompts[:1])
    cache = static._caches[1]
    assert cache.layers[0].max_cache_len == STATIC_SLOTS
    places = [layer.keys.data_ptr() for layer in cache.layers]
    static.generate(prompts[1:2])
    assert static._caches[1] is cache
    assert [layer.keys.data_ptr() for layer in cache.layers] == places


def test_a_longer_prompt_gets_a_longer_static_cache_and_the_same_tokens(static, engine, prompts):
    static.generate(prompts[:1])
    short, long = static._caches[1], prompt_for(" ".join(prompts))
    assert tokens(static.generate([long])) == tokens(engine.generate([long]))
    assert static._caches[1] is not short
    length = static._caches[1].layers[0].max_cache_len
    assert length > STATIC_SLOTS
    assert length % STATIC_SLOTS == 0


def test_a_prompt_that_leaves_just_enough_room_is_written_to_the_last_slot(static, engine, prompts, tokenizer):
    words = " ".join(prompts).split()
    fitting = next(
        text
        for n in range(len(words), 0, -1)
        if len(tokenizer(text := " ".join(words[:n]))["input_ids"]) + LENGTH <= STATIC_SLOTS
    )
    assert tokens(static.generate([fitting])) == tokens(engine.generate([fitting]))


def test_each_number_of_rows_has_a_static_cache_of_its_own(static, prompts):
    static.generate(prompts, batch_size=3)
    assert {1, 3} <= static._caches.keys()


# -- what it says of its weights -------------------------------------------------------------------------------------


def tiny(tied):
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        tie_word_embeddings=tied,
        eos_token_id=1,
        pad_token_id=2,
    )
    return LlamaForCausalLM(config)


TABLE = 4096 * 32  # parameters of the embedding, and of the head
LAYERS = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 48 + 2 * 32) + 32  # attention, MLP, norms; the final norm
BUFFERS = 2 * 8 * 4  # bytes of the rotary frequencies, of which transformers keeps a second copy


@pytest.mark.parametrize("tied", [True, False])
def test_a_pass_reads_all_weights_but_an_embedding_that_is_not_the_head(tokenizer, tied):
    info = TransformersEngine(tiny(tied), tokenizer, max_new_tokens=1).info
    assert info.pass_bytes == 4 * (LAYERS + TABLE) + BUFFERS
    assert info.weights_bytes == info.pass_bytes + (0 if tied else 4 * TABLE)


@pytest.mark.parametrize("tied", [True, False])
def test_the_parameters_of_layers_and_head_are_counted_apart(tokenizer, tied):
    info = TransformersEngine(tiny(tied), tokenizer, max_new_tokens=1).info
    assert (info.layer_parameters, info.head_parameters) == (LAYERS, TABLE)
    assert info.parameters == LAYERS + TABLE * (1 if tied else 2)


def test_with_a_draft_there_is_no_one_pass(tokenizer):
    engine = TransformersEngine(tiny(True), tokenizer, max_new_tokens=1, draft=tiny(False), draft_tokens=2)
    assert engine.info.pass_bytes is None
