"""The engine on transformers' `generate`, with the embedded models in float32 on the CPU."""

import gc
import itertools
import json
import weakref
from types import SimpleNamespace

import pytest
import torch
from rows import tokens

from udaciheadline.checkpoints.models import load_model, load_tokenizer
from udaciheadline.data.prompts import completion_for, extract_headline, prompt_for
from udaciheadline.engines import transformers as module
from udaciheadline.engines.texts import READ_TOGETHER
from udaciheadline.engines.transformers import TransformersEngine
from udaciheadline.techniques.quantization import bitsandbytes_config

EOS = 1
DRAFT_TOKENS = 5
LENGTH = 25


def load(checkpoint, **options):
    """A model of its own: an engine changes the configuration of the one that it is given."""
    return load_model(str(checkpoint), device="cpu", dtype="float32", **options)


@pytest.fixture(scope="module")
def prompts(news):
    return [prompt_for(article.short_description) for article in news]


@pytest.fixture(scope="module")
def main_model(main_checkpoint):
    """The main model for the plain loops of this file."""
    return load(main_checkpoint)


@pytest.fixture(scope="module")
def engine(main_checkpoint, tokenizer):
    return TransformersEngine(load(main_checkpoint), tokenizer, max_new_tokens=LENGTH)


@pytest.fixture(scope="module")
def one_by_one(engine, prompts):
    """The generations of all prompts, one call each."""
    return [engine.generate([prompt])[0] for prompt in prompts]


def greedy(model, ids, count):
    """The plain loop: the whole text through the model for each token, the likeliest one appended."""
    new = []
    while len(new) < count and EOS not in new:
        with torch.no_grad():
            logits = model(torch.tensor([[*ids, *new]]), use_cache=False).logits
        new.append(int(logits[0, -1].argmax()))
    return new


# -- generate --------------------------------------------------------------------------------------------------------


def test_a_headline_is_what_a_plain_greedy_loop_writes(one_by_one, main_model, tokenizer, prompts):
    for generation, prompt in zip(one_by_one[:6], prompts, strict=False):
        expected = greedy(main_model, tokenizer(prompt)["input_ids"], LENGTH)
        assert generation.token_ids == tuple(expected)
        assert generation.headline == extract_headline(tokenizer.decode(expected[:-1]))
        assert len(generation.headline.split()) > 1


def test_a_batch_of_different_lengths_gives_what_its_prompts_give_one_by_one(engine, one_by_one, prompts, tokenizer):
    batch = engine.generate(prompts[:8])
    assert len({len(tokenizer(prompt)["input_ids"]) for prompt in prompts[:8]}) > 4
    assert tokens(batch) == tokens(one_by_one[:8])
    assert [g.headline for g in batch] == [g.headline for g in one_by_one[:8]]


def test_with_and_without_the_cache_the_tokens_are_the_same(main_checkpoint, tokenizer, one_by_one, prompts):
    uncached = TransformersEngine(load(main_checkpoint), tokenizer, max_new_tokens=LENGTH, use_cache=False)
    assert tokens(uncached.generate(prompts[:8])) == tokens(one_by_one[:8])


@pytest.mark.parametrize("use_cache", [True, False])
def test_only_without_the_cache_each_token_runs_the_whole_text_again(main_checkpoint, tokenizer, prompts, use_cache):
    model = load(main_checkpoint)
    lengths = []
    model.model.layers[0].register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    engine = TransformersEngine(model, tokenizer, max_new_tokens=4, use_cache=use_cache)
    engine.generate(prompts[:1])
    prompt = len(tokenizer(prompts[0])["input_ids"])
    assert lengths == ([prompt, 1, 1, 1] if use_cache else [prompt, prompt + 1, prompt + 2, prompt + 3])


def test_the_tokens_of_a_batch_end_with_the_end_of_sequence_and_hold_no_padding(engine, prompts, tokenizer):
    rows = tokens(engine.generate(prompts))
    assert len({len(row) for row in rows}) > 4
    for row in rows:
        assert row.count(EOS) == 1
        assert row[-1] == EOS
        assert tokenizer.pad_token_id not in row


def test_a_pad_token_that_is_the_end_of_sequence_is_no_part_of_the_tokens(main_checkpoint, one_by_one, prompts):
    tokenizer = load_tokenizer(main_checkpoint)
    tokenizer.pad_token = tokenizer.eos_token
    engine = TransformersEngine(load(main_checkpoint), tokenizer, max_new_tokens=LENGTH)
    assert tokens(engine.generate(prompts[:8])) == tokens(one_by_one[:8])


def test_no_headline_has_more_than_max_new_tokens(main_checkpoint, tokenizer, one_by_one, prompts):
    short = TransformersEngine(load(main_checkpoint), tokenizer, max_new_tokens=5)
    assert tokens(short.generate(prompts)) == [row[:5] for row in tokens(one_by_one)]


def test_a_checkpoints_own_generation_settings_are_ignored(main_copy, tokenizer, one_by_one, prompts):
    settings = {
        "do_sample": True,
        "temperature": 50.0,
        "top_k": 1000,
        "repetition_penalty": 9.0,
        "no_repeat_ngram_size": 1,
        "min_new_tokens": 24,
        "max_length": 3,
        "num_beams": 3,
        "suppress_tokens": [one_by_one[0].token_ids[0]],
        "use_cache": False,
        "eos_token_id": EOS,
    }
    (main_copy / "generation_config.json").write_text(json.dumps(settings))
    engine = TransformersEngine(load(main_copy), tokenizer, max_new_tokens=LENGTH)
    assert tokens(engine.generate(prompts[:4])) == tokens(one_by_one[:4])


def test_each_of_several_ends_of_sequence_ends_a_headline(main_copy, tokenizer, one_by_one, prompts):
    whole = one_by_one[0].token_ids
    (main_copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [EOS, whole[3]]}))
    engine = TransformersEngine(load(main_copy), tokenizer, max_new_tokens=LENGTH)
    first, second = tokens(engine.generate(prompts[:2]))
    assert first == whole[:4]
    assert second == one_by_one[1].token_ids


def test_the_tokenizers_end_of_sequence_serves_a_checkpoint_that_names_none(main_copy, tokenizer, one_by_one, prompts):
    (main_copy / "generation_config.json").write_text("{}")
    config = json.loads((main_copy / "config.json").read_text())
    (main_copy / "config.json").write_text(json.dumps(config | {"eos_token_id": None}))
    engine = TransformersEngine(load(main_copy), tokenizer, max_new_tokens=LENGTH)
    assert tokens(engine.generate(prompts[:2])) == tokens(one_by_one[:2])


# -- times -----------------------------------------------------------------------------------------------------------


def test_the_first_token_is_there_before_the_last(one_by_one):
    assert all(0 < g.first_token_seconds <= g.seconds for g in one_by_one)


def test_times_are_those_of_the_whole_call_and_of_its_first_pass(main_checkpoint, tokenizer, prompts, monkeypatch):
    model = load(main_checkpoint)
    passes = itertools.count(1)
    clock = SimpleNamespace(seconds=0)
    model.register_forward_hook(lambda *_: setattr(clock, "seconds", next(passes)))
    monkeypatch.setattr(module, "now", lambda device: clock.seconds)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock.seconds))
    engine = TransformersEngine(model, tokenizer, max_new_tokens=LENGTH)
    for batch in (prompts[:1], prompts[1:4]):
        generations = engine.generate(batch)
        longest = max(len(g.token_ids) for g in generations)
        assert {(g.seconds, g.first_token_seconds) for g in generations} == {(longest, 1)}


# -- likelihood ------------------------------------------------------------------------------------------------------


def test_likelihood_is_the_cross_entropy_of_the_headline_after_its_prompt(engine, main_model, tokenizer, news, prompts):
    article = news[3]
    prompt = tokenizer(prompts[3])["input_ids"]
    headline = tokenizer(completion_for(article.headline), add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = main_model(torch.tensor([prompt + headline])).logits[0]
    logarithms = logits.log_softmax(-1)
    expected = -sum(logarithms[len(prompt) - 1 + i, token].item() for i, token in enumerate(headline)) / len(headline)
    assert engine.texts.likelihood([prompts[3]], [completion_for(article.headline)]) == [
        pytest.approx(expected, rel=1e-4)
    ]


def test_likelihood_does_not_depend_on_what_else_is_in_the_batch(engine, news, prompts):
    headlines = [article.headline for article in news]
    alone = [engine.texts.likelihood([p], [h])[0] for p, h in zip(prompts, headlines, strict=True)]
    together = engine.texts.likelihood(prompts, headlines)
    assert len(prompts) > READ_TOGETHER
    assert together == pytest.approx(alone, rel=1e-3, abs=1e-5)
    assert engine.texts.likelihood(prompts[::-1], headlines[::-1]) == pytest.approx(alone[::-1], rel=1e-3, abs=1e-5)


def test_likelihood_prefers_the_true_headline(engine, news, prompts):
    true = [article.headline for article in news]
    swapped = [*true[1:], true[0]]
    pairs = zip(engine.texts.likelihood(prompts, true), engine.texts.likelihood(prompts, swapped), strict=True)
    assert all(own < other for own, other in pairs)


# -- speculative decoding --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def target_model(target_checkpoint):
    return load(target_checkpoint)


@pytest.fixture(scope="module")
def target_alone(target_checkpoint, tokenizer, prompts):
    engine = TransformersEngine(load(target_checkpoint), tokenizer, max_new_tokens=LENGTH)
    return [engine.generate([prompt])[0] for prompt in prompts[:6]]


@pytest.fixture(scope="module", params=["main", "target"])
def speculative(request, target_checkpoint, main_checkpoint, tokenizer, prompts, main_model, target_model):
    """What the target wrote with a draft's help, and the plain model of that draft: the main model or its own twin."""
    draft = main_checkpoint if request.param == "main" else target_checkpoint
    engine = TransformersEngine(
        load(target_checkpoint), tokenizer, max_new_tokens=LENGTH, draft=load(draft), draft_tokens=DRAFT_TOKENS
    )
    generations = [engine.generate([prompt])[0] for prompt in prompts[:6]]
    return SimpleNamespace(generations=generations, draft=main_model if request.param == "main" else target_model)


def drafting(draft, prompt, headline):
    """Drafted and accepted tokens of a plain speculative loop that ends with `headline`.

    Each round drafts up to DRAFT_TOKENS, but always leaves a token for the target: it writes its own one after the
    drafted tokens that it agrees with, and the end of the sequence is its own even where it was drafted.
    """
    drafted = accepted = done = 0
    while done < len(headline):
        room = min(DRAFT_TOKENS, LENGTH - done - 1)
        proposal = greedy(draft, [*prompt, *headline[:done]], room)
        rest = headline[done:-1]
        agreed = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(proposal, rest, strict=False)))
        drafted += len(proposal)
        accepted += agreed
        done += agreed + 1
    return drafted, accepted


def test_the_tokens_are_those_of_the_target_alone_whatever_drafts(speculative, target_alone):
    assert tokens(speculative.generations) == tokens(target_alone)


def test_drafted_and_accepted_are_those_of_a_plain_speculative_loop(speculative, tokenizer, prompts):
    for generation, prompt in zip(speculative.generations, prompts, strict=False):
        expected = drafting(speculative.draft, tokenizer(prompt)["input_ids"], list(generation.token_ids))
        assert (generation.drafted, generation.accepted) == expected


@pytest.mark.parametrize("speculative", ["target"], indirect=True)
def test_a_twin_of_the_target_has_all_drafts_accepted_but_the_end_of_the_sequence(speculative):
    assert {g.drafted - g.accepted for g in speculative.generations} <= {0, 1}
    assert all(g.accepted > len(g.token_ids) / 2 for g in speculative.generations)


def test_drafting_stops_at_max_new_tokens(target_checkpoint, main_checkpoint, tokenizer, target_alone, prompts):
    engine = TransformersEngine(
        load(target_checkpoint), tokenizer, max_new_tokens=7, draft=load(main_checkpoint), draft_tokens=DRAFT_TOKENS
    )
    generation = engine.generate(prompts[:1])[0]
    assert generation.token_ids == target_alone[0].token_ids[:7]
    assert 0 <= generation.accepted < 7


def test_without_a_draft_nothing_is_drafted(one_by_one):
    assert {(g.drafted, g.accepted) for g in one_by_one} == {(0, 0)}


# -- what it says of itself ------------------------------------------------------------------------------------------


def linear_weights(model):
    return [m.weight for m in model.model.layers.modules() if isinstance(m, torch.nn.Linear)]


def test_the_weights_of_a_plain_model_are_its_parameters_and_buffers(engine, main_model):
    buffers = sum(b.numel() * 4 for b in main_model.buffers())
    parameters = sum(p.numel() for p in main_model.parameters())
    assert engine.info.parameters == parameters
    assert engine.info.weights_bytes == 4 * parameters + buffers
    assert engine.info.details == {}


@pytest.mark.parametrize("kind", ["int8", "fp4", "nf4"])
def test_quantised_weights_are_counted_with_their_scales(main_checkpoint, tokenizer, engine, main_model, kind):
    model = load(main_checkpoint, quantization=bitsandbytes_config(kind, "float32"))
    info = TransformersEngine(model, tokenizer, max_new_tokens=LENGTH).info
    weights = linear_weights(main_model)
    count = sum(w.numel() for w in weights)
    others = engine.info.weights_bytes - 4 * count
    # a float32 scale for each row of int8 weights, and for each block of 64 weights of 4 bits
    quantised = count + 4 * sum(len(w) for w in weights) if kind == "int8" else count // 2 + 4 * count // 64
    assert info.weights_bytes == others + quantised
    assert info.weights_bytes < engine.info.weights_bytes
    assert info.parameters == engine.info.parameters


def test_a_draft_counts_with_its_target(main_checkpoint, target_checkpoint, tokenizer, engine):
    alone = TransformersEngine(load(target_checkpoint), tokenizer, max_new_tokens=LENGTH).info
    drafting = TransformersEngine(
        load(target_checkpoint), tokenizer, max_new_tokens=LENGTH, draft=load(main_checkpoint), draft_tokens=5
    ).info
    assert drafting.parameters == alone.parameters + engine.info.parameters
    assert drafting.weights_bytes == alone.weights_bytes + engine.info.weights_bytes


def test_a_techniques_own_figures_are_passed_on(main_checkpoint, tokenizer):
    engine = TransformersEngine(load(main_checkpoint), tokenizer, max_new_tokens=1, details={"sparsity": 0.5})
    assert engine.info.details == {"sparsity": 0.5}


def test_close_lets_go_of_the_model(main_checkpoint, tokenizer, prompts):
    engine = TransformersEngine(load(main_checkpoint), tokenizer, max_new_tokens=2)
    engine.generate(prompts[:1])
    model = weakref.ref(engine._model)
    engine.close()
    gc.collect()
    assert model() is None
